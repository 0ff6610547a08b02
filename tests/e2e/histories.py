"""Producers that write down what they sent and what they were told: the input of `sluice verify`."""

import hashlib
import json
import random
import threading

import grpc

import projects
from harness import run
from test_ingest import connect, payload, publish

# A project in which a crash has something to spoil: repeats, bad events, corrections of what was
# counted already, a chain of row-wise models, recomputed models that read each other and a seed,
# and models kept by changes on top of each other: by key, keyed, aggregates, lookups.
STREAM = """\
name: orders
partitions: 3
key: customer
event_id: event_id
fields:
  - {name: event_id, type: text, required: true}
  - {name: order_id, type: text, required: true}
  - {name: customer, type: text, required: true}
  - {name: version, type: int, required: true}
  - {name: amount, type: "decimal(18,2)", required: true, range: {min: 0}}
"""
STRICT = STREAM.replace("name: orders", "name: strict\non_error: reject_event")
LINES = "SELECT event_id, order_id, customer, version, amount FROM {{ source('bronze', 'orders') }}"
LARGE = "SELECT order_id, version, amount * 2 AS twice FROM {{ ref('lines') }} WHERE amount >= 50"
LATEST = """\
SELECT order_id, customer, version, amount FROM (
  SELECT *, row_number() OVER (PARTITION BY order_id ORDER BY version DESC, event_id) AS nth
  FROM {{ ref('lines') }}
) WHERE nth = 1
"""
TOTALS = """\
SELECT l.customer, c.country, count(*) AS orders, sum(l.amount) AS amount
FROM {{ ref('latest') }} AS l LEFT JOIN {{ ref('customers') }} AS c ON c.customer = l.customer
GROUP BY l.customer, c.country
"""
NEWEST = """\
SELECT order_id, customer, version, amount FROM (
  SELECT *, row_number() OVER (
    PARTITION BY order_id ORDER BY version DESC, _ts DESC, _partition, _offset, _index
  ) AS nth
  FROM {{ source('bronze', 'orders') }}
) WHERE nth = 1
"""
BY_CUSTOMER = """\
SELECT customer, count(*) AS orders, sum(amount) AS amount, avg(version) AS version
FROM {{ ref('newest') }} GROUP BY customer
"""
BY_LINE = """\
SELECT customer, count(*) AS lines, max(amount) AS most FROM {{ ref('lines') }} GROUP BY customer
"""
EVERYTHING = "SELECT count(*) AS customers, sum(orders) AS orders FROM {{ ref('by_customer') }}"
COMPARED = """\
SELECT c.customer, c.orders, l.lines, e.orders AS of_all
FROM {{ ref('by_customer') }} AS c
JOIN {{ ref('by_line') }} AS l ON l.customer = c.customer
CROSS JOIN {{ ref('everything') }} AS e
"""
LARGER = """\
SELECT customer, country, orders, amount FROM {{ ref('totals') }}
WHERE amount > (SELECT avg(amount) FROM {{ ref('totals') }})
"""
PER_COUNTRY = """\
SELECT c.country, count(*) AS customers, sum(l.orders) AS orders
FROM {{ ref('larger') }} AS l JOIN {{ ref('customers') }} AS c ON c.customer = l.customer
GROUP BY c.country
"""
RUNS = """\
SELECT customer, run, count(*) AS lines, count(DISTINCT order_id) AS orders, max(amount) AS most FROM (
  SELECT *, sum(CASE WHEN amount < 30 THEN 1 ELSE 0 END)
    OVER (PARTITION BY customer ORDER BY version, event_id) AS run
  FROM {{ ref('lines') }}
) GROUP BY customer, run
"""
BOTH = """\
SELECT coalesce(o.customer, s.customer) AS customer, o.lines, o.most, s.lines AS strict_lines
FROM (
  SELECT customer, count(*) AS lines, max(version) AS most FROM {{ ref('lines') }} GROUP BY customer
) AS o FULL JOIN (
  SELECT customer, count(*) AS lines FROM {{ source('bronze', 'strict') }} GROUP BY customer
) AS s ON s.customer = o.customer
"""
PROJECT = {
    "sluice.yml": "name: crashes\n",
    "streams/orders.yml": STREAM,
    "streams/strict.yml": STRICT,
    "models/silver/lines.sql": LINES,
    "models/silver/large.sql": LARGE,
    "models/gold/latest.sql": LATEST,
    "models/gold/totals.sql": TOTALS,
    "models/silver/newest.sql": NEWEST,
    "models/gold/by_customer.sql": BY_CUSTOMER,
    "models/gold/by_line.sql": BY_LINE,
    "models/gold/everything.sql": EVERYTHING,
    "models/gold/compared.sql": COMPARED,
    "models/gold/larger.sql": LARGER,
    "models/gold/per_country.sql": PER_COUNTRY,
    "models/gold/runs.sql": RUNS,
    "models/gold/both.sql": BOTH,
    "seeds/customers.csv": projects.SEED,
}
CUSTOMERS = ["ann", "bob", "cleo", "dora", "emil"]
JOIN_S = 120


def orders(rng, name, known):
    """Events without end: new orders, and corrections, exact repeats, and bad ones among them.

    What is corrected or repeated is taken from `known`, which the caller fills.
    """
    number = 0
    while True:
        kind = rng.random()
        if known and kind < 0.15:
            yield rng.choice(known)
            continue
        number += 1
        is_correction = known and kind < 0.35
        order = rng.choice(known)["order_id"] if is_correction else f"{name}-{number}"
        yield {
            "event_id": f"{name}:{number}",
            "order_id": order,
            "customer": rng.choice(CUSTOMERS),
            "version": number,
            "amount": "-1" if kind > 0.9 else f"{rng.randrange(10_000) / 100:.2f}",
        }


def is_good(event):
    return not event["amount"].startswith("-")


class History:
    """What all producers of a test were told."""

    def __init__(self, path):
        self.path = path
        self.told = {}
        self.lock = threading.Lock()

    def sending(self, stream, producer, events):
        with self.lock:
            for event in events:
                key = (stream, event["event_id"])
                entry = {"event": event, "producer": producer, "outcome": "unknown"}
                self.told.setdefault(key, entry)

    def learnt(self, stream, events, outcome):
        with self.lock:
            for event in events:
                self.told[stream, event["event_id"]]["outcome"] = outcome

    def count(self, outcome, stream="orders", good=None):
        """Events with that outcome; good or bad ones alone where asked."""
        with self.lock:
            told = [entry for (of, _), entry in self.told.items() if of == stream]
        told = [entry["event"] for entry in told if entry["outcome"] == outcome]
        return sum(good is None or is_good(event) == good for event in told)

    def write(self):
        with open(self.path, "w") as file:
            for (stream, event_id), entry in self.told.items():
                event = entry["event"]
                line = {
                    "stream": stream,
                    "event_id": event_id,
                    "outcome": entry["outcome"],
                    "payload_sha256": hashlib.sha256(payload(event)).hexdigest(),
                    "key": event["customer"],
                    "producer": entry["producer"],
                }
                file.write(json.dumps(line) + "\n")
        return self.path


class Producer(threading.Thread):
    """Publishes batch after batch, each until it is acked; some it gives up when told nothing."""

    def __init__(
        self, server, protocol, history, name, rng, stream="orders", gives_up=0.2, pause_s=0.0
    ):
        super().__init__(name=name, daemon=True)
        self.server, self.protocol, self.history = server, protocol, history
        self.rng, self.stream, self.gives_up, self.pause_s = rng, stream, gives_up, pause_s
        self.enough = threading.Event()
        self.acked = 0
        self.failure = None

    def run(self):
        try:
            # Nothing that was given up comes again: then its order would not be promised.
            known = []
            events = orders(self.rng, self.name, known)
            while not self.enough.is_set():
                batch = [next(events) for _ in range(self.rng.randrange(1, 30))]
                if self.send(batch):
                    known.extend(batch)
                self.enough.wait(self.pause_s)
        except Exception as error:  # told by `finish`
            self.failure = error

    def send(self, events):
        """Whether all of it was answered for good."""
        self.history.sending(self.stream, self.name, events)
        while True:
            try:
                with connect(self.server) as channel:
                    result = publish(self.protocol, channel, events, stream=self.stream)
            except grpc.RpcError as error:
                assert error.code() in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.ABORTED,
                    grpc.StatusCode.CANCELLED,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.StatusCode.UNKNOWN,
                ), error
                if self.rng.random() < self.gives_up:
                    return False
                self.enough.wait(0.05)  # the server is away
                continue
            refused = {found.index for found in result.errors} if self.stream == "strict" else set()
            taken = [event for index, event in enumerate(events) if index not in refused]
            self.history.learnt(self.stream, taken, "acked")
            self.history.learnt(self.stream, [events[index] for index in refused], "rejected")
            self.acked += len(taken)
            return True

    def finish(self):
        self.enough.set()
        self.join(JOIN_S)
        assert not self.is_alive(), f"producer {self.name} did not end"
        if self.failure:
            raise self.failure


def verified(server, project, history=None, code=0, timeout=300):
    """The report of `sluice verify` on a server's lake."""
    options = [*server.options, *([f"--history={history}"] if history else [])]
    command = ["verify", project, f"--data-dir={server.data_dir}", "--output=json", *options]
    done = run(server.home, *command, timeout=timeout)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)
