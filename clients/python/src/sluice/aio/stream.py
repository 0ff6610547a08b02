"""A stream of events to one server, with acks in the background, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import grpc

from sluice import _encode, _status, errors
from sluice._connection import result_of
from sluice._encode import Ids, Keys
from sluice._session import Counts, Session, Wait
from sluice.errors import SluiceError
from sluice.values import EventError, Positions, PublishResult, Unacked

__all__ = ["AsyncStream"]

# How often a caller that waits looks whether the server still answers.
_LOOK_EVERY_S: Final = 0.5


class AsyncStream:
    """The asyncio form of `sluice.Stream`, made by `AsyncClient.stream`; see there.

    It belongs to the event loop that runs when it is entered. Several tasks may use it.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        target: str,
        begin: Callable[[], Any],
        on_error: Callable[[EventError], None] | None,
        on_positions: Callable[[Positions], None],
    ) -> None:
        self._call = call
        self._target = target
        self._begin = begin
        self._on_error = on_error
        self._on_positions = on_positions
        self._work = asyncio.Event()
        self._progress = asyncio.Event()
        self._session: Session
        self._task: asyncio.Task[None] | None = None
        self._stalled: SluiceError | None = None
        self._active: Any = None

    async def __aenter__(self) -> AsyncStream:
        """Asks the server about the stream and begins. Raises what `Client.stream` raises."""
        if self._task is not None:
            raise RuntimeError("a stream is entered once")
        self._session = await self._begin()
        self._task = asyncio.create_task(self._run(), name=f"sluice-{self._session.options.stream}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """As that of `sluice.Stream`; a cancelled block ends the stream at once."""
        if error is None:
            await self.close()
        elif isinstance(error, Exception):
            try:
                await self.close()
            except SluiceError as failure:
                if error.__context__ is None and failure is not error:
                    error.__context__ = failure
        else:
            await self.abort()

    # -- what goes in

    async def send(
        self, event: object, *, key: str | bytes | None = None, event_id: str | bytes | None = None
    ) -> None:
        """As `sluice.Stream.send`; waits while too much is not acked."""
        record = _encode.record(event, key, event_id)
        await self._add(record.payload, record.key, record.event_id)
        self._session.check_refused()

    async def send_many(self, events: object, *, keys: Keys = None, event_ids: Ids = None) -> None:
        """As `sluice.Stream.send_many`."""
        for record in _encode.records(events, keys, event_ids):
            await self._add(record.payload, record.key, record.event_id)
        self._session.check_refused()

    async def _add(self, payload: bytes, key: bytes, event_id: bytes) -> None:
        self._running().check_open()
        while not self._session.has_room:
            await self._wait_progress(None)
            self._session.check_open()
        if self._session.add(payload, key, event_id):
            self._work.set()
            # The other tasks get their turn between two batches.
            await asyncio.sleep(0)

    async def flush(self, timeout: float | None = None) -> None:
        """As `sluice.Stream.flush`."""
        deadline = _deadline(timeout)
        self._running().check()
        sequence = self._session.flush()
        self._work.set()
        while not self._session.is_settled(sequence):
            if not await self._wait_progress(deadline):
                raise errors.DeadlineExceeded(f"not all is acked after {timeout:g} s")
            self._session.check()
        self._session.check()

    # -- its end

    async def close(self, timeout: float | None = None) -> None:
        """As `sluice.Stream.close`."""
        session = self._running()
        if session.is_closing:
            return
        deadline = _deadline(timeout)
        session.close()
        self._work.set()
        while not session.is_done:
            if not await self._wait_progress(deadline):
                session.abort(errors.DeadlineExceeded(f"not all is acked after {timeout:g} s"))
        await self._end()
        session.check_end()

    async def abort(self) -> None:
        """As `sluice.Stream.abort`."""
        self._running().close()
        self._session.abort(errors.Closed("the stream was aborted"))
        await self._end()

    def unacked(self) -> Unacked:
        """As `sluice.Stream.unacked`."""
        if not self._running().is_done:
            raise RuntimeError("the stream goes on: close or abort it first")
        return self._session.unacked()

    # -- what became of it

    @property
    def is_entered(self) -> bool:
        """Whether the block of `async with` has begun."""
        return self._task is not None

    @property
    def errors(self) -> list[EventError]:
        """As `sluice.Stream.errors`."""
        return list(self._running().errors)

    @property
    def counts(self) -> Counts:
        """As `sluice.Stream.counts`."""
        return self._running().counts.copy()

    @property
    def result(self) -> PublishResult:
        """As `sluice.Stream.result`."""
        return result_of(self._running())

    @property
    def positions(self) -> Positions:
        """As `sluice.Stream.positions`."""
        return self._running().positions

    @property
    def producer_id(self) -> str:
        """As `sluice.Stream.producer_id`."""
        return self._running().options.producer_id

    # -- the background

    def _running(self) -> Session:
        if self._task is None:
            raise RuntimeError("the stream is not entered: use `async with client.stream(…)`")
        return self._session

    async def _wait_progress(self, deadline: float | None) -> bool:
        """Waits until something changed; false: the deadline is over."""
        left = _LOOK_EVERY_S
        if deadline is not None:
            left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        await _wait(self._progress, min(left, _LOOK_EVERY_S), self._progressed)
        # The task that sends does not look while it cannot send.
        if self._active is not None:
            try:
                self._session.check_patience()
            except SluiceError as fault:
                self._stall(self._active, fault)
        return True

    def _stall(self, call: Any, fault: SluiceError) -> None:
        self._stalled = fault
        call.cancel()

    def _progressed(self) -> None:
        """Wakes all who wait now."""
        self._progress.set()
        self._progress = asyncio.Event()

    async def _end(self) -> None:
        """Ends the background task, which has nothing more to do."""
        self._progressed()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Connection after connection, until the session is done."""
        pause: float | None = 0.0
        try:
            while pause is not None:
                await asyncio.sleep(pause)
                fault = await self._converse()
                pause = self._session.lost(fault)
                self._progressed()
        except Exception as defect:
            # Nobody waits for a task that is gone.
            self._session.abort(errors.defect(defect))
            self._progressed()
            raise

    async def _converse(self) -> SluiceError | None:
        """One connection to its end; what it ended with."""
        self._stalled = None
        self._active = call = self._call()
        writer = asyncio.create_task(self._write(call))
        fault: SluiceError | None = None
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                self._take(response)
        except grpc.aio.AioRpcError as error:
            fault = _status.error_of(error, self._target)
        except SluiceError as error:
            fault = error
        except asyncio.CancelledError:
            # So a call ends that was cancelled here, and so this task is.
            if self._stalled is None:
                raise
        finally:
            self._active = None
            call.cancel()
            writer.cancel()
            await asyncio.wait([writer])
        return self._stalled or fault

    async def _write(self, call: Any) -> None:
        """What goes out on one connection."""
        try:
            await call.write(self._session.connecting())
            while True:
                self._work.clear()
                step = self._session.next_step()
                if not isinstance(step, Wait):
                    await call.write(step)
                    continue
                await _wait(self._work, step.seconds, self._work.set)
        except SluiceError as fault:
            self._stall(call, fault)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reading half hears why; or INTERNAL, where the end of the call met a write. Then
            # the next connection hears it.
            pass

    def _take(self, response: Any) -> None:
        before = self._session.positions
        self._session.receive(response)
        if self._session.positions is not before:
            self._on_positions(self._session.positions)
        reports = self._session.take_reports()
        self._work.set()
        self._progressed()
        if self._on_error is not None:
            for report in reports:
                try:
                    self._on_error(report)
                except Exception as error:  # the caller gets to see it
                    failure = errors.of_callback(error)
                    self._session.abort(failure)
                    raise failure from error


async def _wait(event: asyncio.Event, seconds: float | None, wake: Callable[[], None]) -> None:
    """Waits for the event, which `wake` sets after so many seconds. Unlike `asyncio.wait_for` it
    never loses a cancellation that comes together with the event.
    """
    if seconds is None:
        await event.wait()
        return
    timer = asyncio.get_running_loop().call_later(seconds, wake)
    try:
        await event.wait()
    finally:
        timer.cancel()


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else asyncio.get_running_loop().time() + timeout
