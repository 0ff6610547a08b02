"""One `publish` call without its I/O: how it is cut into requests, what the answers add up to."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

from sluice import errors
from sluice._retry import Clock, Patience
from sluice.errors import SluiceError, Violation
from sluice.ingest.v1 import ingest_pb2 as pb
from sluice.values import EventError, Positions, PublishResult, Record

# What stands beside the payload of a record, and beside all records, at most.
_RECORD_OVERHEAD: Final = 18
_REQUEST_OVERHEAD: Final = 1024


class Publication:
    """Hands out one request after the other; each answer or error goes back in."""

    def __init__(
        self,
        stream: str,
        records: Sequence[Record],
        limits: pb.Limits,
        *,
        idempotency_key: str | None,
        want_positions: bool,
        timeout: float,
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._records = records
        self._want_positions = want_positions
        # Made up where none is given, so that a try after a lost answer never doubles anything.
        self._key = uuid.uuid4().hex if idempotency_key is None else idempotency_key
        self._cuts = _cuts(records, limits)
        self._part = 0
        self._accepted = self._quarantined = self._errors_cut = 0
        self._errors: list[EventError] = []
        self._positions = Positions()
        self._is_unknown = False
        self._last: SluiceError | None = None
        self._patience = Patience(timeout, clock)
        self._patience.start()

    def next_request(self) -> tuple[pb.PublishRequest, float] | None:
        """The request to send and the seconds it may take; None: all is done."""
        if self._part + 1 >= len(self._cuts):
            return None
        first, end = self._cuts[self._part], self._cuts[self._part + 1]
        # A call that is not cut has the very key that was given, as with any other client.
        key = self._key if self._part == 0 else f"{self._key}/{first}"
        request = pb.PublishRequest(
            stream=self._stream,
            batch=batch_of(self._records[first:end]),
            idempotency_key=key,
            want_positions=self._want_positions,
        )
        return request, max(self._patience.left(), 0.001)

    def answered(self, response: pb.PublishResponse) -> None:
        """Takes the answer to the request handed out last."""
        result, first = response.result, self._cuts[self._part]
        self._accepted += result.accepted
        self._quarantined += result.quarantined
        self._errors_cut += result.errors_cut
        for error in result.errors:
            at = first + error.index
            self._errors.append(event_error(error, at, self._records[at]))
        self._positions |= positions_of(self._stream, result)
        self._part += 1
        self._is_unknown = False
        self._last = None

    def failed(self, error: SluiceError) -> float:
        """Takes the failure of the request handed out last: seconds to wait before it is sent
        again, or the final error is raised.
        """
        self._is_unknown |= isinstance(error, errors.OutcomeUnknown)
        if error.code == "DEADLINE_EXCEEDED" and self._last is not None:
            # The last try had too little time left to be told more than that.
            text = f"{error.message}; the try before: {self._last.message}"
            error = errors.OutcomeUnknown(text, code=error.code, reason=self._last.reason)
        self._last = error
        pause = self._patience.pause(error)
        if pause is not None:
            return pause
        raise self._final(error)

    @property
    def result(self) -> PublishResult:
        """Of the requests answered so far."""
        return PublishResult(
            events=len(self._records) if self._is_done else self._cuts[self._part],
            accepted=self._accepted,
            quarantined=self._quarantined,
            errors=tuple(self._errors),
            errors_cut=self._errors_cut,
            positions=self._positions if self._want_positions else None,
            idempotency_key=self._key,
        )

    @property
    def _is_done(self) -> bool:
        return self._part + 1 >= len(self._cuts)

    def _final(self, error: SluiceError) -> SluiceError:
        if error.retryable and self._is_unknown and not isinstance(error, errors.OutcomeUnknown):
            # The last try did not get through, but one before it may have.
            reason, code = error.reason, error.code
            error = errors.OutcomeUnknown(error.message, code=code, reason=reason)
        first = self._cuts[self._part]
        error.violations = tuple(
            Violation(one.field, one.message, None if one.index is None else one.index + first)
            for one in error.violations
        )
        error.events = self._records[first:]
        error.result = self.result
        error.idempotency_key = self._key
        return error


def _cuts(records: Sequence[Record], limits: pb.Limits) -> list[int]:
    """Where the requests begin, and the end of the last one."""
    bytes_max = limits.max_request_bytes - _REQUEST_OVERHEAD
    cuts, size = [0], 0
    for index, record in enumerate(records):
        one = size_of(record)
        if one > bytes_max:
            message = f"{one} bytes are over max_request_bytes ({limits.max_request_bytes})"
            violation = Violation("", message, index)
            text = f"events[{index}]: {message}; nothing was sent"
            raise errors.TooLarge(text, violations=[violation], events=[record])
        if size + one > bytes_max or index - cuts[-1] >= limits.max_batch_events:
            cuts.append(index)
            size = 0
        size += one
    return [*cuts, len(records)] if records else [0]


def size_of(record: Record) -> int:
    """Bytes of a record in a request, at most."""
    sizes = len(record.payload) + len(record.key) + len(record.event_id)
    return sizes + _RECORD_OVERHEAD


def batch_of(records: Sequence[Record]) -> pb.RecordBatch:
    """The parallel arrays of the wire; keys and ids are left out where no record has one."""
    keys = [record.key for record in records]
    ids = [record.event_id for record in records]
    return pb.RecordBatch(
        records=[record.payload for record in records],
        keys=keys if any(keys) else (),
        event_ids=ids if any(ids) else (),
    )


def event_error(error: pb.EventError, index: int, record: Record) -> EventError:
    """An error of the wire with the event that it is about."""
    reason = pb.EventError.Reason.Name(error.reason) if error.reason in _REASONS else "UNSPECIFIED"
    return EventError(
        index=index,
        reason=reason.removeprefix("REASON_"),
        field=error.field,
        message=error.message,
        rule=error.rule,
        quarantined=error.quarantined,
        record=record,
    )


_REASONS: Final = frozenset(pb.EventError.Reason.values())


def positions_of(stream: str, result: pb.BatchResult) -> Positions:
    """How far the accepted events reach."""
    return Positions({(stream, one.partition): one.last for one in result.positions})
