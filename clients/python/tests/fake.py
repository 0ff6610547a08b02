"""A server that answers as a test says: for faults whose timing a real one cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from sluice.ingest.v1 import ingest_pb2 as pb
from sluice.ingest.v1 import ingest_pb2_grpc

LIMITS = pb.Limits(max_request_bytes=1 << 20, max_event_bytes=1 << 16, max_batch_events=1_000)

Requests = Iterator[pb.PublishStreamRequest]
Talk = Callable[[Requests, Any], Iterator[pb.PublishStreamResponse]]
Answer = Callable[[pb.PublishRequest, Any], pb.PublishResponse]


class Fake(ingest_pb2_grpc.IngestServiceServicer, ingest_pb2_grpc.StreamServiceServicer):
    """One scripted answer per call; the last one for all that follow."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.talks: list[Talk] = []
        self.published: list[pb.PublishRequest] = []
        self.sent: list[list[pb.PublishStreamRequest]] = []
        """What came in, connection by connection."""
        self.url = ""

    def GetStream(self, request: pb.GetStreamRequest, context: Any) -> pb.StreamInfo:  # noqa: N802
        return pb.StreamInfo(stream=request.stream, limits=LIMITS, event_id="client")

    def Publish(self, request: pb.PublishRequest, context: Any) -> pb.PublishResponse:  # noqa: N802
        self.published.append(request)
        return self.answers[min(len(self.published), len(self.answers)) - 1](request, context)

    def PublishStream(  # noqa: N802
        self, requests: Requests, context: Any
    ) -> Iterator[pb.PublishStreamResponse]:
        seen: list[pb.PublishStreamRequest] = []
        self.sent.append(seen)
        talk = self.talks[min(len(self.sent), len(self.talks)) - 1]
        return talk(recorded(requests, seen), context)

    def batches(self, connection: int) -> list[pb.Batch]:
        """The batches of one connection."""
        return [one.batch for one in self.sent[connection] if one.HasField("batch")]


def recorded(requests: Requests, seen: list[pb.PublishStreamRequest]) -> Requests:
    for request in requests:
        seen.append(request)
        yield request


@contextmanager
def serving() -> Iterator[Fake]:
    """A fake on a port of its own."""
    fake = Fake()
    server = grpc.server(ThreadPoolExecutor(8))
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(fake, server)
    ingest_pb2_grpc.add_StreamServiceServicer_to_server(fake, server)
    fake.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(None).wait()


# -- answers


def accept(request: pb.PublishRequest, context: Any) -> pb.PublishResponse:
    """Everything is accepted."""
    return pb.PublishResponse(result=pb.BatchResult(accepted=len(request.batch.records)))


def fail(code: grpc.StatusCode, reason: str = "", retry_ms: int | None = None) -> Answer:
    """Fails with a status of Sluice, or with a bare one where there is no `reason`."""

    def answer(request: pb.PublishRequest, context: Any) -> pb.PublishResponse:
        abort(context, code, reason, retry_ms)
        raise AssertionError("abort raises")

    return answer


def abort(context: Any, code: grpc.StatusCode, reason: str, retry_ms: int | None = None) -> None:
    details: list[Any] = []
    if reason:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain="ingest.sluice"))
    if retry_ms is not None:
        delay = duration_pb2.Duration(nanos=retry_ms * 1_000_000)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=f"scripted {reason}")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    if details:
        trailing = (("grpc-status-details-bin", status.SerializeToString()),)
        context.set_trailing_metadata(trailing)
    context.abort(code, status.message)


# -- talks


def opened(resume_after: int = -1) -> pb.PublishStreamResponse:
    return pb.PublishStreamResponse(
        opened=pb.StreamOpened(resume_after_sequence=resume_after, limits=LIMITS)
    )


def ack(sequence: int) -> pb.PublishStreamResponse:
    return pb.PublishStreamResponse(ack=pb.Ack(acked_through=sequence))


def result(**fields: Any) -> pb.PublishStreamResponse:
    return pb.PublishStreamResponse(result=pb.BatchResult(**fields))


def good(requests: Requests, context: Any) -> Iterator[pb.PublishStreamResponse]:
    """Acks every batch."""
    for request in requests:
        if request.HasField("open"):
            yield opened()
        elif request.HasField("batch"):
            yield ack(request.batch.sequence)
        elif request.HasField("close"):
            return
