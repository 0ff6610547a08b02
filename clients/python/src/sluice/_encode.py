"""Events as JSON, exactly: what cannot be written so that it reads back the same is an error."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sluice.errors import EncodeError, UnsupportedType
from sluice.values import Record

Keys = str | bytes | Sequence[str | bytes | None] | None
"""Partition keys: none, one for all events, or one each."""
Ids = Sequence[str | bytes | None] | None
"""Event ids: none, or one each."""


def encode(event: object, index: int | None = None) -> bytes:
    """The JSON of one event; `index` is named in errors. Bytes and text are JSON already."""
    if type(event) is not dict:
        if isinstance(event, str):
            return event.encode()
        if isinstance(event, bytes | bytearray | memoryview):
            return bytes(event)
        event = _members(event, index)
    try:
        return _ENCODER.encode(event).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _diagnosis(event, index, error) from None


def record(event: object, key: str | bytes | None, event_id: str | bytes | None) -> Record:
    """One event with its key and id; those of a `Record` stay unless others are given."""
    if isinstance(event, Record):
        return Record(
            event.payload, as_bytes(key) or event.key, as_bytes(event_id) or event.event_id
        )
    return Record(encode(event), as_bytes(key), as_bytes(event_id))


def records(events: object, keys: Keys = None, event_ids: Ids = None) -> Iterator[Record]:
    """The records of many events: an iterable of events, or a frame."""
    given_keys, given_ids = _each(keys, "keys"), _each(event_ids, "event_ids")
    one_key = as_bytes(keys) if isinstance(keys, str | bytes) else b""
    count = 0
    for payload in _payloads(events):
        key = one_key or _entry(given_keys, count, "keys")
        event_id = _entry(given_ids, count, "event_ids")
        count += 1
        if isinstance(payload, Record):
            yield Record(payload.payload, key or payload.key, event_id or payload.event_id)
        else:
            yield Record(payload, key, event_id)
    for name, given in (("keys", given_keys), ("event_ids", given_ids)):
        if given is not None and len(given) != count:
            raise ValueError(f"{len(given)} {name} for {count} events: give one each")


def as_bytes(text: str | bytes | None) -> bytes:
    """A key or id as it goes over the wire; None is empty."""
    if text is None:
        return b""
    return text.encode() if isinstance(text, str) else bytes(text)


def _each(given: Keys, name: str) -> Sequence[str | bytes | None] | None:
    if given is None or (name == "keys" and isinstance(given, str | bytes)):
        return None
    if isinstance(given, str | bytes):
        raise TypeError(f"{name} is one value: give one each")
    return given


def _entry(given: Sequence[str | bytes | None] | None, at: int, name: str) -> bytes:
    if given is None:
        return b""
    if at >= len(given):
        raise ValueError(f"{len(given)} {name} for more than {at} events: give one each")
    return as_bytes(given[at])


def _payloads(events: Any) -> Iterator[bytes | Record]:
    if isinstance(events, str | bytes | bytearray | memoryview | Mapping | Record):
        raise TypeError("one event where many are expected: give [event]")
    if hasattr(events, "__arrow_c_stream__") or hasattr(events, "__arrow_c_array__"):
        # pyarrow is loaded for those who use it.
        from sluice._frames import payloads

        return payloads(events)
    if not hasattr(events, "__iter__"):
        name = type(events).__name__
        raise TypeError(f"{name} is not an iterable of events, nor an Arrow table or a frame")
    return _encode_all(events)


def _encode_all(events: Any) -> Iterator[bytes | Record]:
    for index, event in enumerate(events):
        yield event if isinstance(event, Record) else encode(event, index)


def _members(event: object, index: int | None) -> dict[Any, Any]:
    """The members of what is an event without being a dict."""
    members = _as_dict(event)
    if members is None:
        raise _unsupported(event, "", index)
    return members


def _as_dict(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):  # pydantic and what looks like it
        dumped = value.model_dump()
        return dumped if isinstance(dumped, dict) else None
    return None


def _plain(value: Any) -> Any:
    """What JSON has no type for, in the form that contracts read."""
    if isinstance(value, datetime.datetime):
        # pandas.NaT is a datetime that is not equal to itself.
        return _timestamp(value) if value == value else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            raise ValueError(f"{value} is not a number that JSON has")
        return str(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    members = _as_dict(value)
    if members is not None:
        return members
    return _foreign(value)


def _timestamp(value: datetime.datetime) -> str:
    """RFC 3339. A time without a zone is UTC, as contracts have it."""
    offset = value.utcoffset()
    if offset is None:
        return value.isoformat() + "Z"
    if offset % datetime.timedelta(minutes=1):
        value = value.astimezone(datetime.timezone.utc)
    return value.isoformat()


def _foreign(value: Any) -> Any:
    """Scalars and arrays of numpy and the null of pandas, told by name without an import."""
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    if module == "pandas" and kind.__name__ == "NAType":
        return None
    if module == "numpy" and kind.__name__ == "datetime64":
        text = str(value)
        return None if text == "NaT" else text + "Z" * ("T" in text)
    if module == "numpy" and kind.__name__ != "timedelta64" and hasattr(value, "tolist"):
        plain = value.tolist()
        if type(plain) is not kind and not isinstance(plain, bytes):
            return plain
    raise TypeError(f"{kind.__name__} cannot be written as JSON")


_ENCODER: Final = json.JSONEncoder(
    default=_plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


class _Fault(enum.Enum):
    TYPE = "is of type {kind}, which cannot be written as JSON{hint}"
    NUMBER = "is {value}, which JSON does not have: give None or leave it out"
    TEXT = "holds half of a surrogate pair, which UTF-8 does not have"
    CYCLE = "contains itself"


def _diagnosis(event: object, index: int | None, error: Exception) -> EncodeError:
    """The error of an event that was not written, with the field at fault."""
    found = _culprit(event, "", frozenset())
    if found is None:
        return EncodeError(f"{_place('', index)}: {error}", index=index)
    field, fault, value = found
    if fault is _Fault.TYPE:
        return _unsupported(value, field, index)
    message = f"{_place(field, index)} {fault.value.format(value=value)}"
    return EncodeError(message, field=field, index=index)


def _culprit(value: Any, path: str, above: frozenset[int]) -> tuple[str, _Fault, object] | None:
    """The first value below `value` that cannot be written: where it is, and why."""
    if value is None or isinstance(value, bool | int):
        return None
    if isinstance(value, str):
        return (path, _Fault.TEXT, value) if _is_broken(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, _Fault.NUMBER, value)
    if not isinstance(value, dict | list | tuple):
        try:
            return _culprit(_plain(value), path, above)
        except TypeError:
            return path, _Fault.TYPE, value
        except ValueError:
            return path, _Fault.NUMBER, value
    if id(value) in above:
        return path, _Fault.CYCLE, value
    for name, key, child in _children(value, path):
        if not isinstance(key, str | int | float | None):
            return name, _Fault.TYPE, key
        found = _culprit(key, name, above) or _culprit(child, name, above | {id(value)})
        if found is not None:
            return found
    return None


def _children(value: Any, path: str) -> Iterator[tuple[str, object, object]]:
    """Path, key and value of each member or element."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield f"{path}.{key}" if path else str(key), key, child
    else:
        for at, child in enumerate(value):
            yield f"{path}[{at}]", None, child


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _unsupported(value: object, field: str, index: int | None) -> UnsupportedType:
    name = type(value).__name__
    place = _place(field, index)
    if not field:
        wanted = "a dict, a dataclass, an object with model_dump, or JSON as text or bytes"
        return UnsupportedType(f"{place} is of type {name}: give {wanted}", index=index)
    hint = (
        ": decode it, or write it as base64 or hex" if isinstance(value, bytes | bytearray) else ""
    )
    message = f"{place} {_Fault.TYPE.value.format(kind=name, hint=hint)}"
    return UnsupportedType(message, field=field, index=index)


def _place(field: str, index: int | None) -> str:
    event = "the event" if index is None else f"events[{index}]"
    return f"{event}.{field}" if field else event
