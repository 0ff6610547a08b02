"""Several processors that share one log's partitions and one lake."""

import json
import os
import signal
import time
from decimal import Decimal

import pytest

import projects
from groups import MOVED_S, Group, acked, held, shared
from harness import EXAMPLE, run, same_rows, until
from histories import CUSTOMERS, LINES, STREAM, verified
from test_dvd_clicks import CHECKS
from worlds import push_all_twice_with_kills

pytestmark = pytest.mark.kafka

PARTITIONS = 6
COUNTS = "SELECT count(*), count(DISTINCT event_id), sum(amount) FROM silver.lines"
# For the long run: nothing that is computed whole over millions of rows again and again.
PLAIN = {
    "sluice.yml": "name: plain\n",
    "streams/orders.yml": STREAM,
    "models/silver/lines.sql": LINES,
    "models/gold/totals.sql": """\
SELECT customer, count(*) AS orders, sum(amount) AS amount FROM {{ ref('lines') }} GROUP BY customer
""",
}
EVENTS = int(os.environ.get("SLUICE_TEST_EVENTS", 5_000_000))
KILL_EVERY_S = 10
LONG_S = 3_000
TOTALS = "SELECT count(*), sum(orders), sum(amount) FROM gold.totals"


@pytest.fixture
def group(servers, home, new_log, protocol):
    made = Group(servers, home, new_log(), protocol, seed=1)
    yield made
    for producer in made.producers:
        producer.enough.set()


def test_processors_share_partitions_and_every_event_counts_once(group):
    first = group.server()
    group.produce(first)
    acked(group)
    assert len(held(first)) == PARTITIONS
    second = group.server()
    group.produce(second)
    until(lambda: shared(first, second), MOVED_S, "the partitions to be shared")
    acked(group)
    group.finish()
    for server in (first, second):
        server.wait()
    assert first.sql(COUNTS) == second.sql(COUNTS)
    assert first.sql(TOTALS) == second.sql(TOTALS)
    # One leaves: the other takes over what it had.
    second.stop()
    until(lambda: len(held(first)) == PARTITIONS, MOVED_S, "one to hold everything")
    first.wait()
    first.stop()
    group.verify(first)


def test_a_processor_that_slept_through_its_end_doubles_nothing(group):
    first, second = group.server(), group.server()
    until(lambda: shared(first, second), MOVED_S, "the partitions to be shared")
    group.produce(first, 4)
    acked(group)
    for sleeper, other in ((second, first), (first, second)):
        sleeper.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: len(held(other)) == PARTITIONS, MOVED_S, "the other to take over")
            if sleeper is second:  # the producers are the first's, and wait for it
                acked(group)
        finally:
            sleeper.process.send_signal(signal.SIGCONT)
        until(lambda: shared(first, second), MOVED_S, "the partitions to be shared again")
        acked(group)
    group.finish()
    for server in (first, second):
        server.wait()
    assert first.sql(COUNTS) == second.sql(COUNTS)
    for server in (first, second):
        server.stop()
    group.verify(first)


def test_processors_that_are_killed_lose_and_double_nothing(group):
    first = group.server()
    second = group.server(SLUICE__KAFKA__GROUP_INSTANCE="second")
    until(lambda: shared(first, second), MOVED_S, "the partitions to be shared")
    group.produce(first, 4)
    for victim in (second, first, second):
        acked(group)
        victim.kill9()
        victim.start()
    acked(group)
    group.finish()
    until(lambda: shared(first, second), MOVED_S, "the partitions to be shared again")
    for server in (first, second):
        server.wait()
    for server in (first, second):
        server.stop()
    group.verify(second)


@pytest.mark.parametrize("point", ["process.taken", "process.given"])
def test_a_processor_that_ends_while_partitions_move_loses_and_doubles_nothing(group, point):
    is_given = point == "process.given"
    # The first takes everything once, and gives some of it up once.
    first = group.server(**({"SLUICE_CRASH_AT": f"{point}:1"} if is_given else {}))
    group.produce(first, 4)
    acked(group)
    second = group.server(start=False, **({} if is_given else {"SLUICE_CRASH_AT": f"{point}:1"}))
    victim = first if is_given else second
    try:
        second.start()
    except AssertionError as error:  # it may end before it is ready
        assert "exit code -9" in str(error)
    until(lambda: not victim.running(), MOVED_S, f"the end at {point}")
    assert victim.process.returncode == -signal.SIGKILL
    assert f"crash point {point} reached" in victim.output()
    del victim.settings["SLUICE_CRASH_AT"]
    victim.start()
    until(lambda: shared(first, second), MOVED_S, "the partitions to be shared")
    acked(group)
    group.finish()
    for server in (first, second):
        server.wait()
    for server in (first, second):
        server.stop()
    group.verify(first)


def test_a_lake_is_shared_by_a_group_only(group):
    first = group.server()
    alone = group.server(start=False)
    alone.options = [f"--lake={group.lake}"]
    refused = alone.refusal()
    assert refused.returncode == 69 and "is in use by another sluice" in refused.stderr
    embedded = run(alone.home, "up", group.project, "--group=g", f"--data-dir={alone.data_dir}")
    assert embedded.returncode == 2
    assert "the embedded log has one reader" in embedded.stderr
    first.stop()


def test_two_processors_of_one_instance_name_are_refused(group):
    name = {"SLUICE__KAFKA__GROUP_INSTANCE": "one"}
    first = group.server(**name)
    second = group.server(start=False, **name)
    second.start()
    until(lambda: not first.running(), MOVED_S, "the older of the two to end")
    assert "needs a kafka.group_instance of its own" in first.output()
    second.wait()
    second.stop()


def test_the_examples_figures_hold_with_two_processors(group):
    group.project = EXAMPLE
    first, second = group.server(), group.server()
    until(lambda: shared(first, second), MOVED_S, "the partitions to be shared")
    kills = push_all_twice_with_kills(first)
    assert all(0 < kill.acked < kill.lines and kill.still_pushing for kill in kills)
    for server in (second, first):
        server.wait()
        for name, check in CHECKS:
            same_rows(server.sql(check["sql"]), check["rows"], check.get("ordered", False))
    for server in (second, first):
        server.stop()
    report = verified(first, EXAMPLE)
    assert report["green"], report


@pytest.mark.full
def test_millions_of_events_through_two_processors_that_are_killed_every_ten_seconds(group, home):
    group.project = projects.write(home / "plain", PLAIN)
    amount = write_orders(home / "events.ndjson", EVENTS, group.rng)
    first, second = group.server(), group.server()
    pushes = [
        first.push("orders", home / "events.ndjson", "--retry-for", LONG_S),
        # Half of it comes again: everything that both push counts once.
        second.push("orders", home / "half.ndjson", "--retry-for", LONG_S),
    ]
    kills, deadline = 0, time.monotonic() + LONG_S
    while any(push.running() for push in pushes):
        assert time.monotonic() < deadline, "the pushes do not end"
        victim = (first, second)[kills % 2]
        pause(KILL_EVERY_S, pushes)
        victim.kill9()
        victim.launch()
        kills += 1
    for push in pushes:
        push.finish()
    for server in (first, second):
        server.started(LONG_S)
    for server in (first, second):
        server.wait(LONG_S)
    counts = "SELECT count(*), count(DISTINCT event_id), sum(amount) FROM silver.lines"
    assert first.sql(counts) == second.sql(counts) == [(EVENTS, EVENTS, amount)]
    assert kills >= 2
    for server in (first, second):
        server.stop(timeout_s=60)
    assert verified(first, group.project, timeout=LONG_S)["green"]


def pause(seconds, pushes):
    """Ends early when nothing is pushed any more."""
    deadline = time.monotonic() + seconds
    until(
        lambda: time.monotonic() > deadline or not any(push.running() for push in pushes),
        seconds + 1,
        "the next kill",
    )


def write_orders(path, count, rng):
    """Good orders, all of them and the first half again in `half.ndjson`. Returns their sum."""
    total = 0
    with open(path, "w") as file, open(path.parent / "half.ndjson", "w") as half:
        for number in range(count):
            cents = rng.randrange(10_000)
            total += cents
            event = {
                "event_id": f"e{number}",
                "order_id": f"o{number // 3}",
                "customer": CUSTOMERS[number % len(CUSTOMERS)],
                "version": number,
                "amount": f"{cents // 100}.{cents % 100:02}",
            }
            line = json.dumps(event) + "\n"
            file.write(line)
            if number < count // 2:
                half.write(line)
    return Decimal(total) / 100
