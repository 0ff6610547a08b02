"""Streams of threads and of asyncio against a scripted server: faults that need their moment."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import fake
import grpc
import pytest

import sluice
from sluice.ingest.v1 import ingest_pb2 as pb

Requests = Iterator[pb.PublishStreamRequest]
Responses = Iterator[pb.PublishStreamResponse]
UNAVAILABLE, ABORTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED


@dataclass
class Outcome:
    """How a stream of one-event batches ended."""

    result: sluice.PublishResult
    unacked: sluice.Unacked
    error: sluice.SluiceError | None
    seconds: float


Drive = Callable[..., Outcome]


def events(count: int, event: dict[str, object] | None) -> Iterator[dict[str, object]]:
    return (event or {"number": number} for number in range(count))


def in_threads(url: str, count: int, event: Any = None, **options: Any) -> Outcome:
    began, error = time.monotonic(), None
    with sluice.connect(url) as client:
        stream = client.stream("s", batch_events=1, **options)
        try:
            stream.send_many(events(count, event))
            stream.close()
        except sluice.SluiceError as caught:
            error = caught
            stream.abort()
        return Outcome(stream.result, stream.unacked(), error, time.monotonic() - began)


def in_asyncio(url: str, count: int, event: Any = None, **options: Any) -> Outcome:
    async def drive() -> Outcome:
        began, error = time.monotonic(), None
        async with sluice.aio.connect(url) as client:
            stream = client.stream("s", batch_events=1, **options)
            try:
                async with stream:
                    await stream.send_many(events(count, event))
            except sluice.SluiceError as caught:
                error = caught
                await stream.abort()
            return Outcome(stream.result, stream.unacked(), error, time.monotonic() - began)

    return asyncio.run(drive())


@pytest.fixture(params=[in_threads, in_asyncio], ids=["threads", "asyncio"])
def drive(request: pytest.FixtureRequest) -> Drive:
    chosen: Drive = request.param
    return chosen


@pytest.fixture
def server() -> Iterator[fake.Fake]:
    with fake.serving() as server:
        yield server


def sequences(server: fake.Fake, connection: int) -> list[int]:
    return [batch.sequence for batch in server.batches(connection)]


def until_batches(requests: Requests, count: int) -> Responses:
    """Reads the opening and so many batches."""
    yield fake.opened()
    seen = 0
    for request in requests:
        seen += request.HasField("batch")
        if seen == count:
            return


@pytest.mark.parametrize(
    "reason", ["OUTCOME_UNKNOWN", "DRAINING", ""], ids=["aborted", "draining", "lost"]
)
def test_what_was_not_acked_goes_out_again_under_the_same_identity(
    server: fake.Fake, drive: Drive, reason: str
) -> None:
    def fail(requests: Requests, context: Any) -> Responses:
        yield from until_batches(requests, 5)
        yield fake.ack(1)
        fake.abort(context, ABORTED if reason == "OUTCOME_UNKNOWN" else UNAVAILABLE, reason, 10)

    server.talks = [fail, fake.good]
    outcome = drive(server.url, 10)
    assert outcome.error is None
    assert outcome.result.accepted == 10
    assert sequences(server, 1) == list(range(2, 10))
    first, second = (server.sent[n][0].open for n in range(2))
    assert (first.producer_id, first.producer_epoch) == (second.producer_id, second.producer_epoch)
    payloads = [list(batch.records.records) for batch in server.batches(1)]
    assert payloads == [[b'{"number":%d}' % number] for number in range(2, 10)]


def test_a_drain_notice_stops_the_sending_and_acks_are_waited_for(
    server: fake.Fake, drive: Drive
) -> None:
    def drain(requests: Requests, context: Any) -> Responses:
        yield from until_batches(requests, 3)
        yield pb.PublishStreamResponse(drain=pb.DrainNotice())
        taken = sequences(server, 0)
        time.sleep(0.2)  # the time in which more would come
        late = sequences(server, 0)
        # What was on its way when the notice came is acked as well.
        assert len(late) - len(taken) <= 1
        yield fake.ack(late[-1])
        fake.abort(context, UNAVAILABLE, "DRAINING", 10)

    server.talks = [drain, fake.good]
    outcome = drive(server.url, 3)
    assert outcome.error is None
    assert outcome.result.accepted == 3


def test_a_gap_is_mended_by_sending_again(server: fake.Fake, drive: Drive) -> None:
    def gap(requests: Requests, context: Any) -> Responses:
        yield from until_batches(requests, 3)
        yield fake.ack(0)
        yield fake.result(sequence=2, code=11, message="expected 1", expected_sequence=1)
        for _ in requests:
            pass

    server.talks = [gap, fake.good]
    outcome = drive(server.url, 4)
    assert (outcome.error, outcome.result.accepted) == (None, 4)
    assert sequences(server, 1) == [1, 2, 3]


def test_a_stream_that_ends_too_early_is_opened_again(server: fake.Fake, drive: Drive) -> None:
    def end(requests: Requests, context: Any) -> Responses:
        yield from until_batches(requests, 2)

    server.talks = [end, fake.good]
    outcome = drive(server.url, 4)
    assert (outcome.error, outcome.result.accepted) == (None, 4)


def test_an_answer_given_before_the_loss_outlives_it(server: fake.Fake, drive: Drive) -> None:
    """A repeat is answered without the errors of the first time."""
    wrong = pb.EventError(index=0, reason=pb.EventError.REASON_WRONG_TYPE, field="number")

    def told(requests: Requests, context: Any) -> Responses:
        yield from until_batches(requests, 1)
        yield fake.result(sequence=0, accepted=0, errors=[wrong])
        fake.abort(context, UNAVAILABLE, "", None)

    def repeat(requests: Requests, context: Any) -> Responses:
        for request in requests:
            if request.HasField("open"):
                yield fake.opened(0)
            elif request.HasField("batch"):
                yield fake.result(sequence=request.batch.sequence, duplicate=1)
                yield fake.ack(request.batch.sequence)
            elif request.HasField("close"):
                return

    server.talks = [told, repeat]
    outcome = drive(server.url, 1)
    assert isinstance(outcome.error, sluice.InvalidEvents)
    assert [(one.index, one.field) for one in outcome.error.violations] == [(0, "number")]
    assert [record.payload for record in outcome.error.events] == [b'{"number":0}']


def test_a_server_that_says_nothing_is_left(server: fake.Fake, drive: Drive) -> None:
    def silent(requests: Requests, context: Any) -> Responses:
        yield fake.opened()
        for _ in requests:
            pass

    server.talks = [silent, fake.good]
    outcome = drive(server.url, 2, ack_timeout=0.3)
    assert (outcome.error, outcome.result.accepted) == (None, 2)
    assert outcome.seconds < 10


def test_a_server_that_reads_nothing_is_left(server: fake.Fake, drive: Drive) -> None:
    """What was sent fills the connection, so nothing more can be sent."""
    over = threading.Event()

    def deaf(requests: Requests, context: Any) -> Responses:
        yield fake.opened()
        over.wait(30)

    server.talks = [deaf, fake.good]
    event = {"text": "x" * 60_000}
    outcome = drive(server.url, 200, event=event, ack_timeout=0.3)
    over.set()
    assert (outcome.error, outcome.result.accepted) == (None, 200)
    assert outcome.seconds < 10


def test_without_progress_it_gives_up_and_hands_back(server: fake.Fake, drive: Drive) -> None:
    def fail(requests: Requests, context: Any) -> Responses:
        yield from until_batches(requests, 1)
        fake.abort(context, ABORTED, "OUTCOME_UNKNOWN", 10)

    server.talks = [fail]
    outcome = drive(server.url, 3, retry_for=0.5)
    assert isinstance(outcome.error, sluice.OutcomeUnknown)
    assert "3 events are not acked" in outcome.error.message
    assert [record.payload for record in outcome.unacked] == [
        b'{"number":%d}' % number for number in range(3)
    ]
    assert outcome.error.events == outcome.unacked
    assert len(server.sent) > 2
    assert outcome.seconds < 10


def test_a_refusal_for_good_is_not_tried_again(server: fake.Fake, drive: Drive) -> None:
    def refuse(requests: Requests, context: Any) -> Responses:
        next(requests)
        fake.abort(context, grpc.StatusCode.PERMISSION_DENIED, "NO_GRANT")
        yield fake.opened()

    server.talks = [refuse]
    outcome = drive(server.url, 2)
    assert isinstance(outcome.error, sluice.AccessDenied)
    assert outcome.error.reason == "NO_GRANT"
    assert len(outcome.unacked) == 2
    assert len(server.sent) == 1


def test_a_batch_over_a_limit_is_too_large(server: fake.Fake, drive: Drive) -> None:
    def limited(requests: Requests, context: Any) -> Responses:
        yield from until_batches(requests, 1)
        yield fake.result(sequence=0, code=8, message="1 is over max_batch_events (0)")
        yield fake.ack(0)
        for request in requests:
            if request.HasField("close"):
                return

    server.talks = [limited]
    outcome = drive(server.url, 1)
    assert isinstance(outcome.error, sluice.TooLarge)
    assert "max_batch_events" in outcome.error.message
    assert len(outcome.error.events) == 1
    assert outcome.result.refused == 1


def test_events_are_cut_into_batches_by_number_and_size(server: fake.Fake) -> None:
    server.talks = [fake.good]
    with (
        sluice.connect(server.url) as client,
        client.stream("s", batch_events=4, batch_bytes=1_000, linger=3_600) as stream,
    ):
        stream.send_many([{"number": number} for number in range(10)])
        stream.flush(timeout=30)
        stream.send_many([{"text": "x" * 400}] * 5)
    sizes = [len(batch.records.records) for batch in server.batches(0)]
    assert sizes == [4, 4, 2, 2, 2, 1]


def test_flush_and_close_keep_their_time(server: fake.Fake) -> None:
    def silent(requests: Requests, context: Any) -> Responses:
        yield fake.opened()
        for _ in requests:
            pass

    server.talks = [silent]
    with sluice.connect(server.url) as client:
        stream = client.stream("s")
        stream.send({"number": 1})
        began = time.monotonic()
        with pytest.raises(sluice.DeadlineExceeded, match=r"not all is acked after 0\.2 s"):
            stream.flush(timeout=0.2)
        with pytest.raises(TimeoutError) as caught:
            stream.close(timeout=0.2)
        assert time.monotonic() - began < 5
        assert isinstance(caught.value, sluice.DeadlineExceeded)
        assert [record.payload for record in caught.value.events] == [b'{"number":1}']
        assert len(stream.unacked()) == 1
