"""What can go wrong, as exceptions that say what to do about it.

Every exception of the package is a `SluiceError`. Decide by type or by `retryable`, never by the
text of the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluice.values import PublishResult, Record

__all__ = [
    "AccessDenied",
    "Closed",
    "ConfigurationError",
    "DeadlineExceeded",
    "EncodeError",
    "InvalidEvents",
    "InvalidRequest",
    "OutcomeUnknown",
    "QueryError",
    "SequenceConflict",
    "ServerError",
    "SluiceError",
    "TooLarge",
    "Unavailable",
    "UnknownStream",
    "UnsupportedType",
    "Violation",
]


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request or with one of its events."""

    field: str
    """The field at fault: of a request such as `idempotency_key`, of an event its field's name;
    empty when the whole event is at fault."""
    message: str
    """What is wrong with it."""
    index: int | None = None
    """Which event, from 0 in what was given to the call; None: the request itself."""


class SluiceError(Exception):
    """Base of all errors of the package."""

    retryable: bool = False
    """Whether the same again may succeed later without a change. What was published has to be sent
    under the same identity: the same `idempotency_key`, or `client.resume(stream.unacked())`."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        events: Sequence[Record] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        """Name of the gRPC code, such as `UNAVAILABLE`; empty: nothing came from a server."""
        self.reason = reason
        """The server's name for the situation, such as `UNKNOWN_STREAM`; stable."""
        self.violations = tuple(violations)
        """What is wrong, field by field; at most 100 entries."""
        self.retry_after = retry_after
        """Seconds that the server asks to wait before another try; None: it does not say."""
        self.events = events
        """The events that this is about: those refused, or those not acked. They can be sent again
        as they are."""
        self.result: PublishResult | None = None
        """Of a `publish` that was cut into several requests: what became of those before."""
        self.idempotency_key = ""
        """Of a `publish`: give it to the next try, so that nothing counts twice."""


class ConfigurationError(SluiceError, ValueError):
    """An address or option cannot be used, or the server is not the one that is meant."""


class EncodeError(SluiceError, ValueError):
    """An event cannot be written as JSON: NaN, an infinity, a circular reference. Nothing of the
    call was sent.
    """

    def __init__(self, message: str, *, field: str = "", index: int | None = None) -> None:
        super().__init__(message, violations=[Violation(field, message, index)])
        self.field = field
        """Where in the event, such as `user.id` or `tags[2]`."""
        self.index = index
        """Which event of the call, from 0; None: the only one."""


class UnsupportedType(EncodeError, TypeError):
    """A value of a type that has no one way to be written as JSON, such as bytes."""


class InvalidRequest(SluiceError):
    """The server refuses the request as such; `violations` names the fields."""


class InvalidEvents(InvalidRequest):
    """Events break their stream's contract, and the contract says to refuse them. They are not in
    the log; `events` holds them.
    """


class TooLarge(SluiceError):
    """Over a limit of the server: split it."""


class UnknownStream(SluiceError):
    """The server has no stream of this name."""


class AccessDenied(SluiceError):
    """The server does not let this caller do that."""


class SequenceConflict(SluiceError):
    """The server knows this producer and epoch: it would take new batches for repeats."""


class Closed(SluiceError):
    """The stream or client was closed. What a stream had not got acked is in its `unacked()`."""


class Unavailable(SluiceError):
    """The server cannot be reached or takes nothing more now. Nothing of the request in question
    was written.
    """

    retryable = True


class OutcomeUnknown(SluiceError):
    """The connection or the log was lost in between: what was sent may or may not be in the log.
    Sent again under the same identity it counts once.
    """

    retryable = True


class DeadlineExceeded(SluiceError, TimeoutError):
    """Not done in the time given. A query may have run, a flush goes on."""

    retryable = True


class QueryError(SluiceError):
    """The statement is wrong or failed."""


class ServerError(SluiceError):
    """A defect or damaged data on the server's side: a person has to look."""


def defect(cause: Exception) -> SluiceError:
    """The error for those who wait for something that ended by a defect of the package."""
    error = SluiceError(f"a defect of the client: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def of_callback(cause: Exception) -> SluiceError:
    """The error of a stream whose `on_error` raised."""
    error = SluiceError(f"on_error raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
