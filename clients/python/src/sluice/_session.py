"""One producer's side of `PublishStream`, without I/O, threads or a clock of its own.

Events go in, requests come out; responses and lost connections go in, settled batches come out.
`Stream` and `AsyncStream` only move messages and wake those who wait. A batch keeps its sequence
from the first time it is sent until it is acked, whatever happens to connections in between: with
(producer, epoch) that is the identity under which the server counts it once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sluice import _status, errors
from sluice._publish import batch_of, event_error, positions_of, size_of
from sluice._retry import Clock, Patience
from sluice.errors import SluiceError, Violation
from sluice.ingest.v1 import ingest_pb2 as pb
from sluice.values import EventError, Positions, Record, Unacked

# What a record costs in memory beside its bytes, about.
_OBJECT_BYTES: Final = 64
_WIRE_BYTES: Final = 18
_BATCH_OVERHEAD: Final = 1024
# Errors that are kept for `errors`; what is more is counted.
_ERRORS_MAX: Final = 10_000
_OPEN_TIMEOUT_S: Final = 15.0
# Codes of a batch result that settle the batch; after any other the batch is sent again, or the
# stream fails.
_SETTLING: Final = (0, 3, 6, 8)  # OK, INVALID_ARGUMENT, ALREADY_EXISTS, RESOURCE_EXHAUSTED
_REFUSING: Final = (3, 8)


@dataclass(frozen=True, slots=True)
class Options:
    """What a stream was asked for. Times in seconds."""

    stream: str
    producer_id: str
    epoch: int
    first_sequence: int
    want_positions: bool
    batch_events: int
    batch_bytes: int
    linger: float
    max_inflight_bytes: int
    retry_for: float
    ack_timeout: float
    has_callback: bool


@dataclass(slots=True)
class Counts:
    """Events of a stream so far."""

    sent: int = 0
    """Taken over by the stream."""
    acked: int = 0
    """Answered for good: accepted, repeated or refused."""
    accepted: int = 0
    """Durable in the log, quarantined and repeated ones included."""
    quarantined: int = 0
    """Of the accepted: those that stand in quarantine."""
    duplicate: int = 0
    """Of the accepted: those of batches that the server had already when they came again. If some
    of them were refused the first time and the answer was lost, nobody says so again."""
    refused: int = 0
    """Not in the log: they break the contract or a limit."""
    errors_cut: int = 0
    """Errors that are not listed: over 100 of one batch, or over 10,000 kept."""

    def copy(self) -> Counts:
        """What they are now."""
        return replace(self)


@dataclass(slots=True)
class _Batch:
    sequence: int
    first: int
    """Number of its first event on this stream."""
    payloads: list[bytes] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    has_keys: bool = False
    has_ids: bool = False
    size: int = 0
    due: float = 0.0
    result: pb.BatchResult | None = None

    def record(self, at: int) -> Record:
        return Record(self.payloads[at], self.keys[at], self.ids[at])

    def records(self) -> tuple[Record, ...]:
        return tuple(map(Record, self.payloads, self.keys, self.ids))

    def memory(self) -> int:
        return self.size + (_OBJECT_BYTES - _WIRE_BYTES) * len(self.payloads)

    def request(self) -> pb.PublishStreamRequest:
        records = pb.RecordBatch(
            records=self.payloads,
            keys=self.keys if self.has_keys else (),
            event_ids=self.ids if self.has_ids else (),
        )
        return pb.PublishStreamRequest(batch=pb.Batch(sequence=self.sequence, records=records))


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to send: ask again when something changed, or after so many seconds."""

    seconds: float | None

    @classmethod
    def until(cls, then: float, now: float) -> Wait:
        return cls(None if then == float("inf") else max(then - now, 0.0))


class Session:
    """The state of a stream. Not thread-safe: whoever drives it holds a lock."""

    def __init__(
        self, options: Options, limits: pb.Limits, clock: Clock, resume: Unacked | None = None
    ) -> None:
        self.options = options
        self.counts = Counts()
        self.errors: list[EventError] = []
        self.positions = Positions()
        self.failure: SluiceError | None = None
        self.is_closing = False
        """No more events are taken."""
        self.is_done = False
        """Nothing more will happen: all is settled, or `failure` says why not."""
        self._clock = clock
        self._max_event_bytes = limits.max_event_bytes
        batch_bytes_max = limits.max_request_bytes - _BATCH_OVERHEAD
        self._batch_bytes = min(options.batch_bytes, batch_bytes_max)
        self._batch_events = min(options.batch_events, limits.max_batch_events)
        self._patience = Patience(options.retry_for, clock)
        self._reports: list[EventError] = []
        # What nobody was told yet: the refused events by their number, and what is wrong.
        self._refused: dict[int, Record] = {}
        self._violations: list[Violation] = []
        self._refusal: SluiceError | None = None
        # Cut batches that are not settled, by ascending sequence; the first `_sent` of them went
        # out on this connection.
        self._unacked: deque[_Batch] = deque()
        self._sent = 0
        self._next_sequence = options.first_sequence
        self._inflight_bytes = 0
        self._must_be_new = resume is None
        for records in resume.batches if resume is not None else ():
            self._take_over(records)
        # All before it may be in the log.
        self._unsent_sequence = self._next_sequence
        self._batch = self._new_batch()
        self._wants_flush = False
        self._is_open = False
        self._is_draining = False
        self._close_sent = False
        self._waiting_since: float | None = None

    # -- the caller's side

    @property
    def has_room(self) -> bool:
        """Whether another event may be added; what is on its way is bounded by its bytes."""
        return self._inflight_bytes < self.options.max_inflight_bytes

    def add(self, payload: bytes, key: bytes, event_id: bytes) -> bool:
        """Takes one event over. True: whoever sends has something new to look at."""
        size = len(payload) + len(key)
        if size > self._max_event_bytes:
            raise _over_limit(Record(payload, key, event_id), size, self._max_event_bytes)
        size += len(event_id) + _WIRE_BYTES
        batch = self._batch
        is_cut = batch.size + size > self._batch_bytes and bool(batch.payloads)
        if is_cut:
            self.cut()
            batch = self._batch
        batch.payloads.append(payload)
        batch.keys.append(key)
        batch.ids.append(event_id)
        batch.has_keys |= bool(key)
        batch.has_ids |= bool(event_id)
        batch.size += size
        self._inflight_bytes += size + _OBJECT_BYTES - _WIRE_BYTES
        self.counts.sent += 1
        count = len(batch.payloads)
        if count == 1:
            batch.due = self._clock() + self.options.linger
        if count >= self._batch_events or batch.size >= self._batch_bytes:
            self.cut()
            return True
        return is_cut or count == 1

    def cut(self) -> None:
        """Ends the batch that is being filled, so that it is sent."""
        if self._batch.payloads:
            self._unacked.append(self._batch)
            self._next_sequence += 1
            self._batch = self._new_batch()

    def flush(self) -> int:
        """Asks for an ack of all that was added; `is_settled` tells about the sequence returned."""
        self.cut()
        self._wants_flush = bool(self._unacked)
        return self._next_sequence - 1

    def is_settled(self, sequence: int) -> bool:
        """Whether everything up to this sequence is answered for good."""
        return not self._unacked or self._unacked[0].sequence > sequence

    def close(self) -> None:
        """No more events: what was added is sent and acked, then the session is done."""
        self.cut()
        self.is_closing = True

    def abort(self, failure: SluiceError) -> None:
        """Gives up at once; what is not acked stays in `unacked`."""
        if not self.is_done:
            self.failure = failure
            self.is_done = True
            self.cut()
            failure.events = self.unacked()

    def unacked(self) -> Unacked:
        """What was not acked, with its identity."""
        batches = tuple(batch.records() for batch in self._unacked)
        if self._batch.payloads:
            batches += (self._batch.records(),)
        first = self._unacked[0].sequence if self._unacked else self._next_sequence
        options = self.options
        return Unacked(options.stream, options.producer_id, options.epoch, first, batches)

    def check_open(self) -> None:
        """Raises why no more events can be taken over."""
        if self.failure is not None:
            raise self.failure
        if self.is_closing:
            raise errors.Closed("the stream is closed")

    def check(self) -> None:
        """Raises what the caller has to know before it goes on."""
        self.check_open()
        self.check_end()

    def check_end(self) -> None:
        """Raises what the caller has to know at the end."""
        if self.failure is not None:
            raise self.failure
        self.check_refused()

    def check_refused(self) -> None:
        """Raises for the events that were refused since the last call."""
        refusal = self.take_refusal()
        if refusal is not None:
            raise refusal

    def take_reports(self) -> list[EventError]:
        """The errors since the last call, for the callback."""
        reports, self._reports = self._reports, []
        return reports

    def take_refusal(self) -> SluiceError | None:
        """The exception for what was refused since the last call, which nobody else was told."""
        if not self._refused:
            return None
        refused, self._refused = self._refused, {}
        violations, self._violations = self._violations, []
        cause, self._refusal = self._refusal, None
        first = violations[0]
        place = "" if first.index is None else f"event {first.index}"
        place += f".{first.field}: " if first.field else ": " * bool(place)
        count = f"{len(refused)} events are refused" if len(refused) > 1 else "an event is refused"
        kind = errors.InvalidEvents if cause is None else type(cause)
        return kind(
            f"{count} and not in the log: {place}{first.message}",
            code="INVALID_ARGUMENT" if cause is None else cause.code,
            reason="EVENTS_REFUSED" if cause is None else cause.reason,
            violations=violations[:100],
            events=[refused[index] for index in sorted(refused)],
        )

    # -- the connection's side

    def connecting(self) -> pb.PublishStreamRequest:
        """A connection begins: its first request. All that is not acked goes out again."""
        self._sent = 0
        self._is_open = self._is_draining = self._close_sent = False
        self._waiting_since = self._clock()
        options = self.options
        return pb.PublishStreamRequest(
            open=pb.OpenStream(
                stream=options.stream,
                producer_id=options.producer_id,
                producer_epoch=options.epoch,
                want_positions=options.want_positions,
            )
        )

    def next_step(self) -> pb.PublishStreamRequest | Wait:
        """What to send next on this connection. Raises what `check_patience` raises."""
        now = self._clock()
        until = self.check_patience()
        if not self._is_open or self._is_draining:
            return Wait.until(until, now)
        if self._batch.payloads and now >= self._batch.due:
            self.cut()
        if self._sent < len(self._unacked):
            batch = self._unacked[self._sent]
            self._sent += 1
            self._unsent_sequence = max(self._unsent_sequence, batch.sequence + 1)
            self._expect_answer(now)
            return batch.request()
        if self._batch.payloads:
            return Wait.until(min(until, self._batch.due), now)
        if self._wants_flush:
            self._wants_flush = False
            return pb.PublishStreamRequest(flush=pb.Flush())
        if self.is_closing and not self._close_sent:
            self._close_sent = True
            self._expect_answer(now)
            return pb.PublishStreamRequest(close=pb.CloseStream())
        return Wait.until(until, now)

    def check_patience(self) -> float:
        """Until when the server may say nothing. Raises when that is over: the connection is of no
        use then, and the error goes to `lost`.
        """
        if self._waiting_since is None:
            return float("inf")
        patience = self.options.ack_timeout if self._is_open else _OPEN_TIMEOUT_S
        if self._clock() >= self._waiting_since + patience:
            what = "ack" if self._is_open else "answer to the opening of the stream"
            raise errors.OutcomeUnknown(f"no {what} for {patience:g} s", reason="STALLED")
        return self._waiting_since + patience

    def receive(self, response: pb.PublishStreamResponse) -> None:
        """Takes one response. What it raises ends the connection, and goes to `lost`."""
        kind = response.WhichOneof("message")
        if kind == "ack":
            self._settle_through(response.ack.acked_through)
        elif kind == "result":
            self._take_result(response.result)
        elif kind == "opened":
            self._opened(response.opened)
        elif kind == "drain":
            self._is_draining = True
        self._waiting_since = None
        if self._sent or self._is_draining or self._close_sent:
            self._waiting_since = self._clock()

    def lost(self, error: SluiceError | None) -> float | None:
        """The connection ended; None: the server closed it. Seconds to wait before the next one;
        None: there is none, the session is done.
        """
        self._is_open = False
        self._sent = 0
        self._waiting_since = None
        if self.is_done:
            return None
        if self.is_closing and not self._unacked:
            # Whatever it ended with: nothing depends on it.
            self.is_done = True
            return None
        if error is None:
            error = errors.OutcomeUnknown("the server closed the stream", reason="CONNECTION_LOST")
        pause = self._patience.pause(error)
        if pause is None:
            self.abort(self._final(error))
        return pause

    # -- inside

    def _expect_answer(self, now: float) -> None:
        if self._waiting_since is None:
            self._waiting_since = now

    def _new_batch(self) -> _Batch:
        return _Batch(self._next_sequence, self.counts.sent)

    def _take_over(self, records: Sequence[Record]) -> None:
        """A batch of an earlier session, as it was cut then."""
        wire = batch_of(records)
        batch = _Batch(
            self._next_sequence,
            self.counts.sent,
            [record.payload for record in records],
            [record.key for record in records],
            [record.event_id for record in records],
            has_keys=bool(wire.keys),
            has_ids=bool(wire.event_ids),
            size=sum(map(size_of, records)),
        )
        self._unacked.append(batch)
        self._next_sequence += 1
        self._inflight_bytes += batch.memory()
        self.counts.sent += len(records)

    def _opened(self, opened: pb.StreamOpened) -> None:
        known, options = opened.resume_after_sequence, self.options
        if self._must_be_new and known >= options.first_sequence:
            raise errors.SequenceConflict(
                f"the server has sequences up to {known} of producer {options.producer_id!r}, "
                f"epoch {options.epoch}: give a higher epoch=",
                reason="SEQUENCE_KNOWN",
            )
        self._must_be_new = False
        self._is_open = True
        if not self._unacked:
            self._patience.progressed()

    def _take_result(self, result: pb.BatchResult) -> None:
        if result.code not in _SETTLING:
            error = _status.refusal(result.code, result.message)
            # A gap: the server and we are out of step, and begin anew.
            is_gap = error.code == "OUT_OF_RANGE"
            raise errors.OutcomeUnknown(error.message, reason="OUT_OF_STEP") if is_gap else error
        batch = next((one for one in self._unacked if one.sequence == result.sequence), None)
        if batch is None:
            return
        # The answer to a repeat knows neither errors nor positions; one from before does.
        is_repeat = result.accepted == 0 and result.duplicate > 0
        if batch.result is None or not is_repeat:
            batch.result = result

    def _settle_through(self, sequence: int) -> None:
        while self._sent and self._unacked[0].sequence <= sequence:
            batch = self._unacked.popleft()
            self._sent -= 1
            self._inflight_bytes -= batch.memory()
            self._patience.progressed()
            self._settle(batch)

    def _settle(self, batch: _Batch) -> None:
        counts, events, result = self.counts, len(batch.payloads), batch.result
        counts.acked += events
        if result is None:
            counts.accepted += events
            return
        if result.code in _REFUSING:
            counts.refused += events
            self._refuse_whole(batch, result)
            return
        accepted = result.accepted + result.duplicate
        counts.accepted += accepted
        counts.refused += max(0, events - accepted)
        counts.quarantined += result.quarantined
        counts.duplicate += result.duplicate
        counts.errors_cut += result.errors_cut
        self.positions |= positions_of(self.options.stream, result)
        for error in result.errors:
            self._report(event_error(error, batch.first + error.index, batch.record(error.index)))

    def _refuse_whole(self, batch: _Batch, result: pb.BatchResult) -> None:
        self._refusal = self._refusal or _status.refusal(result.code, result.message)
        self._refused.update(enumerate(batch.records(), batch.first))
        self._violations += [
            Violation(error.field, error.message, batch.first + error.index)
            for error in result.errors
        ] or [Violation("", result.message)]

    def _report(self, error: EventError) -> None:
        if self.options.has_callback:
            self._reports.append(error)
            return
        if len(self.errors) < _ERRORS_MAX:
            self.errors.append(error)
        else:
            self.counts.errors_cut += 1
        if not error.quarantined:
            self._refused[error.index] = error.record
            self._violations.append(Violation(error.field, error.message, error.index))

    def _final(self, error: SluiceError) -> SluiceError:
        if not error.retryable:
            return error
        left = len(self.unacked())
        message = (
            f"nothing was acked for {self._patience.seconds:g} s, {left} events are not acked: "
            f"{error.message}"
        )
        was_sent = bool(self._unacked) and self._unacked[0].sequence < self._unsent_sequence
        kind = errors.OutcomeUnknown if was_sent else errors.Unavailable
        return kind(message, code=error.code, reason=error.reason)


def _over_limit(record: Record, size: int, limit: int) -> errors.TooLarge:
    message = f"{size} bytes of payload and key are over max_event_bytes ({limit})"
    violation = Violation("", message, None)
    text = f"the event is not sent: {message}"
    return errors.TooLarge(text, violations=[violation], events=[record])
