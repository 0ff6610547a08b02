"""A gRPC status made an exception: the one place that knows codes and details.

Every status of Sluice's ingest carries an `ErrorInfo` of its domain. One without was made on the
way, by gRPC itself or a proxy, and says nothing about what the server did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from sluice import errors
from sluice.errors import SluiceError, Violation

_DOMAIN: Final = "ingest.sluice"
_DETAILS: Final = "grpc-status-details-bin"
# What gRPC says when no connection came about, so that nothing was sent.
_NOT_CONNECTED: Final = ("failed to connect", "DNS resolution failed", "Name resolution")
# How a connection ends that breaks, or a call that is given up.
_BROKEN: Final = {
    "ABORTED",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "UNAVAILABLE",
    "UNKNOWN",
}
_RECORD: Final = re.compile(r"records\[(\d+)\](?:\.(.*))?", re.DOTALL)

_BY_CODE: Final[dict[str, type[SluiceError]]] = {
    "ABORTED": errors.OutcomeUnknown,
    "DEADLINE_EXCEEDED": errors.OutcomeUnknown,
    "FAILED_PRECONDITION": errors.InvalidRequest,
    "INVALID_ARGUMENT": errors.InvalidRequest,
    "NOT_FOUND": errors.UnknownStream,
    "OUT_OF_RANGE": errors.InvalidRequest,
    "PERMISSION_DENIED": errors.AccessDenied,
    "RESOURCE_EXHAUSTED": errors.TooLarge,
    "UNAUTHENTICATED": errors.AccessDenied,
    "UNAVAILABLE": errors.Unavailable,
}
_BY_NUMBER: Final = {code.value[0]: code.name for code in grpc.StatusCode}


def error_of(error: grpc.RpcError, target: str) -> SluiceError:
    """The exception for what a call to `target` ended with, of grpc or of grpc.aio."""
    call: Any = error
    code, message = call.code().name, call.details() or ""
    details = _details(call.trailing_metadata() or ())
    info = details.get(error_details_pb2.ErrorInfo)
    if info is None or info.domain != _DOMAIN:
        return _made_on_the_way(code, message, target)
    retry = details.get(error_details_pb2.RetryInfo)
    retry_after = None
    if retry is not None:
        retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    kind = _BY_CODE.get(code, errors.ServerError)
    if info.reason == "BATCH_REFUSED":
        kind = errors.InvalidEvents
    if code == "RESOURCE_EXHAUSTED" and retry is not None:
        kind = errors.Unavailable
    violations = _violations(details)
    return kind(
        message, code=code, reason=info.reason, violations=violations, retry_after=retry_after
    )


def refusal(code: int, message: str) -> SluiceError:
    """The exception for a batch result whose `code` is not 0."""
    name = _BY_NUMBER.get(code, str(code))
    kind = _BY_CODE.get(name, errors.ServerError)
    if name == "INVALID_ARGUMENT":
        kind = errors.InvalidEvents
    return kind(message, code=name, reason="BATCH_REFUSED")


def not_sent(error: SluiceError) -> SluiceError:
    """The same for a call that writes nothing, so that nothing of it is unknown."""
    if not isinstance(error, errors.OutcomeUnknown):
        return error
    return errors.Unavailable(error.message, code=error.code, reason=error.reason)


def _made_on_the_way(code: str, message: str, target: str) -> SluiceError:
    text = f"{target}: {message or code}"
    if code == "UNAVAILABLE" and message.startswith(_NOT_CONNECTED):
        return errors.Unavailable(text, code=code, reason="NOT_CONNECTED")
    if code == "UNIMPLEMENTED":
        text = f"{target} does not speak Sluice's ingest: is this its gRPC ingest port? ({message})"
        return errors.ConfigurationError(text, code=code)
    if code in _BROKEN:
        return errors.OutcomeUnknown(text, code=code, reason="CONNECTION_LOST")
    return _BY_CODE.get(code, errors.ServerError)(text, code=code)


def _details(metadata: Iterable[tuple[str, Any]]) -> dict[type, Any]:
    """The details of a status by their type; those of unknown types are left out."""
    known = {
        kind.DESCRIPTOR.full_name: kind
        for kind in (
            error_details_pb2.BadRequest,
            error_details_pb2.ErrorInfo,
            error_details_pb2.QuotaFailure,
            error_details_pb2.RetryInfo,
        )
    }
    found: dict[type, Any] = {}
    for name, value in metadata:
        if name == _DETAILS:
            for packed in status_pb2.Status.FromString(value).details:
                kind = known.get(packed.type_url.rpartition("/")[2])
                if kind is not None:
                    found[kind] = kind.FromString(packed.value)
    return found


def _violations(details: dict[type, Any]) -> list[Violation]:
    violations = []
    bad = details.get(error_details_pb2.BadRequest)
    for entry in bad.field_violations if bad is not None else ():
        record = _RECORD.fullmatch(entry.field)
        index = None if record is None else int(record[1])
        field = entry.field if record is None else record[2] or ""
        violations.append(Violation(field, entry.description, index))
    quota = details.get(error_details_pb2.QuotaFailure)
    for entry in quota.violations if quota is not None else ():
        violations.append(Violation(entry.subject, entry.description))
    return violations
