"""Good events with one among every thousand that cannot be taken as it is."""

import json
import random
from collections import Counter

from histories import LINES, STREAM
from test_ingest import MIB, payload

# What comes in is not looked at, so that all of it is for the tables to judge.
PROJECT = {
    "sluice.yml": "name: poison\n",
    "streams/orders.yml": STREAM + "validation: none\n",
    "models/silver/lines.sql": LINES,
}
BATCHES, BATCH_EVENTS = 45, 1000
GOOD = {"customer": "ann", "version": 1, "amount": "1.00"}


def kinds(name):
    """Events that break a rule, each with that rule; no two of different names are the same."""

    def event(**changes):
        return {**GOOD, "event_id": name, "order_id": name, **changes}

    def text(version):
        """An event whose version is that JSON."""
        return json.dumps(event(version="?")).encode().replace(b'"?"', version)

    start = f'{{"order_id": "{name}", "event_id": "{name}"'.encode()
    much = MIB - 400
    return [
        (start, "malformed"),
        (f"[{json.dumps(name)}]".encode(), "malformed"),
        (random.Random(name).randbytes(100), "malformed"),
        (start + b', "customer": "\xff\xfe"}', "malformed"),
        (start + b', "more": ' + b"[" * much, "malformed"),
        (start + b', "more": ' + b'{"a":' * (much // 5), "malformed"),
        (text(b"[" * 1000 + b"]" * 1000), "type:version"),
        (text(b"9" * 100_000), "type:version"),
        (event(version=10**30), "type:version"),
        (event(version=True), "type:version"),
        (event(amount="1e400"), "type:amount"),
        (event(amount=10**20), "type:amount"),
        (event(amount={"value": 1}), "type:amount"),
        (event(customer=None), "not_null:customer"),
        (event(amount="-0.01"), "amount_range"),
    ]


def poison(seed, number):
    """The bad event of a batch, and its rule."""
    of_batch = kinds(f"bad {seed} {number}")
    return of_batch[number % len(of_batch)]


def batches(seed):
    for number in range(BATCHES):
        ids = [f"{number}-{n}" for n in range(BATCH_EVENTS - 1)]
        batch = [{**GOOD, "event_id": name, "order_id": name} for name in ids]
        event, _ = poison(seed, number)
        batch.insert(random.Random(f"{seed} {number}").randrange(BATCH_EVENTS), event)
        yield batch


def write(file, seed):
    """The same as lines of a file. Returns how many of them are no JSON object in UTF-8."""
    with open(file, "wb") as lines:
        for batch in batches(seed):
            lines.writelines(payload(event).replace(b"\n", b" ") + b"\n" for event in batch)
    return rules(seed)["malformed"]


def rules(seed):
    """How often each rule is broken."""
    return Counter(poison(seed, number)[1] for number in range(BATCHES))


def all_is_where_it_belongs(server, seed, but=()):
    """The good are accepted, each once; the bad are in quarantine under their rules, no others.

    Events that break a rule of `but` never came as far.
    """
    server.wait()
    good = BATCHES * (BATCH_EVENTS - 1)
    wanted = {(rule,): times for rule, times in rules(seed).items() if rule not in but}
    total = good + sum(wanted.values())
    assert server.sql("SELECT count(*) FROM bronze.orders") == [(total,)]
    assert server.sql("SELECT count(*), count(DISTINCT event_id) FROM silver.lines") == [
        (good, good)
    ]
    broken = server.table("SELECT rules FROM quarantine.orders").column("rules").to_pylist()
    assert Counter(map(tuple, broken)) == wanted
