"""A file of the data folder that is damaged or gone when the server starts, as a power failure, a
full disk or a careless hand may leave it.

The server recovers from its other tables and the log, or it stops and says what is wrong; never
does it go on as if nothing were missing. Once the file is back, all is as it was.
"""

import json
import os
import random
import re
import shutil
from types import SimpleNamespace

import pytest
from adbc_driver_manager import InternalError

import projects
from harness import Sluice, until
from histories import PROJECT, History, Producer, orders
from load import seeds, verify
from test_ingest import connect, publish

REFUSED_S = 60
SEALED_S = 30
EVENTS_MAX = 2_000


@pytest.fixture(scope="module", params=seeds())
def lake(request, tmp_path_factory, protocol):
    """A data folder with checkpoints whose server was stopped, and the history of its events."""
    home = tmp_path_factory.mktemp("lake")
    project = projects.write(home / "project", PROJECT)
    server = Sluice(home, project)
    server.settings = {"SLUICE__PROCESS__SEAL_INTERVAL_MS": "1"}
    history = History(home / "history.ndjson")
    made = random.Random(request.param)
    producer = Producer(server, protocol, history, "one", made)
    known = []
    events = orders(made, "one", known)
    bronze, silver = (server.data_dir / "lake" / name for name in ("bronze/orders", "silver/lines"))
    try:
        server.start()
        while not (pointer_of(bronze).exists() and pointer_of(silver).exists()):
            before = commits_of(silver)
            batch = [next(events) for _ in range(10)]
            assert len(known) < EVENTS_MAX and producer.send(batch)
            known += batch
            until(lambda: commits_of(silver) > before, SEALED_S, "a commit of silver.lines")
        server.wait()
        server.stop()
    finally:
        server.close()
    history.write()
    yield SimpleNamespace(data=server.data_dir, project=project, history=history, protocol=protocol)


def pointer_of(table):
    return table / "_delta_log" / "_last_checkpoint"


def commits_of(table):
    return len(list((table / "_delta_log").glob("*.json")))


@pytest.fixture
def copy(servers, lake, home):
    """A server, not started, on a copy of that folder."""
    server = servers(lake.project, home=home)
    shutil.copytree(lake.data, server.data_dir)
    return server


# -- the newest file of each kind


def data_file(table):
    def find(data):
        files = (data / "lake" / table).glob("*.parquet")
        return max(files, key=lambda file: file.stat().st_mtime_ns)

    return find


def commit(table):
    return lambda data: max((data / "lake" / table / "_delta_log").glob("*.json"))


def checkpoint(table):
    return lambda data: max((data / "lake" / table / "_delta_log").glob("*.parquet"))


def pointer(table):
    return lambda data: pointer_of(data / "lake" / table)


def journal(data):
    return max((data / "log").glob("*.jnl"))


# -- what becomes of it


def half(file):
    os.truncate(file, used(file) // 2)


def cut(file):
    """Without its last bytes."""
    os.truncate(file, used(file) - 10)


def used(file):
    """Bytes before the room that a journal keeps for what is to come."""
    return len(file.read_bytes().rstrip(b"\0"))


def empty(file):
    os.truncate(file, 0)


def gone(file):
    file.unlink()


def garbage(file):
    file.write_bytes(b"\x00garbage")


def flipped(file):
    """One byte in the middle is another one."""
    at = used(file) // 2
    with open(file, "r+b") as open_file:
        open_file.seek(at)
        [byte] = open_file.read(1)
        open_file.seek(at)
        open_file.write(bytes([byte ^ 0xFF]))


def named(cases, full=()):
    """The cases under their names; those of `full` are for the longer campaign."""
    named = []
    for place, *case in cases:
        name = f"{place} {case[1].__name__}"
        marks = [pytest.mark.full] if name in full else []
        named.append(pytest.param(*case, id=name, marks=marks))
    assert set(full) <= {param.id for param in named}
    return named


# The server stops, and names the file.
STOPS = [
    ("bronze file", data_file("bronze/orders"), half, "bronze.orders: rows cannot be read: "),
    ("bronze file", data_file("bronze/orders"), empty, "bronze.orders: rows cannot be read: "),
    ("bronze file", data_file("bronze/orders"), gone, "bronze.orders: rows cannot be read: "),
    ("acceptance file", data_file("_acceptance/orders"), half, "_acceptance.orders: rows cannot"),
    ("acceptance file", data_file("_acceptance/orders"), gone, "_acceptance.orders: rows cannot"),
    ("bronze commit", commit("bronze/orders"), half, "table bronze.orders: its log cannot"),
    ("silver commit", commit("silver/lines"), half, "table silver.lines: its log cannot"),
    ("checkpoint", checkpoint("bronze/orders"), half, "table bronze.orders: its log cannot"),
    ("checkpoint", checkpoint("bronze/orders"), gone, "_last_checkpoint names it"),
    # Acceptance has decided on records that Bronze does not hold any more.
    ("bronze commit", commit("bronze/orders"), empty, "commit_missing: bronze.orders ends before"),
    ("bronze commit", commit("bronze/orders"), gone, "commit_missing: bronze.orders ends before"),
]
MORE_STOPS = ["bronze file empty", "acceptance file half", "bronze commit gone"]
# The same, and the checker finds nothing: the lake has all that the log had.
LOG_STOPS = [
    ("journal", journal, cut, "log_replaced"),
    ("journal", journal, half, "log_replaced"),
    ("journal", journal, empty, "log_replaced"),
    ("journal", journal, gone, "log_replaced"),
    ("journal", journal, flipped, "{data}/log"),
]
# The server goes on: what was in the file follows from other tables.
RECOVERS = [
    ("acceptance commit", commit("_acceptance/orders"), empty),
    ("acceptance commit", commit("_acceptance/orders"), gone),
    ("silver commit", commit("silver/lines"), empty),
    ("silver commit", commit("silver/lines"), gone),
    ("gold commit", commit("gold/latest"), gone),
]
MORE_RECOVERS = ["acceptance commit gone", "silver commit gone"]
# Nothing is missing without it.
NOT_NEEDED = [
    ("checkpoint pointer", pointer("bronze/orders"), garbage),
    ("checkpoint pointer", pointer("bronze/orders"), empty),
    ("checkpoint pointer", pointer("silver/lines"), garbage),
]
# The server goes on beside it; who asks for the table is told.
ASKED = [
    ("silver file", data_file("silver/lines"), half),
    ("silver file", data_file("silver/lines"), gone),
]


@pytest.mark.parametrize(("find", "damage", "word"), named(STOPS, MORE_STOPS))
def test_a_server_stops_at_damage_that_it_cannot_mend(copy, lake, find, damage, word):
    file = find(copy.data_dir)
    damage(file)
    code, report, said = verify(copy, lake.project, lake.history.path)
    assert code == 1 and "panicked" not in said
    assert not report["green"] and report["findings"], said
    if "commit_missing" not in word:
        # One finding, not all that follows from a file that was not read.
        [found] = report["findings"]
        assert file.name in found["samples"][0] and report["not_compared"], said
    stops_until_it_is_back(copy, lake, file, word, file)


@pytest.mark.parametrize(("find", "damage", "word"), named(LOG_STOPS, ["journal half", "journal gone"]))
def test_a_server_stops_at_a_damaged_log(copy, lake, find, damage, word):
    """Where it concerns one of the two streams only, that one stops, and the other goes on."""
    file = find(copy.data_dir)
    damage(file)
    word = word.format(data=copy.data_dir)
    copy.launch()
    ready = re.compile(r"^ready\b", re.MULTILINE)
    until(lambda: not copy.running() or ready.search(copy.output()), REFUSED_S, "an end or a start")
    if not copy.running():
        stops_until_it_is_back(copy, lake, file, word)
        return
    copy.started()
    stopped = copy.sql("SELECT DISTINCT stream, why FROM system.streams WHERE state = 'stopped'")
    assert len(stopped) == 1 and word in stopped[0][1], stopped
    copy.stop()
    bring_back(copy, lake, file)
    copy.start()
    goes_on(copy, lake)


def stops_until_it_is_back(server, lake, file, *words):
    done = server.refusal(REFUSED_S)
    assert done.returncode == 1, done
    assert "ready" not in done.stdout
    *_, told = done.stderr.splitlines()
    for word in words:
        assert str(word) in told, done.stderr
    assert not re.search(r"^ +\d+: ", done.stderr, re.MULTILINE), "a stack trace"
    # A start that failed has changed nothing.
    bring_back(server, lake, file)
    server.start()
    goes_on(server, lake)


def bring_back(server, lake, file):
    if "log" in file.relative_to(server.data_dir).parts[:1]:
        shutil.rmtree(server.data_dir / "log")
        shutil.copytree(lake.data / "log", server.data_dir / "log")
    else:
        shutil.copy2(lake.data / file.relative_to(server.data_dir), file)


@pytest.mark.parametrize(("find", "damage"), named(RECOVERS, MORE_RECOVERS))
def test_a_server_makes_good_what_other_tables_tell(copy, lake, find, damage):
    damage(find(copy.data_dir))
    code, report, _ = verify(copy, lake.project, lake.history.path)
    assert code == 1 and report["findings"]
    copy.start()
    goes_on(copy, lake)


@pytest.mark.parametrize(("find", "damage"), named(NOT_NEEDED))
def test_a_server_does_without_the_pointer_to_a_checkpoint(copy, lake, find, damage):
    damage(find(copy.data_dir))
    copy.start()
    goes_on(copy, lake)


@pytest.mark.parametrize(("find", "damage"), named(ASKED))
def test_who_asks_for_a_damaged_table_is_told(copy, lake, find, damage):
    file = find(copy.data_dir)
    damage(file)
    code, report, said = verify(copy, lake.project)
    [found] = report["findings"]
    assert code == 1 and found["place"] == "silver.lines" and file.name in found["samples"][0], said
    copy.start()
    with pytest.raises(InternalError, match="the lake cannot be read"):
        copy.sql("SELECT sum(version) FROM silver.lines")
    until(lambda: f"for file {file}" in copy.output(), SEALED_S, "the server to name the file")
    assert copy.sql("SELECT count(*) > 0 FROM bronze.orders") == [(True,)]
    shutil.copy2(lake.data / file.relative_to(copy.data_dir), file)
    goes_on(copy, lake)


def test_the_checker_tells_what_a_torn_log_lost(servers, lake, home):
    """What was acked and stood nowhere but in a file that was cut cannot be known by the server."""
    server = servers(lake.project)
    server.settings = {"SLUICE__PROCESS__SEAL_INTERVAL_MS": "600000"}
    server.start()
    history = History(home / "history.ndjson")
    made = random.Random(1)
    producer = Producer(server, lake.protocol, history, "one", made)
    events = orders(made, "one", [])
    for _ in range(10):
        assert producer.send([next(events) for _ in range(10)])
    server.kill9()
    cut(journal(server.data_dir))
    server.start()
    server.wait()
    [(left,)] = server.sql("SELECT count(*) FROM bronze.orders")
    server.stop()
    code, report, said = verify(server, lake.project, history.write())
    assert code == 1, said
    [lost] = [finding for finding in report["findings"] if finding["kind"] == "lost"]
    assert lost["count"] == 100 - left > 0
    assert [finding["kind"] for finding in report["findings"]] == ["lost"]


def goes_on(server, lake):
    """More events are taken, and the checker finds all of them and all from before."""
    same = {"customer": "ann", "version": 1, "amount": "1"}
    more = [{"event_id": f"more:{n}", "order_id": f"more-{n}", **same} for n in range(20)]
    history = shutil.copy2(lake.history.path, server.home / "history.ndjson")
    with connect(server) as channel:
        assert publish(lake.protocol, channel, more).accepted == len(more)
    with open(history, "a") as file:
        for event in more:
            told = {"stream": "orders", "event_id": event["event_id"], "outcome": "acked"}
            file.write(json.dumps(told) + "\n")
    server.wait()
    server.stop()
    code, report, said = verify(server, lake.project, history)
    assert code == 0 and report["green"] and report["not_compared"] == [], said
