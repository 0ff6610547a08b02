"""Events as JSON: exact, or an error that names the field."""

from __future__ import annotations

import enum
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy
import pandas
import pydantic
import pytest

import sluice
from sluice._encode import encode, records

MINUTES = timezone(timedelta(hours=5, minutes=30))
SECONDS = timezone(timedelta(minutes=19, seconds=32))


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int
    y: Decimal


class Model(pydantic.BaseModel):
    at: datetime
    inner: dict[str, int]


GOOD: dict[str, tuple[Any, Any]] = {
    "naive time is utc": (datetime(2026, 3, 2, 18, 0, 19), "2026-03-02T18:00:19Z"),
    "microseconds": (datetime(2026, 3, 2, 18, 0, 19, 4), "2026-03-02T18:00:19.000004Z"),
    "zone": (datetime(2026, 3, 2, 18, tzinfo=MINUTES), "2026-03-02T18:00:00+05:30"),
    "zone of seconds": (datetime(1900, 1, 1, tzinfo=SECONDS), "1899-12-31T23:40:28+00:00"),
    "date": (date(2024, 2, 29), "2024-02-29"),
    "time": (time(1, 2, 3), "01:02:03"),
    "decimal": (Decimal("0.10"), "0.10"),
    "large decimal": (Decimal("12345678901234567890.123456789"), "12345678901234567890.123456789"),
    "uuid": (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "enum": (Colour.RED, "red"),
    "int enum": (Level.HIGH, 3),
    "large int": (2**70, 2**70),
    "float": (0.1, 0.1),
    "unicode": ("søk 🦀 \n", "søk 🦀 \n"),
    "nested": ({"a": [date(2024, 1, 1), (1, None)]}, {"a": ["2024-01-01", [1, None]]}),
    "dataclass": (Point(1, Decimal("2.50")), {"x": 1, "y": "2.50"}),
    "mapping": (MappingProxyType({"a": 1}), {"a": 1}),
    "model": (
        Model(at=datetime(2026, 1, 1), inner={"n": 1}),
        {"at": "2026-01-01T00:00:00Z", "inner": {"n": 1}},
    ),
    "numpy int": (numpy.int64(7), 7),
    "numpy float": (numpy.float32(0.5), 0.5),
    "numpy bool": (numpy.bool_(True), True),
    "numpy array": (numpy.array([1, 2]), [1, 2]),
    "numpy time": (numpy.datetime64("2026-03-02T18:00:19.5"), "2026-03-02T18:00:19.500Z"),
    "numpy day": (numpy.datetime64("2026-03-02"), "2026-03-02"),
    "pandas time": (pandas.Timestamp(1), "1970-01-01T00:00:00.000000001Z"),
    "NaT": (pandas.NaT, None),
    "numpy NaT": (numpy.datetime64("NaT"), None),
    "NA": (pandas.NA, None),
}


@pytest.mark.parametrize(("value", "expected"), GOOD.values(), ids=GOOD.keys())
def test_a_value_is_written_exactly(value: Any, expected: Any) -> None:
    assert json.loads(encode({"field": value})) == {"field": expected}


@pytest.mark.parametrize(
    "event",
    [Point(1, Decimal(2)), MappingProxyType({"x": 1, "y": "2"})],
    ids=lambda e: str(type(e)),
)
def test_an_event_need_not_be_a_dict(event: Any) -> None:
    assert encode(event) == b'{"x":1,"y":"2"}'


@pytest.mark.parametrize("text", ['{"a": 1}', b'{"a": 1}', bytearray(b'{"a": 1}')])
def test_json_is_sent_as_it_is(text: Any) -> None:
    assert encode(text) == b'{"a": 1}'


UNSUPPORTED: dict[str, tuple[Any, str, str]] = {
    "bytes": (b"x", "field", "of type bytes.*base64 or hex"),
    "set": ({1}, "field", "of type set"),
    "timedelta": (timedelta(1), "field", "of type timedelta"),
    "complex": (1j, "field", "of type complex"),
    "numpy timedelta": (numpy.timedelta64(1, "s"), "field", "of type timedelta64"),
    "numpy bytes": (numpy.bytes_(b"x"), "field", "of type bytes_"),
    "object": (object(), "field", "of type object"),
    "nested": ({"tags": ["a", b"b"]}, "field.tags[1]", "of type bytes"),
    "in a dataclass": (Point(1, b"x"), "field.y", "of type bytes"),  # type: ignore[arg-type]
    "key": ({(1, 2): 3}, "field.(1, 2)", "of type tuple"),
}


@pytest.mark.parametrize(("value", "field", "words"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_a_type_without_one_json_form_is_named(value: Any, field: str, words: str) -> None:
    with pytest.raises(sluice.UnsupportedType, match=words) as caught:
        encode({"before": 1, "field": value}, 3)
    assert (caught.value.field, caught.value.index) == (field, 3)
    assert f"events[3].{field}" in caught.value.message
    assert isinstance(caught.value, TypeError)
    assert caught.value.violations[0].index == 3


VALUES: dict[str, tuple[Any, str]] = {
    "nan": (math.nan, "field"),
    "infinity": ({"deep": [1.0, -math.inf]}, "field.deep[1]"),
    "numpy nan": (numpy.float64("nan"), "field"),
    "numpy small nan": (numpy.float32("nan"), "field"),
    "decimal nan": (Decimal("NaN"), "field"),
    "decimal infinity": (Decimal("-Infinity"), "field"),
    "surrogate": ("\ud800", "field"),
}


@pytest.mark.parametrize(("value", "field"), VALUES.values(), ids=VALUES.keys())
def test_a_value_that_json_does_not_have_is_named(value: Any, field: str) -> None:
    with pytest.raises(sluice.EncodeError) as caught:
        encode({"field": value})
    assert (caught.value.field, caught.value.index) == (field, None)
    assert f"the event.{field}" in caught.value.message
    assert isinstance(caught.value, ValueError)


def test_an_event_that_contains_itself_is_named() -> None:
    event: dict[str, Any] = {"a": {}}
    event["a"]["b"] = event
    with pytest.raises(sluice.EncodeError, match=r"a\.b contains itself"):
        encode(event)


@pytest.mark.parametrize("event", [7, None, [1], "text" and object()])
def test_what_is_no_event_is_refused(event: Any) -> None:
    with pytest.raises(sluice.UnsupportedType, match=r"events\[0\] is of type .*: give a dict"):
        list(records([event]))


@pytest.mark.parametrize("events", [{"a": 1}, '{"a": 1}', b"{}", sluice.Record(b"{}")])
def test_one_event_is_not_many(events: Any) -> None:
    with pytest.raises(TypeError, match=r"give \[event\]"):
        list(records(events))


def test_what_is_not_iterable_is_no_events() -> None:
    with pytest.raises(TypeError, match="int is not an iterable of events"):
        list(records(7))


def test_the_package_does_not_load_what_it_may_not_need() -> None:
    code = (
        "import sys, sluice\n"
        "heavy = {'pyarrow', 'pandas', 'polars', 'numpy', 'adbc_driver_flightsql'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
