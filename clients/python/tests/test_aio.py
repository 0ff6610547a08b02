"""`sluice.aio` against a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from conftest import numbers
from project import reading

import sluice


def connect(server: Any, **options: Any) -> sluice.aio.AsyncClient:
    return sluice.aio.connect(server.ingest_url, flight=server.flight_url, **options)


Test = Callable[[sluice.aio.AsyncClient], Coroutine[Any, Any, None]]


def run(server: Any, test: Test, **options: Any) -> None:
    async def main() -> None:
        async with connect(server, **options) as client:
            await test(client)

    asyncio.run(main())


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited 60 s for {what}"
        await asyncio.sleep(0.01)


def test_publish_and_ask(server: Any) -> None:
    async def test(client: sluice.aio.AsyncClient) -> None:
        events = [reading(n, "aio") for n in range(3)] + [reading(3, "aio", value=-1)]
        result = await client.publish("readings", events, want_positions=True)
        assert (result.accepted, result.quarantined) == (4, 1)
        query = "SELECT count(*) AS rows FROM silver.readings_rows WHERE device = 'aio'"
        table = await client.sql(query, after=result)
        assert table.to_pylist() == [{"rows": 3}]
        assert client.positions == result.positions
        await client.wait()

    run(server, test)


def test_errors_are_those_of_threads(server: Any) -> None:
    async def test(client: sluice.aio.AsyncClient) -> None:
        with pytest.raises(sluice.UnknownStream):
            await client.publish("redings", [reading(0)])
        with pytest.raises(sluice.UnknownStream):
            await client.stream("redings").__aenter__()
        with pytest.raises(sluice.InvalidEvents) as caught:
            await client.publish("strict", [{"device": "aio"}])
        assert [one.field for one in caught.value.violations] == ["number"]
        with pytest.raises(sluice.QueryError):
            await client.sql("SELEC")

    run(server, test)


def test_a_stream_acks_everything(server: Any, client: sluice.Client) -> None:
    async def test(aio: sluice.aio.AsyncClient) -> None:
        async with aio.stream("readings", want_positions=True, batch_events=100) as stream:
            for number in range(5_000):
                await stream.send(reading(number, "aio-stream"), key="k")
            await stream.flush(timeout=60)
            assert stream.counts.acked == 5_000
            await stream.send_many([reading(5_000, "aio-stream")], event_ids=["aio-last"])
        assert stream.counts.accepted == 5_001
        assert (aio.positions | stream.positions) == aio.positions
        with pytest.raises(sluice.Closed):
            await stream.send(reading(0))

    run(server, test)
    assert numbers(client, "aio-stream") == list(range(5_001))


def test_several_tasks_share_a_bounded_stream(server: Any, client: sluice.Client) -> None:
    async def test(aio: sluice.aio.AsyncClient) -> None:
        async with aio.stream("readings", max_inflight_bytes=20_000, batch_events=20) as stream:

            async def work(first: int) -> None:
                for number in range(first, first + 500):
                    await stream.send(reading(number, "aio-tasks"))
                    counts = stream.counts
                    assert (counts.sent - counts.acked) * 100 < 40_000
                await stream.flush(timeout=60)

            await asyncio.gather(*(work(n * 500) for n in range(4)))

    run(server, test)
    assert numbers(client, "aio-tasks") == list(range(2_000))


def test_refused_events_are_raised_or_called_back(server: Any) -> None:
    async def test(client: sluice.aio.AsyncClient) -> None:
        taken: list[sluice.EventError] = []
        async with client.stream("picky", on_error=taken.append) as stream:
            await stream.send_many([reading(0), {"device": "x"}])
        assert [error.index for error in taken] == [1]
        with pytest.raises(sluice.InvalidEvents) as caught:
            async with client.stream("picky") as stream:
                await stream.send({"device": "x"})
        assert [record.payload for record in caught.value.events] == [b'{"device":"x"}']

        def fail(error: sluice.EventError) -> None:
            raise LookupError(error.rule)

        with pytest.raises(sluice.SluiceError, match="on_error raised LookupError"):
            async with client.stream("picky", on_error=fail) as stream:
                await stream.send({"device": "x"})

    run(server, test)


def test_a_cancelled_block_hands_back(server: Any) -> None:
    async def test(client: sluice.aio.AsyncClient) -> None:
        stream = client.stream("readings", linger=3_600)

        async def work() -> None:
            async with stream:
                await stream.send(reading(0, "aio-cancelled"))
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await until(lambda: stream.is_entered and stream.counts.sent == 1, "the event")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(stream.unacked()) == 1
        assert (await client.resume(stream.unacked())).accepted == 1

    run(server, test)


def test_a_stream_has_to_be_entered_once(server: Any) -> None:
    async def test(client: sluice.aio.AsyncClient) -> None:
        stream = client.stream("readings")
        with pytest.raises(RuntimeError, match="is not entered"):
            await stream.send(reading(0))
        async with stream:
            with pytest.raises(RuntimeError, match="entered once"):
                await stream.__aenter__()
            with pytest.raises(RuntimeError, match="the stream goes on"):
                stream.unacked()

    run(server, test)


def test_a_killed_server_loses_and_doubles_nothing(own_server: Any) -> None:
    total = 20_000

    async def test(client: sluice.aio.AsyncClient) -> None:
        async with client.stream("readings", batch_events=100, linger=0.001) as stream:
            is_killed = asyncio.Event()

            async def send() -> None:
                for number in range(total):
                    await stream.send(reading(number, "aio-killed"))
                    # Some more go out around the kill, the others after it.
                    if number == total // 2:
                        await is_killed.wait()

            sender = asyncio.create_task(send())
            await until(lambda: stream.counts.acked > total // 4, "acks")
            own_server.kill9()
            is_killed.set()
            await asyncio.to_thread(own_server.start)
            await sender
        assert stream.counts.acked == total
        counted = "SELECT count(*) AS rows, count(distinct number) AS n FROM silver.readings_rows"
        table = await client.sql(counted, after="all", timeout=120)
        assert table.to_pylist() == [{"rows": total, "n": total}]

    run(own_server, test)


def test_the_event_in_hand_is_taken_when_another_was_refused(
    server: Any, client: sluice.Client
) -> None:
    async def test(aio: sluice.aio.AsyncClient) -> None:
        async with aio.stream("picky") as stream:
            await stream.send({**reading(1, value=-1), "device": None})
            await until(lambda: stream.counts.refused == 1, "the refusal")
            with pytest.raises(sluice.InvalidEvents):
                await stream.send(reading(1, "aio-in-hand"))
        assert stream.counts.accepted == 1

    run(server, test)
    assert numbers(client, "aio-in-hand", "picky") == [1]


def test_what_was_not_acked_is_handed_back(own_server: Any) -> None:
    async def test(client: sluice.aio.AsyncClient) -> None:
        stream = client.stream("readings", linger=3_600)
        with pytest.raises(sluice.SluiceError, match="10 events are not acked"):
            async with stream:
                own_server.kill9()
                await stream.send_many(reading(n, "aio-back") for n in range(10))
        unacked = stream.unacked()
        assert len(unacked) == 10
        await asyncio.to_thread(own_server.start)
        assert (await client.resume(unacked)).accepted == 10
        table = await client.sql("SELECT count(*) AS n FROM silver.readings_rows", after="all")
        assert table.to_pylist() == [{"n": 10}]

    run(own_server, test, retry_for=3)
