"""A connection to one Sluice."""

from __future__ import annotations

import threading
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
from sluice.errors import SluiceError
from sluice.ingest.v1 import ingest_pb2 as pb
from sluice.ingest.v1.ingest_pb2_grpc import IngestServiceStub, StreamServiceStub
from sluice.stream import Stream
from sluice.values import EventError, Positions, PublishResult, Unacked

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Client", "connect"]


def connect(
    url: str, *, flight: str | None = None, timeout: float = TIMEOUT, retry_for: float = RETRY_FOR
) -> Client:
    """A client of the Sluice whose events go in at `url`: `http://HOST:PORT`, or only `HOST`.

    `flight`: where it answers SQL, as `grpc://HOST:PORT`; without it the same host. Ports that are
    left out are those of `sluice up`: 50051 and 50052. `timeout`: seconds that a call may take,
    with its retries. `retry_for`: seconds that a stream tries again while nothing is acked.

    Nothing is connected before it is used. Raises `ConfigurationError` for an address that cannot
    be one.
    """
    return Client(Settings(url, flight, timeout, retry_for))


class Client:
    """Publishes events and asks SQL; made by `connect`. May be used from several threads.

    As a context manager it closes at the end of the block.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._channel = grpc.insecure_channel(settings.ingest.target, options=CHANNEL_OPTIONS)
        self._ingest = IngestServiceStub(self._channel)
        self._catalog = StreamServiceStub(self._channel)
        self._queries = Queries(settings.flight.target)
        self._limits: dict[str, pb.Limits] = {}
        self._lock = threading.Lock()
        self._positions = Positions()
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._is_closed = False

    def publish(
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
        """Publishes events and returns once they are durable.

        `events`: an iterable of dicts, dataclasses, objects with `model_dump`, `Record`s or JSON as
        text or bytes; or a pyarrow table, batch or reader, or a pandas or polars frame.
        `keys`: partition keys, one for all or one each. `event_ids`: identities, one each. Both are
        needed only where the contract names no column. `timeout`: seconds, retries included.

        What is more than one request takes is cut into several. A request that is lost is sent
        again under the same identity, so nothing counts twice; across calls, and processes, the
        same `idempotency_key` with the same events does that.

        Bad events are reported in the result; where the contract refuses whole batches,
        `InvalidEvents` is raised. Also raises `EncodeError` (before anything is sent),
        `UnknownStream`, `TooLarge`, `Unavailable`, `OutcomeUnknown`.
        """
        records = list(_encode.records(events, keys, event_ids))
        seconds = self._seconds(timeout)
        publication = Publication(
            stream,
            records,
            self._limits_of(stream, seconds),
            idempotency_key=idempotency_key,
            want_positions=want_positions,
            timeout=seconds,
            clock=time.monotonic,
        )
        while (request := publication.next_request()) is not None:
            message, left = request
            try:
                publication.answered(self._ingest.Publish(message, timeout=left))
            except grpc.RpcError as error:
                failure = self._error_of(error, stream)
                time.sleep(publication.failed(failure))
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
    ) -> Stream:
        """Opens a stream: events go out in batches, acks come in, in the background.

        `on_error`: called in the background with what is wrong with an event; it must not block,
        nor use the stream.
        `want_positions`: keep how far the acked events reach, for `sql(…, after=…)`.
        A batch goes out with `batch_events` events, at `batch_bytes` bytes, or `linger` seconds
        after its first event. `send` blocks while `max_inflight_bytes` are not acked. After
        `ack_timeout` seconds without an answer a connection counts as lost.

        A producer id is made up. One that is given needs an `epoch` that was never used with it;
        `first_sequence` is the number of its first batch.

        Raises `UnknownStream`, `Unavailable` or `ConfigurationError`.
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

    def resume(
        self, unacked: Unacked, *, want_positions: bool = False, timeout: float | None = None
    ) -> PublishResult:
        """Sends again what a stream had not got acked, in the same batches, under the same
        identity: what had reached the log counts once. Returns once all is durable.

        `timeout` in seconds; None: as long as a stream tries. May be done again if it fails, with
        the same `unacked`. Raises what `Stream.close` raises, and what `stream` raises.
        """
        options = options_of(
            unacked.stream,
            unacked,
            Tuning(),
            self._settings,
            want_positions=want_positions,
            has_callback=False,
        )
        stream = self._open(options, unacked, None)
        stream.close(timeout)
        return stream.result

    def _open(
        self,
        options: Options,
        resume: Unacked | None,
        on_error: Callable[[EventError], None] | None,
    ) -> Stream:
        limits = self._limits_of(options.stream, self._seconds(None))
        session = Session(options, limits, time.monotonic, resume)
        target = self._settings.ingest.target
        stream = Stream(self._ingest.PublishStream, target, session, on_error, self._advance)
        self._streams.add(stream)
        return stream

    def sql(self, query: str, *, after: After = None, timeout: float | None = None) -> pa.Table:
        """The rows of one SQL statement, as a pyarrow table (`.to_pandas()`, `pl.from_arrow(…)`).

        `after`: wait until the tables that are read reach these positions: a result, `positions` of
        this client or of a stream, or `"all"`: all that is in the log now, in every table.
        `timeout` in seconds.

        Raises `QueryError`, `DeadlineExceeded` or `Unavailable`.
        """
        return self._queries.run(query, after, self._seconds(timeout))

    def wait(self, timeout: float = 60.0) -> None:
        """Returns once all that is in the log now can be queried in every table.

        `timeout` in seconds; then `DeadlineExceeded` is raised.
        """
        self._queries.run("SELECT 1", "all", positive("timeout", timeout))

    @property
    def positions(self) -> Positions:
        """How far what was published with `want_positions` reaches, streams included."""
        return self._positions

    def close(self) -> None:
        """Closes its streams, waiting for their acks, then its connections.

        Raises what `Stream.close` raises, of the first stream that does.
        """
        if self._is_closed:
            return
        self._is_closed = True
        failures = []
        for stream in list(self._streams):
            try:
                stream.close()
            except SluiceError as failure:
                failures.append(failure)
        self._channel.close()
        self._queries.close()
        if failures:
            raise failures[0]

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for stream in list(self._streams):
                stream.abort()
        self.close()

    def _seconds(self, timeout: float | None) -> float:
        if self._is_closed:
            raise errors.Closed("the client is closed")
        return self._settings.timeout if timeout is None else positive("timeout", timeout)

    def _limits_of(self, stream: str, timeout: float) -> pb.Limits:
        """The limits of the server; the stream exists then."""
        known = self._limits.get(stream)
        if known is not None:
            return known
        patience = Patience(timeout, time.monotonic)
        patience.start()
        while True:
            try:
                request = pb.GetStreamRequest(stream=stream)
                info = self._catalog.GetStream(request, timeout=max(patience.left(), 0.001))
            except grpc.RpcError as error:
                failure = _status.not_sent(self._error_of(error, stream))
                pause = patience.pause(failure)
                if pause is None:
                    raise failure from None
                time.sleep(pause)
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
        with self._lock:
            self._positions |= positions or Positions()
