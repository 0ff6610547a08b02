"""Producers under way while a test makes something fail, and the proof afterwards."""

import json
import os
import random
import time
import urllib.error
import urllib.request

from harness import run, until
from histories import History, Producer, verified

# Each producer's stream. Those of `strict` are told at once what is wrong with an event.
PRODUCERS = {"one": "orders", "two": "orders", "three": "strict"}
MORE_S = 60
SETTLED_S = 60


def seeds():
    """The seeds of a run; each stands in the name of its test, and $SLUICE_TEST_SEEDS chooses."""
    return [int(seed) for seed in os.environ.get("SLUICE_TEST_SEEDS", "1").split(",")]


class Load:
    """Producers that publish, write down what they are told, and go on while a server is away.

    `pause_s`: how long each rests between two batches.
    """

    def __init__(self, server, project, protocol, seed, pause_s=0.0):
        self.server, self.project, self.protocol = server, project, protocol
        self.history = History(server.home / "history.ndjson")
        made = random.Random(seed)

        def producer(name, stream):
            rng = random.Random(made.random())
            return Producer(server, protocol, self.history, name, rng, stream, pause_s=pause_s)

        self.producers = [producer(name, stream) for name, stream in PRODUCERS.items()]

    def __enter__(self):
        for producer in self.producers:
            producer.start()
        self.goes_on()
        return self

    def __exit__(self, kind, *_):
        for producer in self.producers:
            producer.enough.set()
        for producer in self.producers:
            if kind is None:
                producer.finish()

    @property
    def acked(self):
        """Events acked so far, by producer."""
        return [producer.acked for producer in self.producers]

    def goes_on(self, timeout_s=MORE_S, more=100):
        """Returns once every producer got acks for more events."""
        wanted = [acked + more for acked in self.acked]

        def reached():
            failures = [producer.failure for producer in self.producers if producer.failure]
            assert not failures, failures
            return all(now >= then for now, then in zip(self.acked, wanted))

        try:
            until(reached, timeout_s, f"acks beyond {wanted}")
        except TimeoutError as error:
            raise AssertionError(f"{error}: there are {self.acked}") from None

    def proven(self, stop=True):
        """Ends the producers, waits until all is visible, and lets the checker look at the lake."""
        for producer in self.producers:
            producer.finish()
        began = time.monotonic()
        self.server.wait()
        until(lambda: lag(self.server) == 0, SETTLED_S, "a lag of zero")
        assert time.monotonic() - began <= SETTLED_S
        assert page(self.server, "readyz") == (200, "ok\n")
        if stop:
            self.server.stop()
        return self.green()

    def green(self):
        """The report of `sluice verify`, which has found nothing and has compared everything."""
        report = verified(self.server, self.project, self.history.write())
        assert report["green"] and report["not_compared"] == [], report
        looked = report["looked_at"]
        assert looked["sent"] == len(self.history.told)
        assert looked["repeats"] > 0 and looked["quarantined"] > 0
        acked, unknown = (
            sum(self.history.count(outcome, stream, good=True) for stream in ("orders", "strict"))
            for outcome in ("acked", "unknown")
        )
        assert 0 < acked <= looked["accepted"] <= acked + unknown
        return report


def lag(server):
    """Records in the log that Bronze has not committed, in streams that have any."""
    [(records,)] = server.sql("SELECT sum(log_end - 1 - committed) FROM system.streams")
    return records


def page(server, name):
    """The status code and text of a page of the server."""
    try:
        with urllib.request.urlopen(f"{server.http_url}/{name}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def verify(server, project, history=None):
    """`sluice verify` on a lake that may be damaged: (exit code, report or None, what it said)."""
    options = [f"--history={history}"] if history else []
    command = ["verify", project, f"--data-dir={server.data_dir}", "--output=json", *options]
    done = run(server.home, *command, timeout=300)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = None
    return done.returncode, report, done.stdout + done.stderr
