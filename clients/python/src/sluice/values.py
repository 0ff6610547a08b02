"""What goes in and comes back: records, results, positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import overload

__all__ = ["EventError", "Positions", "PublishResult", "Record", "Unacked"]


@dataclass(frozen=True, slots=True)
class Record:
    """An event as it goes over the wire. Whatever takes events takes records too."""

    payload: bytes
    """One JSON object."""
    key: bytes = b""
    """Partition key; empty: the contract's key column, else the identity decides."""
    event_id: bytes = b""
    """Identity; empty: the contract, the producer or the idempotency key gives one."""


@dataclass(frozen=True, slots=True)
class EventError:
    """What is wrong with one event."""

    index: int
    """Which event, from 0: of a `publish` in its `events`, of a stream in all that was sent."""
    reason: str
    """MALFORMED, MISSING_FIELD, WRONG_TYPE, NOT_ACCEPTED, OUT_OF_RANGE, EVENT_TOO_LARGE or
    NO_IDENTITY."""
    field: str
    """The field at fault; empty when the whole event is."""
    message: str
    """What is wrong with it."""
    rule: str
    """The rule of the contract that it breaks, such as `not_null:user_id`."""
    quarantined: bool
    """True: the event is in the log and stands in `quarantine.<stream>`. False: it was refused."""
    record: Record
    """The event itself."""


class Positions(Mapping[tuple[str, int], int]):
    """How far something reaches into the log: (stream, partition) → last offset included.

    Its text form is that of the `x-sluice-after` header: `clicks/0=41,clicks/1=17`. Of two
    positions, `a | b` reaches as far as the further one in each partition.
    """

    __slots__ = ("_offsets",)

    def __init__(self, offsets: Mapping[tuple[str, int], int] | None = None) -> None:
        self._offsets = dict(sorted((offsets or {}).items()))

    def __getitem__(self, partition: tuple[str, int]) -> int:
        return self._offsets[partition]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def __or__(self, other: Positions) -> Positions:
        offsets = dict(self._offsets)
        for partition, offset in other.items():
            offsets[partition] = max(offset, offsets.get(partition, offset))
        return Positions(offsets)

    def __str__(self) -> str:
        parts = self._offsets.items()
        return ",".join(f"{stream}/{partition}={offset}" for (stream, partition), offset in parts)

    def __repr__(self) -> str:
        return f"Positions({self})"


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What became of the events of one `publish`."""

    events: int
    """Events given."""
    accepted: int
    """Events that are durable in the log, quarantined ones included."""
    quarantined: int
    """Of the accepted: those that break the contract and stand in quarantine."""
    errors: tuple[EventError, ...]
    """What is wrong with which event, by index; at most 100 per request."""
    errors_cut: int
    """Errors that are not listed."""
    positions: Positions | None
    """Where the accepted events are in the log; None unless `want_positions` was given."""
    idempotency_key: str
    """The identity of the call: given again with the same events, they count once."""

    @property
    def refused(self) -> int:
        """Events that are not in the log, because the contract says to refuse bad ones."""
        return self.events - self.accepted


@dataclass(frozen=True)
class Unacked(Sequence[Record]):
    """The events of a stream that were not acked, in order, with the identity they were sent under.

    As a sequence it holds records, to look at or to publish anew. Whether those that were sent
    already are in the log is unknown, so rather hand it to `client.resume(unacked)`: the same
    batches go out under the same identity, and count once. It can be pickled.
    """

    stream: str
    """Name of the stream."""
    producer_id: str
    epoch: int
    next_sequence: int
    """The sequence of the first batch, or of the next one where there is none."""
    batches: tuple[tuple[Record, ...], ...] = dataclass_field(repr=False)
    """The events as they were cut into batches, by ascending sequence."""

    @property
    def _records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        """The event at `index` of all batches together."""
        return self._records[index]

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)
