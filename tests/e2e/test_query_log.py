"""The log of queries: the made-up stand-in against figures that Python computes, lists of ids of
every form, fits of few points, and the real sample pushed in another order (QL-04, QL-24)."""

import gzip
import json
import random
import runpy
import shutil
from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet
import pytest

from harness import Sluice, run, same_rows
from histories import verified
from query_log import (
    DATA,
    FIXTURE,
    STAND_IN,
    STORY,
    TYPES,
    WARNINGS,
    WRITING,
    broken,
    fits,
    fixture,
    ids,
    number,
    stand_in,
    time_of,
    wanted_tables,
)


def assert_fits(server):
    points = server.table("SELECT num_joins, avg_compile_ms FROM gold.compile_time_vs_num_joins")
    points = [(row["num_joins"], row["avg_compile_ms"]) for row in points.to_pylist()]
    wanted = fits(points)
    found = server.table("SELECT * FROM gold.join_fits").to_pylist()
    assert {row["model"]: row["r_squared"] for row in found} == pytest.approx(wanted, rel=1e-9)
    best = max(wanted, key=wanted.get)
    assert [row["model"] for row in found if row["is_best"]] == [best]


# -- events of a test's own

def event(number, **said):
    row = {**fixture()[0], "query_id": number, **said}
    assert row.keys() == stand_in()[0].keys()
    return row


def push(server, home, events):
    """Pushes, waits, and returns the report."""
    file = home / f"{len(list(home.glob('*.ndjson')))}.ndjson"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    report = server.push(STORY.stream, file).finish()
    server.wait()
    return report


@pytest.fixture
def server(servers):
    return servers(project=STORY.project).start()


# -- the stand-in

def test_the_stand_in_is_what_its_script_writes():
    """The text, since not every machine compresses alike."""
    text = runpy.run_path(str(DATA / "stand_in.py"))["text"]()
    assert gzip.decompress(STAND_IN.read_bytes()).decode() == text


def test_the_stand_in_has_the_quirks_of_a_real_log():
    rows = stand_in()
    assert list(rows[0]) == list(fixture()[0])
    assert 3_000 < len(rows) == len({(row["instance_id"], row["query_id"]) for row in rows})
    assert len({row["query_id"] for row in rows}) < len(rows) / 2
    times = [time_of(row) for row in rows]
    assert 0.4 < out_of_order(times) / len(times) < 0.6
    days = Counter(time.date() for time in times)
    assert len(days) == 90 and max(days.values()) > len(rows) / 10
    fractions = {len(row["arrival_timestamp"].split(".")[1]) for row in rows}
    assert fractions == {2, 3, 4, 5, 6}
    cached = [row for row in rows if row["was_cached"] == "1"]
    assert {row["query_type"] for row in cached} == {"other"}
    empty = ["compile_duration_ms", "num_permanent_tables_accessed", "read_table_ids"]
    assert not any(row[name] for row in cached for name in [*empty, "write_table_ids"])
    assert all(row["cache_source_query_id"].endswith(".0") for row in cached)
    assert {row["query_type"] for row in rows} == TYPES
    assert sum(row["was_aborted"] == "1" for row in rows) > 10
    lists = [(ids(row["read_table_ids"]), ids(row["write_table_ids"])) for row in rows]
    assert any(set(reads or []) & set(writes or []) for reads, writes in lists)
    named = {table for pair in lists for tables in pair for table in tables or []}
    assert {100, 2000} <= named
    assert {rule for row in rows for rule in broken(row)} == WARNINGS


@pytest.fixture(scope="module")
def filled(tmp_path_factory, new_log):
    """The stand-in and the fixture, then both again in another order."""
    home = tmp_path_factory.mktemp("stand-in")
    server = Sluice(home, project=STORY.project, kept_in=new_log())
    try:
        server.start()
        server.push(STORY.stream, STAND_IN).finish()
        server.push(STORY.stream, FIXTURE).finish()
        server.wait()
        server.before = server.sql("SELECT * FROM quarantine.query_log")
        again = stand_in() + fixture()
        random.Random(5).shuffle(again)
        server.again = push(server, home, again)
        yield server
    finally:
        server.close()


def test_what_comes_again_is_a_repeat(filled):
    lines = len(stand_in()) + len(fixture())
    same_rows(filled.sql("SELECT * FROM quarantine.query_log"), filled.before)
    assert (filled.again["lines"], filled.again["accepted"]) == (lines, 0), filled.again


def test_every_table_holds_what_the_files_say(filled):
    wrong = []
    for sql, rows in wanted_tables(stand_in() + fixture()).items():
        try:
            same_rows(filled.sql(sql), rows)
        except AssertionError as error:
            wrong.append(f"{sql}: {error}")
    assert not wrong, "\n".join(wrong)


def test_the_fits_are_those_of_least_squares(filled):
    assert_fits(filled)


def test_the_lake_of_the_stand_in_keeps_its_promises(filled):
    report = verified(filled, STORY.project)
    assert report["green"] and report["not_compared"] == [], report


def test_parquet_in_another_order_gives_the_same_tables(server, home, filled):
    """Text as large_string, whole numbers with nulls as doubles, as Redset has them."""
    rows = stand_in()
    random.Random(6).shuffle(rows)
    texts = {"feature_fingerprint", "query_type", "read_table_ids", "write_table_ids"}
    columns = {}
    for name in rows[0]:
        values = [row[name] or None for row in rows]
        if name == "arrival_timestamp":
            columns[name] = pa.array([time_of(row) for row in rows], pa.timestamp("us"))
        elif name in texts:
            columns[name] = pa.array(values, pa.large_string())
        elif None in values or "." in values[0]:
            columns[name] = pa.array([number(value) for value in values], pa.float64())
        else:
            columns[name] = pa.array([int(value) for value in values], pa.int64())
    file = home / "stand_in.parquet"
    pa.parquet.write_table(pa.table(columns), file)
    report = server.push(STORY.stream, file).finish()
    assert (report["accepted"], report["refused"]) == (len(rows), 0)
    server.wait()
    of_files = "SELECT * FROM silver.queries WHERE instance_id <> 900"
    same_rows(server.sql(of_files), filled.sql(of_files))


# -- in arrays

def assert_records(server, count):
    [(found,)] = server.sql(
        "SELECT count(DISTINCT concat(_partition, '/', _offset)) FROM bronze.query_log"
    )
    assert found == count


def test_arrays_hold_the_same_events(server, home, filled):
    """The stand-in and the fixture in arrays, a kill, all again row by row and in other arrays."""
    lines, more = len(stand_in()), len(fixture())
    report = server.push(STORY.stream, STAND_IN, "--as-arrays", 800).finish()
    found = [report[name] for name in ("lines", "acked", "records", "accepted", "refused")]
    assert found == [lines, lines, -(-lines // 800), lines, 0], report
    assert server.push(STORY.stream, FIXTURE, "--as-arrays", 5).finish()["records"] == 4
    server.wait()
    records = report["records"] + 4
    assert_records(server, records)
    server.kill9()
    server.start()
    report = server.push(STORY.stream, STAND_IN, "--as-arrays", 333).finish()
    assert (report["accepted"], report["repeats"]) == (0, lines), report
    report = server.push(STORY.stream, FIXTURE).finish()
    assert (report["records"], report["accepted"], report["acked"]) == (None, 0, more), report
    server.wait()
    assert_records(server, records + -(-lines // 333) + more)
    for sql, rows in wanted_tables(stand_in() + fixture()).items():
        same_rows(server.sql(sql), rows)
    set_aside = "SELECT decoded['query_id'], rules, message FROM quarantine.query_log"
    same_rows(server.sql(set_aside), filled.sql(set_aside))
    report = verified(server, STORY.project)
    assert report["green"] and report["not_compared"] == [], report


def test_the_sample_in_arrays_gives_the_same_figures(server):
    """QL-22: arrays of 800, as the real system sends them."""
    STORY.skip_without_base()
    report = server.push(STORY.stream, STORY.base, "--as-arrays", 800).finish()
    assert (report["lines"], report["accepted"], report["records"]) == (STORY.lines, STORY.lines, 11)
    server.wait()
    assert_records(server, 11)
    STORY.assert_figures(server, "base")
    fixes = STORY.project / "data" / "fixtures" / STORY.fixes_file
    server.push(STORY.stream, fixes, "--as-arrays", 800).finish()
    server.wait()
    STORY.assert_figures(server, "fixed")
    STORY.assert_quarantine(server)


# -- lists and fits of few points

def test_lists_of_ids_of_every_form(server, home):
    forms = {
        " 12 , 7,300 ": ([12, 7, 300], [12, 7, 300]),
        "7,7,12,7": ([7, 7, 12, 7], [7, 12]),
        "100,2000,0,1000": ([100, 2000, 0, 1000], [100, 2000, 0, 1000]),
        "12,,7,": ([12, 7], [12, 7]),
        "": (None, []),
        "NaN": (None, []),
        None: (None, []),
    }
    events = [event(n, read_table_ids=text, was_aborted=1) for n, text in enumerate(forms)]
    bad = ["00", "1, 000", "0000 ,7", "5,00,7", "12,x", "1 2", "-3", "1;2", "9" * 19]
    events += [event(100 + n, read_table_ids=text) for n, text in enumerate(bad)]
    both = {"query_type": "insert", "read_table_ids": "5,6,6", "write_table_ids": " 6,9"}
    push(server, home, [*events, event(50, **both)])
    lists = "SELECT query_id, read_tables FROM silver.queries WHERE query_id < 50"
    same_rows(server.sql(lists), [(n, listed) for n, (listed, _) in enumerate(forms.values())])
    refs = "SELECT query_id, table_id, was_read, was_written FROM silver.table_refs"
    named = [(n, table, True, False) for n, (_, few) in enumerate(forms.values()) for table in few]
    of_both = [(50, 5, True, False), (50, 6, True, True), (50, 9, False, True)]
    same_rows(server.sql(refs), named + of_both)
    same_rows(server.sql("SELECT rules FROM quarantine.query_log"), [(["R5"],)] * len(bad))


def test_rules_at_their_edges(server, home):
    """What stands on either side of each rule that warns, and several rules at once."""
    none = {"read_table_ids": None, "write_table_ids": None}
    cases = [
        ({**none}, "R3"),
        ({**none, "was_aborted": 1}, None),
        ({**none, "num_permanent_tables_accessed": 0.0}, None),
        ({**none, "num_permanent_tables_accessed": None}, None),
        ({**none, "read_table_ids": " , "}, "R3"),
        *(({**none, "query_type": kind}, "R4") for kind in sorted(WRITING)),
        ({**none, "query_type": "insert", "was_aborted": 1}, None),
        ({**none, "query_type": "vacuum"}, None),
        ({"execution_duration_ms": 0}, "R7"),
        ({"execution_duration_ms": 0, "was_cached": 1}, None),
        ({"execution_duration_ms": 0, "was_aborted": 1}, "R7"),
        ({**none, "execution_duration_ms": 0}, "R3 | R7"),
        ({**none, "query_type": "SELECT"}, "R2"),
        ({**none, "query_type": "copy", "write_table_ids": "00"}, "R5"),
        ({**none, "execution_duration_ms": -1, "num_scans": None}, "R1 | R3 | R6"),
        ({"execution_duration_ms": 0, "num_joins": 1.5}, "R1 | R7"),
        ({"was_cached": 2}, "R1"),
        ({"arrival_timestamp": "9999-12-31 23:59:59"}, "R1"),
        ({"num_joins": 2**63 - 1}, "R1"),
        ({"was_cached": None, "was_aborted": None}, "R1"),
    ]
    push(server, home, [event(n, **said) for n, (said, _) in enumerate(cases)])
    set_aside = {"R1", "R2", "R5", "R6"}
    wanted = [
        (n, rules, "quarantined" if set(rules.split(" | ")) & set_aside else "kept")
        for n, (_, rules) in enumerate(cases)
        if rules
    ]
    found = "SELECT query_id, anomaly_description, disposition FROM gold.anomalies"
    same_rows(server.sql(found), wanted)


def test_anomalies_follow_decisions_about_the_quarantine(servers, home):
    """What a mended contract takes keeps its warning alone; what is discarded is gone."""
    project = home / "project"
    shutil.copytree(STORY.project, project)
    server = servers(project=project).start()
    merge = event(1, query_type="merge", execution_duration_ms=0)
    push(server, home, [merge, event(2, execution_duration_ms=-1), event(3, query_type="nothing")])
    described = "SELECT query_id, anomaly_description, disposition FROM gold.anomalies"
    set_aside = [(1, "R2 | R7", "quarantined"), (2, "R6", "quarantined"), (3, "R2", "quarantined")]
    same_rows(server.sql(described), set_aside)
    contract = project / "streams" / "query_log.yml"
    text = contract.read_text()
    assert "vacuum]" in text
    contract.write_text(text.replace("vacuum]", "vacuum, merge]"))
    server.restart()
    decide = ["quarantine", "replay", STORY.stream, "--all", "--url", server.http_url]
    run(home, *decide)
    decide = ["quarantine", "discard", STORY.stream, "--rule", "R6", "--url", server.http_url]
    assert run(home, *decide, "--reason", "a clock went back").returncode == 0
    server.wait()
    same_rows(server.sql(described), [(1, "R7", "kept"), (3, "R2", "quarantined")])


def test_of_two_events_of_a_query_the_first_accepted_counts(server, home):
    bad = event(1, user_id=5, query_type="merge")
    good = [event(1, user_id=user) for user in (6, 7)]
    other = event(1, user_id=8, instance_id=901)
    for one in [bad, *good, other]:
        push(server, home, [one])
    users = "SELECT instance_id, query_id, user_id FROM silver.queries"
    same_rows(server.sql(users), [(900, 1, 6), (901, 1, 8)])
    same_rows(server.sql("SELECT rules FROM quarantine.query_log"), [(["R2"],)])


def test_fits_of_few_points_are_null(server, home):
    fitted = "SELECT model, r_squared, is_best FROM gold.join_fits"
    nothing = [(model, None, False) for model in ("linear", "quadratic", "exponential")]
    steps = [
        [],
        [event(1, num_joins=0, compile_duration_ms=5.5)],
        [event(2, num_joins=4, compile_duration_ms=9.0)],
    ]
    for n, events in enumerate(steps):
        push(server, home, [*events, event(100 + n, query_type="vacuum")])
        same_rows(server.sql(fitted), nothing)
    push(server, home, [event(3, num_joins=9, compile_duration_ms=2.5)])
    assert_fits(server)
    push(server, home, [event(4, num_joins=30, compile_duration_ms=1e6)])
    assert_fits(server)


def test_fits_of_points_of_one_height_are_null(server, home):
    push(server, home, [event(n, num_joins=n, compile_duration_ms=0.1) for n in range(7)])
    fitted = "SELECT r_squared, is_best FROM gold.join_fits"
    same_rows(server.sql(fitted), [(None, False)] * 3)


# -- in another order

def out_of_order(times):
    """Adjacent rows that go back in time."""
    return sum(after < before for before, after in pairwise(times))


SORTED = ["--sort-by", "arrival_timestamp", "--batch-rows", 800]


def test_a_sorted_push_tells_how_the_file_was_and_sends_it_in_order(server, filled):
    report = server.push(STORY.stream, STAND_IN, *SORTED).finish()
    assert report["out_of_order"] == out_of_order([time_of(row) for row in stand_in()])
    server.wait()
    of_files = "SELECT * FROM silver.queries WHERE instance_id <> 900"
    same_rows(server.sql(of_files), filled.sql(of_files))
    back = """
        SELECT count(*) FROM (
          SELECT arrival_timestamp, lag(arrival_timestamp)
            OVER (PARTITION BY _partition ORDER BY _offset, _index) AS before
          FROM bronze.query_log
        ) AS events WHERE arrival_timestamp < before"""
    same_rows(server.sql(back), [(0,)])


def test_the_sample_tells_how_often_it_goes_back_in_time(server):
    """QL-04."""
    STORY.skip_without_base()
    report = server.push(STORY.stream, STORY.base, *SORTED).finish()
    assert (report["lines"], report["out_of_order"]) == (STORY.lines, 4096)
    server.wait()
    STORY.assert_figures(server, "base")


def test_the_sample_in_any_order_gives_the_same_figures(server, home):
    """QL-24; a push that is repeated, and killed inside, is a world of `test_stories`."""
    STORY.skip_without_base()
    first, *lines = gzip.decompress(STORY.base.read_bytes()).splitlines(keepends=True)
    random.Random(7).shuffle(lines)
    file = home / "shuffled.csv"
    file.write_bytes(first + b"".join(lines))
    for _ in range(2):
        report = server.push(STORY.stream, file).finish()
        assert (report["lines"], report["refused"]) == (STORY.lines, 0)
        server.wait()
        STORY.assert_figures(server, "base")
