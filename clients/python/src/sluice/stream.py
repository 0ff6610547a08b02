"""A stream of events to one server, with acks in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final

import grpc

from sluice import _encode, _status, errors
from sluice._connection import result_of
from sluice._encode import Ids, Keys
from sluice._session import Counts, Session, Wait
from sluice.errors import SluiceError
from sluice.ingest.v1 import ingest_pb2 as pb
from sluice.values import EventError, Positions, PublishResult, Unacked

__all__ = ["Stream"]

# How often a caller that waits looks whether the server still answers.
_LOOK_EVERY_S: Final = 0.5

Call = Callable[[Iterator[pb.PublishStreamRequest]], Any]


class Stream:
    """Events on their way into one stream of the server; made by `Client.stream`.

    `send` takes an event over and returns; batches go out, and acks come in, in the background.
    After a lost connection all that is not acked is sent again under the same identity, so each
    event counts once. At the end of the `with` block everything is acked, or an exception says
    what is not. A stream may be used from several threads.

    Events that the contract refuses raise `InvalidEvents` (with the events) from the next `send`,
    `flush` or `close`, unless an `on_error` callback takes them; the stream goes on.
    """

    def __init__(
        self,
        call: Call,
        target: str,
        session: Session,
        on_error: Callable[[EventError], None] | None,
        on_positions: Callable[[Positions], None],
    ) -> None:
        self._call = call
        self._target = target
        self._session = session
        self._on_error = on_error
        self._on_positions = on_positions
        self._lock = threading.Lock()
        # The sender and the connection wait for something to do, callers for acks and room.
        self._work = threading.Condition(self._lock)
        self._progress = threading.Condition(self._lock)
        self._connection = 0
        self._active: Any = None
        self._stalled: SluiceError | None = None
        name = f"sluice-{session.options.stream}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # -- what goes in

    def send(
        self, event: object, *, key: str | bytes | None = None, event_id: str | bytes | None = None
    ) -> None:
        """Takes one event over: a dict, a dataclass, an object with `model_dump`, a `Record`, or
        JSON as text or bytes.

        Blocks while more than `max_inflight_bytes` are not acked. `key` is its partition key,
        `event_id` its identity; both are needed only where the contract names no column for it.

        Raises `EncodeError`, `TooLarge` or `Closed`, or what made the stream fail: this event is
        not taken over then. `InvalidEvents` is about events sent before; this one is on its way.
        """
        if type(event) is dict and key is None and event_id is None:
            self._add(_encode.encode(event), b"", b"")
        else:
            record = _encode.record(event, key, event_id)
            self._add(record.payload, record.key, record.event_id)
        self._check_refused()

    def send_many(self, events: object, *, keys: Keys = None, event_ids: Ids = None) -> None:
        """Takes many events over: an iterable of what `send` takes, a pyarrow table, batch or
        reader, or a pandas or polars frame.

        `keys`: one for all, or one each. Otherwise as `send`; events before one that cannot be
        sent are taken over, and `InvalidEvents` comes after all of them were.
        """
        for record in _encode.records(events, keys, event_ids):
            self._add(record.payload, record.key, record.event_id)
        self._check_refused()

    def _add(self, payload: bytes, key: bytes, event_id: bytes) -> None:
        with self._lock:
            self._session.check_open()
            while not self._session.has_room:
                self._wait_progress(None)
                self._session.check_open()
            if self._session.add(payload, key, event_id):
                self._work.notify_all()

    def _check_refused(self) -> None:
        with self._lock:
            self._session.check_refused()

    def flush(self, timeout: float | None = None) -> None:
        """Returns once all that was sent, from any thread, is answered for good.

        `timeout` in seconds; None: as long as the stream tries. Raises `DeadlineExceeded`, and what
        `send` raises.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._session.check()
            sequence = self._session.flush()
            self._work.notify_all()
            while not self._session.is_settled(sequence):
                if not self._wait_progress(deadline):
                    raise errors.DeadlineExceeded(f"not all is acked after {timeout:g} s")
                self._session.check()
            self._session.check()

    # -- its end

    def close(self, timeout: float | None = None) -> None:
        """Waits until all that was sent is answered for good, and ends the stream.

        `timeout` in seconds; None: as long as the stream tries. Raises what `flush` raises; after
        that `unacked` has what is left. Closing again does nothing.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self._session.is_closing:
                return
            self._session.close()
            self._work.notify_all()
            while not self._session.is_done:
                if not self._wait_progress(deadline):
                    late = errors.DeadlineExceeded(f"not all is acked after {timeout:g} s")
                    self._abort(late)
        self._thread.join()
        self._session.check_end()

    def abort(self) -> None:
        """Ends the stream at once, without waiting; `unacked` has what is left."""
        with self._lock:
            self._session.close()
            self._abort(errors.Closed("the stream was aborted"))
        self._thread.join()

    def unacked(self) -> Unacked:
        """After the end or the failure of the stream: the events that were not acked, in order.

        `client.resume(stream.unacked())` sends them again under the same identity.
        Raises `RuntimeError` while the stream goes on.
        """
        with self._lock:
            if not self._session.is_done:
                raise RuntimeError("the stream goes on: close or abort it first")
            return self._session.unacked()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes. After an exception in the block what was sent is still acked, but for an
        interrupt; the exception of the block is the one that is raised.
        """
        if error is None:
            self.close()
        elif isinstance(error, Exception):
            try:
                self.close()
            except SluiceError as failure:
                if error.__context__ is None and failure is not error:
                    error.__context__ = failure
        else:
            self.abort()

    # -- what became of it

    @property
    def errors(self) -> list[EventError]:
        """What was wrong with which event, quarantined ones included, in the order of acks; at
        most 10,000. Empty where `on_error` takes them.
        """
        with self._lock:
            return list(self._session.errors)

    @property
    def counts(self) -> Counts:
        """Events sent, acked, accepted, quarantined, refused, so far."""
        with self._lock:
            return self._session.counts.copy()

    @property
    def result(self) -> PublishResult:
        """What became of all events so far, as `Client.publish` tells it."""
        with self._lock:
            return result_of(self._session)

    @property
    def positions(self) -> Positions:
        """How far the acked events reach into the log; empty unless `want_positions` was given."""
        with self._lock:
            return self._session.positions

    @property
    def producer_id(self) -> str:
        """The name under which the events are sent."""
        return self._session.options.producer_id

    # -- the background

    def _wait_progress(self, deadline: float | None) -> bool:
        """Waits until something changed; false: the deadline is over."""
        left = _LOOK_EVERY_S if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return False
        self._progress.wait(min(left, _LOOK_EVERY_S))
        # The thread that sends does not look while it cannot send.
        if self._active is not None:
            try:
                self._session.check_patience()
            except SluiceError as fault:
                self._stall(fault)
        return True

    def _stall(self, fault: SluiceError) -> None:
        self._stalled = fault
        self._active.cancel()

    def _abort(self, failure: SluiceError) -> None:
        self._session.abort(failure)
        if self._active is not None:
            self._active.cancel()
        self._work.notify_all()
        self._progress.notify_all()

    def _run(self) -> None:
        """Connection after connection, until the session is done."""
        pause: float | None = 0.0
        try:
            while pause is not None:
                fault = self._converse()
                with self._lock:
                    pause = self._session.lost(fault)
                    self._progress.notify_all()
                    until = time.monotonic() + (pause or 0)
                    while not self._session.is_done and (left := until - time.monotonic()) > 0:
                        self._work.wait(left)
        except Exception as defect:
            # Nobody waits for a thread that is gone.
            with self._lock:
                self._abort(errors.defect(defect))
            raise

    def _converse(self) -> SluiceError | None:
        """One connection to its end; what it ended with."""
        with self._lock:
            if self._session.is_done:
                return None
            self._stalled = None
            requests = self._requests(self._connection, self._session.connecting())
            self._active = self._call(requests)
        fault: SluiceError | None = None
        try:
            for response in self._active:
                self._take(response)
        except grpc.RpcError as error:
            fault = _status.error_of(error, self._target)
        except SluiceError as error:
            fault = error
        with self._lock:
            self._active.cancel()
            self._active = None
            self._connection += 1  # which ends the requests of this one
            self._work.notify_all()
            return self._stalled or fault

    def _take(self, response: pb.PublishStreamResponse) -> None:
        with self._lock:
            before = self._session.positions
            self._session.receive(response)
            reports = self._session.take_reports()
            positions = self._session.positions
            self._progress.notify_all()
            self._work.notify_all()
        if positions is not before:
            self._on_positions(positions)
        if self._on_error is not None:
            for report in reports:
                self._tell(self._on_error, report)

    def _tell(self, on_error: Callable[[EventError], None], report: EventError) -> None:
        """Calls back. An exception ends the stream, so that the caller gets to see it."""
        try:
            on_error(report)
        except Exception as error:
            with self._lock:
                self._abort(errors.of_callback(error))

    def _requests(
        self, connection: int, first: pb.PublishStreamRequest
    ) -> Iterator[pb.PublishStreamRequest]:
        """What goes out on one connection; read by a thread of grpc."""
        yield first
        while (request := self._next_request(connection)) is not None:
            yield request

    def _next_request(self, connection: int) -> pb.PublishStreamRequest | None:
        """Waits for the next request; None: the connection is over."""
        with self._lock:
            while self._connection == connection and not self._session.is_done:
                try:
                    step = self._session.next_step()
                except SluiceError as fault:
                    self._stall(fault)
                    break
                if not isinstance(step, Wait):
                    return step
                self._work.wait(step.seconds)
        return None
