"""Faults of disk, clock and input under load: the fault, the healing, and then everything is there.

Producers write down what they were told. After the fault all of it has to be visible in bounded
time, and `sluice verify` has to find nothing lost, doubled or changed.
"""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
import pytest

import poison
import projects
from harness import ROOT, until
from histories import PROJECT
from load import Load, page, seeds
from test_ingest import MIB, connect, publish

SEALS = {"SLUICE__PROCESS__SEAL_INTERVAL_MS": "200"}
NOTICED_S = 30
HEALED_S = 60
CALL_S = 5
DEAR_S = 3
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}

pytestmark = pytest.mark.parametrize("seed", seeds())


@pytest.fixture
def project(home):
    return projects.write(home / "project", PROJECT)


# -- the disk


class SmallDisk:
    """A file system of its own at `place`, seen by those alone who run inside it, and by `seen`."""

    def __init__(self, place, size):
        place.mkdir(parents=True)
        inside = f"mount -t tmpfs -o size={size} tmpfs '{place}' && echo mounted && exec cat"
        alone = ["unshare", "--map-root-user", "--mount", "--", "sh", "-c", inside]
        self.holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *alone],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = self.holder.stdout.readline()
        assert said == "mounted\n", f"no file system of its own for a test: {said}"
        target = [f"--target={self.holder.pid}", "--user", "--mount", "--preserve-credentials"]
        self.prefix = ["nsenter", *target, f"--wd={ROOT}", "--"]
        self.seen = Path(f"/proc/{self.holder.pid}/root{place}")

    def fill(self):
        """Writes until nothing more is taken, in steps that leave no gap."""
        for size in (MIB, 4096, 1):
            with open(self.seen / "ballast", "ab", buffering=0) as file:
                while took(file, size):
                    pass

    def make_room(self):
        (self.seen / "ballast").unlink()

    def close(self):
        self.holder.stdin.close()
        self.holder.wait()


def took(file, size):
    try:
        return file.write(bytes(size)) == size
    except OSError:
        return False


@pytest.fixture
def small_disk(home):
    made = []

    def make(place, size):
        made.append(SmallDisk(place, size))
        return made[-1]

    yield make
    for disk in made:
        disk.close()


def test_a_full_disk_acks_nothing_that_is_lost(servers, home, project, protocol, small_disk, seed):
    """The lake goes on by itself once there is room, the embedded log after a restart."""
    server = servers(project)
    disk = small_disk(server.data_dir, "64m")
    server.prefix, server.settings = disk.prefix, SEALS
    server.start()
    with Load(server, project, protocol, seed) as load:
        disk.fill()
        until(lambda: page(server, "readyz")[0] == 503, NOTICED_S, "the server to be not ready")
        # Which write meets it first, one of a seal or one of the log, is chance.
        assert re.search(r"^not ready: .*No space left on device", page(server, "readyz")[1])
        until(lambda: "No space left" in refusal(load), NOTICED_S, "a refusal")
        until(lambda: outage_of_processing(server), NOTICED_S, "a seal that fails")
        assert "No space left on device" in outage_of_processing(server)
        assert page(server, "livez") == (200, "ok\n")
        disk.make_room()
        until(
            lambda: outage_of_processing(server) is None,
            HEALED_S,
            "processing to go on by itself",
        )
        assert "No space left" in refusal(load)
        code, reason = page(server, "readyz")
        stopped = f"not ready: the log at {server.data_dir}/log: a write failed"
        assert code == 503 and reason.startswith(stopped) and "No space left" in reason, reason
        assert reason.endswith("until the cause is mended and the server restarted\n")
        server.restart()
        load.goes_on()
        finish(load)
        server.wait()
        server.stop()
        # Others cannot look into the small disk.
        shutil.copytree(disk.seen, home / "copy")
        server.data_dir = home / "copy"
        load.green()


def outage_of_processing(server):
    return json.loads(page(server, "status")[1])["process"]["outage"]


def refusal(load):
    """What one more publisher is told: nothing where its event is acked."""
    name = f"probe:{time.monotonic_ns()}"
    event = {"order_id": name, "customer": "zoe", "version": 1, "amount": "1", "event_id": name}
    load.history.sending("orders", name, [event])
    try:
        with connect(load.server) as channel:
            publish(load.protocol, channel, [event])
    except grpc.RpcError as error:
        assert error.code() in AWAY
        return error.details()
    load.history.learnt("orders", [event], "acked")
    return ""


def finish(load):
    for producer in load.producers:
        producer.finish()


# -- time

HOUR = 3600


class Clock:
    """The wall clock of a server, an hour ahead or behind; its monotonic clock stays right."""

    LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"

    def __init__(self, file):
        self.file = file
        found = glob.glob(self.LIBRARY)
        assert found, f"no {self.LIBRARY}: apt-get install faketime"
        self.settings = {
            "LD_PRELOAD": found[0],
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.jump(0)

    def jump(self, seconds):
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}s\n")
        fresh.rename(self.file)


def test_a_clock_that_jumps_an_hour(servers, home, project, protocol, seed):
    server = servers(project)
    clock = Clock(home / "clock")
    server.settings = {**SEALS, **clock.settings}
    server.start()
    with Load(server, project, protocol, seed) as load:
        for jump in (HOUR, -HOUR, 0):
            clock.jump(jump)
            load.goes_on(more=500)
            # A row that the server took in with the clock that it was given.
            until(lambda: rows_within_a_minute_of(server, jump), NOTICED_S, f"rows of {jump:+d} s")
            server.wait()
        load.proven(stop=False)
    times = "_ts < lag(_ts) OVER (PARTITION BY _partition ORDER BY _offset) AS falls"
    fallen = f"SELECT count(*) FROM (SELECT {times} FROM bronze.orders) AS rows WHERE falls"
    assert server.sql(fallen) == [(0,)]
    server.stop()


def rows_within_a_minute_of(server, jump):
    """Rows that came in while the wall clock showed now + `jump`."""
    first, last = (
        (datetime.now(timezone.utc) + timedelta(seconds=jump + slack)).isoformat()
        for slack in (-60, 60)
    )
    within = f"_ingested_at BETWEEN TIMESTAMP '{first}' AND TIMESTAMP '{last}'"
    [(rows,)] = server.sql(f"SELECT count(*) FROM bronze.orders WHERE {within}")
    return rows


def test_a_server_that_is_stopped_for_a_while(servers, project, protocol, seed):
    """As by SIGSTOP, a suspended machine, or a debugger."""
    server = servers(project)
    server.settings = SEALS
    server.start()
    with Load(server, project, protocol, seed) as load:
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(20)
        before = load.acked
        server.process.send_signal(signal.SIGCONT)
        load.goes_on()
        assert all(now > then for now, then in zip(load.acked, before))
        load.proven()


# -- input


def test_a_poison_event_every_thousand_is_set_aside(servers, home, protocol, seed):
    """Nothing is checked when it comes in, so all of it gets as far as the tables."""
    server = servers(projects.write(home / "project", poison.PROJECT))
    server.settings = SEALS
    server.start()
    with connect(server) as channel:
        for batch in poison.batches(seed):
            began = time.monotonic()
            result = publish(protocol, channel, batch)
            assert (result.accepted, len(result.errors)) == (len(batch), 0)
            assert time.monotonic() - began <= CALL_S
    poison.all_is_where_it_belongs(server, seed)


def test_a_push_of_a_file_with_poison_in_it(servers, home, seed):
    """`sluice push` refuses lines that are no JSON object by itself, and sends all others."""
    server = servers(projects.write(home / "project", poison.PROJECT))
    server.settings = SEALS
    server.start()
    malformed = poison.write(home / "orders.ndjson", seed)
    push = server.push("orders", home / "orders.ndjson", "--batch-size", 1000)
    try:
        report = push.finish(code=1)
    finally:
        push.close()
    lines, bad = poison.BATCHES * poison.BATCH_EVENTS, poison.BATCHES
    told = {name: report[name] for name in ("lines", "refused", "quarantined", "accepted")}
    assert told == {
        "lines": lines,
        "refused": malformed,
        "quarantined": bad - malformed,
        "accepted": lines - bad,
    }
    poison.all_is_where_it_belongs(server, seed, but=["malformed"])


def nested(opened, closed, inner="0"):
    """An event with that as deep as a mebibyte takes it."""
    depth = (MIB - 1000) // len(opened + closed)
    return f'{{"event_id": "a", "version": {opened * depth}{inner}{closed * depth}}}'.encode()


DEAR = {
    "arrays": nested("[", "]"),
    "objects": nested('{"":', "}"),
    "objects that are put in order": nested('{"b":', ',"a":0}'),
    "members": json.dumps({f"{n:04}": "x" * 90 for n in range(9_999)}).encode(),
    "members of a member": json.dumps({"version": {str(n): n for n in range(60_000)}}).encode(),
    "escapes": json.dumps({"event_id": "a", "version": "\\" * (MIB // 5)}).encode(),
    "blanks": json.dumps({"event_id": "a", "version": " a" * (MIB // 3)}).encode(),
    "digits": b'{"event_id": "a", "version": ' + b"9" * (MIB - 1000) + b"}",
    "numbers": json.dumps({"event_id": "a", "version": [10**20] * 40_000}).encode(),
}


def cpu_s(pid):
    """What a process took of the CPUs so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = fields[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("payload", DEAR.values(), ids=DEAR)
def test_an_event_costs_no_more_than_its_bytes(servers, home, protocol, seed, payload):
    """Whatever its form: what it costs grows with its bytes, not with their square."""
    assert MIB // 3 < len(payload) <= MIB
    server = servers(projects.write(home / "project", poison.PROJECT))
    server.settings = SEALS
    server.start()
    before = cpu_s(server.process.pid)
    with connect(server) as channel:
        assert publish(protocol, channel, [payload]).accepted == 1
    server.wait()
    assert cpu_s(server.process.pid) - before <= DEAR_S
    assert server.sql("SELECT count(*) FROM quarantine.orders") == [(1,)]
