"""Events per second of `Client.stream`, beside a bare grpc loop that does nothing else.

    python bench/stream.py [--events 200000] [--rounds 3]

Starts a server of its own (`$SLUICE_BIN`, else `target/debug/sluice`) on an empty folder, with one
stream whose payloads are not looked at. Every round sends the same events each way, in the same
order; the best round counts. CPU is that of this process alone. A run that does not find every
event in the table ends with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

import sluice
from sluice.ingest.v1 import ingest_pb2 as pb
from sluice.ingest.v1.ingest_pb2_grpc import IngestServiceStub

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests" / "e2e"))
from harness import Sluice

PROJECT = {
    "sluice.yml": "name: bench\nversion: 1\n",
    "streams/readings.yml": (
        "name: readings\npartitions: 2\nvalidation: none\n"
        "fields:\n  - {name: number, type: int}\n  - {name: device, type: text}\n"
        "  - {name: value, type: float}\n  - {name: unit, type: text}\n  - {name: at, type: text}\n"
    ),
}
BATCH = 1_000
IN_FLIGHT_BATCHES = 64

Way = Callable[[Any], None]


def event(number: int) -> dict[str, object]:
    """About 100 bytes as JSON."""
    return {
        "number": number,
        "device": f"d_{number % 50:04}",
        "value": number / 8,
        "unit": "celsius",
        "at": "2026-03-02T18:00:00.123456Z",
    }


def through_stream(url: str, events: list[Any]) -> None:
    with sluice.connect(url) as client, client.stream("readings") as stream:
        for one in events:
            stream.send(one)
    if stream.counts.accepted != len(events):
        raise SystemExit(f"only {stream.counts.accepted} of {len(events)} are acked")


def through_send_many(url: str, events: list[Any]) -> None:
    with sluice.connect(url) as client, client.stream("readings") as stream:
        stream.send_many(events)


def through_asyncio(url: str, events: list[Any]) -> None:
    async def send() -> None:
        async with sluice.aio.connect(url) as client, client.stream("readings") as stream:
            for one in events:
                await stream.send(one)

    asyncio.run(send())


def through_bare_grpc(url: str, events: list[Any], encode: bool) -> None:
    """Batches of encoded events and nothing else: no identities kept, no errors, no retries."""
    slots = threading.Semaphore(IN_FLIGHT_BATCHES)

    def requests() -> Iterator[pb.PublishStreamRequest]:
        yield pb.PublishStreamRequest(open=pb.OpenStream(stream="readings"))
        for sequence, first in enumerate(range(0, len(events), BATCH)):
            slots.acquire()
            part = events[first : first + BATCH]
            records = [json.dumps(one).encode() for one in part] if encode else part
            batch = pb.Batch(sequence=sequence, records=pb.RecordBatch(records=records))
            yield pb.PublishStreamRequest(batch=batch)
        yield pb.PublishStreamRequest(close=pb.CloseStream())

    acked = -1
    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        for response in IngestServiceStub(channel).PublishStream(requests()):
            if response.HasField("ack"):
                for _ in range(response.ack.acked_through - acked):
                    slots.release()
                acked = response.ack.acked_through
    if (acked + 1) * BATCH < len(events):
        raise SystemExit(f"only {acked + 1} batches are acked")


def measure(way: Way, events: list[Any]) -> tuple[float, float]:
    """Seconds of wall clock and of this process's CPU."""
    began, cpu = time.perf_counter(), cpu_seconds()
    way(events)
    return time.perf_counter() - began, cpu_seconds() - cpu


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    dicts = [event(number) for number in range(options.events)]
    encoded = [json.dumps(one, separators=(",", ":")).encode() for one in dicts]
    print(f"{options.events} events of {len(encoded[-1])} bytes, best of {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        for name, text in PROJECT.items():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(text)
        server = Sluice(Path(folder) / "home", project).start()
        try:
            run(server, dicts, encoded, options.rounds)
        finally:
            server.close()


def run(server: Any, dicts: list[Any], encoded: list[Any], rounds: int) -> None:
    url = server.ingest_url
    ways: dict[str, tuple[Way, list[Any]]] = {
        "stream.send, dicts": (lambda events: through_stream(url, events), dicts),
        "stream.send_many, dicts": (lambda events: through_send_many(url, events), dicts),
        "asyncio stream.send, dicts": (lambda events: through_asyncio(url, events), dicts),
        "bare grpc, json.dumps of dicts": (lambda e: through_bare_grpc(url, e, True), dicts),
        "stream.send, encoded": (lambda events: through_stream(url, events), encoded),
        "stream.send_many, encoded": (lambda events: through_send_many(url, events), encoded),
        "bare grpc, encoded": (lambda e: through_bare_grpc(url, e, False), encoded),
    }
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, (way, events) in ways.items():
            best[name] = min(best.get(name, (float("inf"), 0.0)), measure(way, events))
    sent = rounds * len(ways) * len(dicts)
    with sluice.connect(url, flight=server.flight_url) as client:
        client.wait(timeout=600)
        [row] = client.sql("SELECT count(*) AS events FROM bronze.readings").to_pylist()
    if row["events"] != sent:
        raise SystemExit(f"{row['events']} events in the table, {sent} were sent")
    print(f"{'':32}{'events/s':>10}{'CPU µs/event':>14}")
    for name, (wall, cpu) in best.items():
        print(f"{name:32}{len(dicts) / wall:>10,.0f}{cpu / len(dicts) * 1e6:>14.2f}")


if __name__ == "__main__":
    main()
