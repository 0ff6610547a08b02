"""The crash matrix: SIGKILL at every step between "decoded" and "acked", and "polled" and "sealed".

A case counts only where the process died at its point, with some but not all events acked, after
three seals, and with repeats, bad events and corrections under way. Then the server is started
again, the producers end, and `sluice verify` has to be green. Each case is one seed; others with
SLUICE_TEST_SEEDS=4,5,6.
"""

import json
import os
import random
import signal

import pytest

import projects
from harness import until
from histories import PROJECT, History, Producer, orders, verified

pytestmark = pytest.mark.both_logs

DEATH_S = 120
# Slow enough to be under way whenever the end comes.
PUSHED, PUSHED_PER_S = 12_000, 100
# How often a point is reached at least before the end may come there.
POINTS = {
    "ingest.decoded": 20,
    "ingest.validated": 20,
    "log.enqueued": 20,
    "ingest.logged": 20,
    "ingest.replied": 20,
    "process.polled": 10,
    "process.applied": 10,
    "process.swapped": 10,
    "bronze.written": 3,
    "bronze.committed": 3,
    "process.trimmed": 3,
    "_acceptance.written": 3,
    "_acceptance.committed": 3,
    "quarantine.written": 3,
    "quarantine.committed": 3,
    "silver.written": 6,
    "silver.committed": 6,
    "gold.written": 2,
    "gold.committed": 2,
    "process.sealed": 3,
    "lake.checkpointed": 1,
}


def seeds():
    given = os.environ.get("SLUICE_TEST_SEEDS")
    if given:
        return [int(seed) for seed in given.split(",")]
    return [1, pytest.param(2, marks=pytest.mark.full), pytest.param(3, marks=pytest.mark.full)]


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("point", POINTS)
def test_a_crash_loses_and_doubles_nothing(servers, home, protocol, point, seed):
    rng = random.Random(f"{point} {seed}")
    project = projects.write(home / "project", PROJECT)
    server = servers(project)
    server.settings = settings(point, rng)
    server.start()
    server.settings = {}
    history = History(home / "history.ndjson")
    seeded = [random.Random(rng.random()) for _ in range(3)]
    producers = [
        Producer(server, protocol, history, "one", seeded[0]),
        Producer(server, protocol, history, "two", seeded[1]),
        Producer(server, protocol, history, "three", seeded[2], stream="strict"),
    ]
    pushed = file_of(home, rng)
    history.sending("orders", "push", pushed)
    file = home / "pushed.ndjson"
    push = server.push("orders", file, "--rate", PUSHED_PER_S, "--batch-size", 50)
    try:
        for producer in producers:
            producer.start()
        until(lambda: not server.running(), DEATH_S, f"the end at {point}")
        # Both are asked before anything goes on.
        acked, still_pushing = [producer.acked for producer in producers], push.running()
        assert server.process.returncode == -signal.SIGKILL, server.output()
        assert f"crash point {point} reached" in server.output()
        assert min(acked) > 0 and still_pushing, (acked, push.output())
        server.start()
    finally:
        for producer in producers:
            producer.finish()
    push.close()
    server.push("orders", file).finish()  # goes on where the other was interrupted
    history.learnt("orders", pushed, "acked")
    server.wait()
    server.stop()
    report = verified(server, project, history.write())
    assert report["green"], report
    looked = report["looked_at"]
    assert looked["sent"] == len(history.told)
    assert looked["repeats"] > 0 and looked["quarantined"] > 0
    acked, unknown = (
        sum(history.count(outcome, stream, good=True) for stream in ("orders", "strict"))
        for outcome in ("acked", "unknown")
    )
    assert acked <= looked["accepted"] <= acked + unknown
    assert history.count("rejected", "strict") > 0
    assert report["not_compared"] == []


def settings(point, rng):
    """The point where the server ends, after three seals; a checkpoint comes after 50 commits."""
    times = rng.randint(1, POINTS[point])
    interval = 20 if point == "lake.checkpointed" else 100
    # Gold is committed at every seal, not only at some.
    share = 100 if point.startswith("gold.") else 10
    return {
        "SLUICE_CRASH_AT": f"process.sealed:3,{point}:{times}",
        "SLUICE__PROCESS__SEAL_INTERVAL_MS": str(interval),
        "SLUICE__PROCESS__RECOMPUTE_PERCENT": str(share),
    }


def file_of(home, rng):
    """Events for `sluice push`, each once."""
    made = orders(random.Random(rng.random()), "pushed", [])
    events = [next(made) for _ in range(PUSHED)]
    with open(home / "pushed.ndjson", "w") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    return events
