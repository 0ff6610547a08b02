"""What is acked or committed survives a power failure: the order of fsync in the system calls of a
server, and rules for that order that can fail.
"""

import json
import random
import re

import pytest

import projects
import syscalls
from harness import until
from histories import LINES, STREAM, orders
from syscalls import calls
from test_ingest import connect, publish

SEED = 5
BATCHES = 40
PROJECT = {
    "sluice.yml": "name: durability\n",
    "streams/orders.yml": STREAM.replace("partitions: 3", "partitions: 1"),
    "models/silver/lines.sql": LINES,
}


@pytest.fixture
def traced(servers, home):
    """A server whose system calls are written down, on a project of one partition."""

    def start(**settings):
        server = servers(projects.write(home / "project", PROJECT))
        server.settings = {f"SLUICE__{name}": str(value) for name, value in settings.items()}
        server.trace = home / "trace"
        server.prefix = syscalls.traced(server.trace)
        return server.start()

    return start


def publish_all(protocol, server):
    """Publishes batch after batch, each once the one before is acked, in any case some."""
    made = orders(random.Random(SEED), "one", [])
    with connect(server) as channel:
        for _ in range(BATCHES):
            result = publish(protocol, channel, [next(made) for _ in range(20)])
            assert result.accepted == 20
    server.wait()


def found(server):
    """The calls of a server that ended."""
    # strace writes the end of the process last.
    last = re.compile(rf"^{server.process.pid} +\+\+\+ ", re.MULTILINE)
    until(lambda: last.search(server.trace.read_text()), 10, "the end of the trace")
    return calls(server.trace.read_text().splitlines())


def committed(server, table):
    """The commits of a table that add rows: (file in `_delta_log`, the data files that it adds)."""
    folder = server.data_dir / "lake" / table
    by_commit = {}
    for commit in sorted((folder / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        added = [folder / action["add"]["path"] for action in actions if "add" in action]
        by_commit[commit] = added
    return by_commit


def test_an_ack_follows_the_fsync_of_the_log(traced, protocol):
    server = traced()
    publish_all(protocol, server)
    server.stop()
    seen = found(server)
    [journal] = (server.data_dir / "log").glob("*.jnl")
    assert len(syscalls.acks(seen, server.addresses["ingest"])) >= BATCHES
    assert len(syscalls.writes(seen, journal)) >= BATCHES
    assert syscalls.late_acks(seen, server.addresses["ingest"], journal) == []


def test_a_commit_follows_the_fsync_of_its_files_and_the_log_is_trimmed_last(traced, protocol):
    server = traced(PROCESS__SEAL_INTERVAL_MS=50, LOG__SEGMENT_BYTES=4_000)
    publish_all(protocol, server)
    server.stop()
    seen = found(server)
    commits = committed(server, "bronze/orders")
    assert sum(bool(added) for added in commits.values()) >= 3
    for table in ("bronze/orders", "_acceptance/orders", "quarantine/orders", "silver/lines"):
        for commit, added in committed(server, table).items():
            assert syscalls.loose_commits(seen, commit, added) == []
    segments = server.data_dir / "log" / "keyspaces"
    assert len(syscalls.going(seen, segments)) >= 3
    assert syscalls.early_trims(seen, segments, list(commits)) == []


def test_the_folders_of_log_and_lake_have_durable_names(traced, protocol):
    server = traced(LOG__SEGMENT_BYTES=4_000, PROCESS__SEAL_INTERVAL_MS=50)
    publish_all(protocol, server)
    server.stop()
    seen = found(server)
    segments = server.data_dir / "log" / "keyspaces"
    assert len(syscalls.made_in(seen, segments)) >= 5
    assert syscalls.loose_folders(seen, server.data_dir) == []
    assert syscalls.early_acks(seen, server.addresses["ingest"], segments) == []


def test_durability_os_syncs_nothing(traced, protocol):
    server = traced(SERVER__DURABILITY="os", PROCESS__SEAL_INTERVAL_MS=50)
    publish_all(protocol, server)
    server.kill9()  # a stop would close the log, which syncs it
    seen = found(server)
    first = syscalls.acks(seen, server.addresses["ingest"])[0]
    synced = [call for call in seen if call.name in ("fsync", "fdatasync")]
    assert [call for call in synced if first.before(call)] == []
    assert [call for call in synced if "/lake/" in call.file] == []
    assert any(committed(server, "bronze/orders").values())


# -- the rules can fail

ADDRESS = "127.0.0.1:50051"
ACKED = r"""
1 write(5</d/log/0.jnl>, "\x01"..., 100) = 100
1 fsync(5</d/log/0.jnl>) = 0
2 writev(9<TCP:[127.0.0.1:50051->127.0.0.1:40000]>, [{iov_base="\x00\x00\x00\x04\x01\x00\x00\x00\x00", iov_len=9}], 1) = 9
2 writev(9<TCP:[127.0.0.1:50051->127.0.0.1:40000]>, [{iov_base="\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88", iov_len=10}, {iov_base="\x00\x00\x02\x00\x00\x00\x00\x00\x01\x08\x01", iov_len=11}], 2) = 21
"""
COMMITTED = """
1 mkdir("/d/lake/t", 0777) = 0
1 fsync(4</d/lake>) = 0
1 mkdir("/d/lake/t/_delta_log", 0777) = 0
1 fsync(4</d/lake/t>) = 0
1 write(5</d/lake/t/a.parquet#1>, "P"..., 90 <unfinished ...>
2 mkdir("/d/log/keyspaces/2", 0777) = 0
1 <... write resumed>) = 90
1 fsync(6</d/lake/t/a.parquet#1>) = 0
1 rename("/d/lake/t/a.parquet#1", "/d/lake/t/a.parquet") = 0
1 fsync(6</d/lake/t>) = 0
1 write(7</d/lake/t/_delta_log/1.json#2>, "{}", 2) = 2
1 fsync(8</d/lake/t/_delta_log/1.json#2>) = 0
1 linkat(AT_FDCWD</x>, "/d/lake/t/_delta_log/1.json#2", AT_FDCWD</x>, "/d/lake/t/_delta_log/1.json", 0) = 0
1 fsync(8</d/lake/t/_delta_log>) = 0
3 unlinkat(9</d/log/keyspaces/1>, "v0", 0) = 0
"""
COMMIT = syscalls.Path("/d/lake/t/_delta_log/1.json")
DATA = syscalls.Path("/d/lake/t/a.parquet")


def lines_of(text, without="", last=""):
    """The lines of a trace without those that hold `without`, with those that hold `last` last."""
    lines = [line for line in text.strip().splitlines() if not (without and without in line)]
    moved = [line for line in lines if last and last in line]
    return [line for line in lines if line not in moved] + moved


def faults(lines):
    """What all rules together find in a trace of one ack and of one commit."""
    seen = calls(lines)
    return [
        *syscalls.late_acks(seen, ADDRESS, "/d/log/0.jnl"),
        *syscalls.loose_commits(seen, COMMIT, [DATA]),
        *syscalls.loose_folders(seen, syscalls.Path("/d/lake")),
        *syscalls.early_trims(seen, syscalls.Path("/d/log/keyspaces"), [COMMIT]),
    ]


def test_a_trace_in_order_is_found_in_order():
    seen = calls(lines_of(ACKED + COMMITTED.lstrip()))
    assert len(seen) == 18
    assert [call.began for call in syscalls.acks(seen, ADDRESS)] == [3]
    assert faults(lines_of(ACKED + COMMITTED.lstrip())) == []


@pytest.mark.parametrize(
    ("moved", "finding"),
    [
        ("fsync(5</d/log/0.jnl>)", "line 2: acked before line 0 was synced"),
        ("fsync(6</d/lake/t/a.parquet#1>)", "a.parquet: line 8 was not synced before line 15"),
        ("fsync(6</d/lake/t>)", "a.parquet: its directory was not synced before the commit"),
        ("fsync(8</d/lake/t/_delta_log/1.json#2>)", "1.json: line 14 was not synced before"),
        ("fsync(8</d/lake/t/_delta_log>)", "segment 1 went before a durable commit"),
    ],
)
def test_an_fsync_that_is_late_or_missing_is_found(moved, finding):
    whole = ACKED + COMMITTED.lstrip()
    for lines in (lines_of(whole, last=moved), lines_of(whole, without=moved)):
        assert any(finding in fault for fault in faults(lines)), faults(lines)


def test_a_directory_whose_entry_is_not_synced_is_found():
    lines = lines_of(COMMITTED, without="fsync(4</d/lake>)")
    assert "/d/lake/t: its entry was not synced" in faults(lines)


def test_an_ack_of_a_segment_without_a_durable_name_is_found():
    made = '1 mkdir("/d/log/keyspaces/3", 0777) = 0'
    synced = "1 fsync(5</d/log/keyspaces>) = 0"
    late = "line 4: acked before /d/log/keyspaces/3 was synced"
    segments = syscalls.Path("/d/log/keyspaces")
    acked = lines_of(ACKED)
    for lines, found in [
        ([made, synced, *acked], []),
        ([made, *acked], [late]),
        ([made, *acked, synced], [late]),
        ([synced, made, *acked], [late.replace("4:", "5:")]),
    ]:
        assert syscalls.early_acks(calls(lines), ADDRESS, segments) == found


def test_a_call_that_began_before_another_ended_is_not_before_it():
    written = '1 write(5</d/log/0.jnl>, "x", 1 <unfinished ...>'
    synced = ["2 fsync(6</d/log/0.jnl> <unfinished ...>", "1 <... write resumed>) = 1"]
    seen = calls([written, *synced, "2 <... fsync resumed>) = 0", *lines_of(ACKED)[2:]])
    late = "line 5: acked before line 0 was synced"
    assert syscalls.late_acks(seen, ADDRESS, "/d/log/0.jnl") == [late]
