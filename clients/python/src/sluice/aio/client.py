"""A connection to one Sluice, for asyncio."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from sluice import _encode, _status, errors
from sluice._address import CHANNEL_OPTIONS
from sluice._connection import RETRY_FOR, TIMEOUT, Settings, Tuning, identity, options_of, positive
from sluice._encode import Ids, Keys
from sluice._publish import Publication
from sluice._query import After, Queries
from sluice._retry import Patience
from sluice._session import Options, Session
from sluice.aio.stream import AsyncStream
from sluice.errors import SluiceError
from sluice.ingest.v1 import ingest_pb2 as pb
from sluice.ingest.v1.ingest_pb2_grpc import IngestServiceStub, StreamServiceStub
from sluice.values import EventError, Positions, PublishResult, Unacked

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["AsyncClient", "connect"]


def connect(
    url: str, *, flight: str | None = None, timeout: float = TIMEOUT, retry_for: float = RETRY_FOR
) -> AsyncClient:
    """As `sluice.connect`; to be called, and used, in one event loop."""
    return AsyncClient(Settings(url, flight, timeout, retry_for))


class AsyncClient:
    """The asyncio form of `sluice.Client`, made by `sluice.aio.connect`; see there.

    As an asynchronous context manager it closes at the end of the block.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._channel = grpc.aio.insecure_channel(settings.ingest.target, options=CHANNEL_OPTIONS)
        self._ingest = IngestServiceStub(self._channel)
        self._catalog = StreamServiceStub(self._channel)
        self._queries = Queries(settings.flight.target)
        self._limits: dict[str, pb.Limits] = {}
        self._positions = Positions()
        self._streams: weakref.WeakSet[AsyncStream] = weakref.WeakSet()
        self._is_closed = False

    async def publish(
        self,
        stream: str,
        events: object,
        *,
        keys: Keys = None,
        event_ids: Ids = None,
        idempotency_key: str | None = None,
        want_positions: bool = False,
        timeout: float | None = None,
    ) -> PublishResult:
        """As `sluice.Client.publish`."""
        records = list(_encode.records(events, keys, event_ids))
        seconds = self._seconds(timeout)
        publication = Publication(
            stream,
            records,
            await self._limits_of(stream, seconds),
            idempotency_key=idempotency_key,
            want_positions=want_positions,
            timeout=seconds,
            clock=time.monotonic,
        )
        while (request := publication.next_request()) is not None:
            message, left = request
            try:
                publication.answered(await self._ingest.Publish(message, timeout=left))
            except grpc.aio.AioRpcError as error:
                failure = self._error_of(error, stream)
                await asyncio.sleep(publication.failed(failure))
        result = publication.result
        self._advance(result.positions)
        return result

    def stream(
        self,
        stream: str,
        *,
        producer_id: str | None = None,
        epoch: int | None = None,
        first_sequence: int = 0,
        on_error: Callable[[EventError], None] | None = None,
        want_positions: bool = False,
        batch_events: int = 1_000,
        batch_bytes: int = 1 << 20,
        linger: float = 0.005,
        max_inflight_bytes: int = 8 << 20,
        retry_for: float | None = None,
        ack_timeout: float = 30.0,
    ) -> AsyncStream:
        """As `sluice.Client.stream`, to be entered with `async with`, which opens it.

        `on_error` is called in the event loop.
        """
        tuning = Tuning(
            batch_events, batch_bytes, linger, max_inflight_bytes, retry_for, ack_timeout
        )
        sender = identity(producer_id, epoch, first_sequence)
        has_callback = on_error is not None
        options = options_of(
            stream,
            sender,
            tuning,
            self._settings,
            want_positions=want_positions,
            has_callback=has_callback,
        )
        return self._open(options, None, on_error)

    async def resume(
        self,
        unacked: Unacked,
        *,
        want_positions: bool = False,
        timeout: float | None = None,
    ) -> PublishResult:
        """As `sluice.Client.resume`."""
        options = options_of(
            unacked.stream,
            unacked,
            Tuning(),
            self._settings,
            want_positions=want_positions,
            has_callback=False,
        )
        stream = self._open(options, unacked, None)
        async with stream:
            await stream.close(timeout)
        return stream.result

    def _open(
        self,
        options: Options,
        resume: Unacked | None,
        on_error: Callable[[EventError], None] | None,
    ) -> AsyncStream:
        stream = AsyncStream(
            self._ingest.PublishStream,
            self._settings.ingest.target,
            lambda: self._begin(options, resume),
            on_error,
            self._advance,
        )
        self._streams.add(stream)
        return stream

    async def sql(
        self,
        query: str,
        *,
        after: After = None,
        timeout: float | None = None,
    ) -> pa.Table:
        """As `sluice.Client.sql`; runs in a thread."""
        return await asyncio.to_thread(self._queries.run, query, after, self._seconds(timeout))

    async def wait(self, timeout: float = 60.0) -> None:
        """As `sluice.Client.wait`."""
        seconds = positive("timeout", timeout)
        await asyncio.to_thread(self._queries.run, "SELECT 1", "all", seconds)

    @property
    def positions(self) -> Positions:
        """As `sluice.Client.positions`."""
        return self._positions

    async def close(self) -> None:
        """As `sluice.Client.close`."""
        if self._is_closed:
            return
        self._is_closed = True
        failures = []
        for stream in self._entered():
            try:
                await stream.close()
            except SluiceError as failure:
                failures.append(failure)
        await self._channel.close()
        await asyncio.to_thread(self._queries.close)
        if failures:
            raise failures[0]

    def _entered(self) -> list[AsyncStream]:
        return [stream for stream in self._streams if stream.is_entered]

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for stream in self._entered():
                await stream.abort()
        await self.close()

    def _seconds(self, timeout: float | None) -> float:
        if self._is_closed:
            raise errors.Closed("the client is closed")
        return self._settings.timeout if timeout is None else positive("timeout", timeout)

    async def _begin(self, options: Options, resume: Unacked | None) -> Session:
        limits = await self._limits_of(options.stream, self._seconds(None))
        return Session(options, limits, time.monotonic, resume)

    async def _limits_of(self, stream: str, seconds: float) -> pb.Limits:
        """The limits of the server; the stream exists then."""
        known = self._limits.get(stream)
        if known is not None:
            return known
        patience = Patience(seconds, time.monotonic)
        patience.start()
        while True:
            try:
                request = pb.GetStreamRequest(stream=stream)
                info = await self._catalog.GetStream(request, timeout=max(patience.left(), 0.001))
            except grpc.aio.AioRpcError as error:
                failure = _status.not_sent(self._error_of(error, stream))
                pause = patience.pause(failure)
                if pause is None:
                    raise failure from None
                await asyncio.sleep(pause)
            else:
                self._limits[stream] = info.limits
                return self._limits[stream]

    def _error_of(self, error: grpc.RpcError, stream: str) -> SluiceError:
        failure = _status.error_of(error, self._settings.ingest.target)
        if isinstance(failure, errors.TooLarge):
            # The server may have been started with other limits: the next call asks.
            self._limits.pop(stream, None)
        return failure

    def _advance(self, positions: Positions | None) -> None:
        if positions:
            self._positions |= positions
