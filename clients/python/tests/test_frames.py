"""Frames go in and come out of the tables with the same values."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pandas
import polars
import pyarrow as pa
import pytest

import sluice
from sluice._encode import records

UTC = timezone.utc
AT = datetime(2026, 3, 2, 18, 0, 19, 456789, tzinfo=UTC)
COLUMNS: dict[str, list[Any]] = {
    "id": [1, 2, 3],
    "label": ["søk", None, 'a "quoted" \\ word'],
    "amount": [Decimal("0.1000"), Decimal("-12345678901234.5678"), None],
    "ratio": [0.1, None, -1e300],
    "ok": [True, False, None],
    "at": [AT, None, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)],
    "day": [date(2024, 2, 29), None, date(1969, 12, 31)],
}
ROWS = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
TYPES = pa.schema(
    [
        ("id", pa.int64()),
        ("label", pa.string()),
        ("amount", pa.decimal128(18, 4)),
        ("ratio", pa.float64()),
        ("ok", pa.bool_()),
        ("at", pa.timestamp("us", "UTC")),
        ("day", pa.date32()),
    ]
)
TABLE = pa.table(COLUMNS, schema=TYPES)

FRAMES: dict[str, Callable[[], Any]] = {
    "rows": lambda: ROWS,
    "table": lambda: TABLE,
    "batch": lambda: TABLE.to_batches()[0],
    "reader": lambda: TABLE.to_reader(max_chunksize=2),
    "sliced table": lambda: pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]),
    "other widths": lambda: (
        TABLE.set_column(5, "at", TABLE["at"].cast(pa.timestamp("ns", "UTC")))
        .set_column(6, "day", TABLE["day"].cast(pa.date64()))
        .set_column(1, "label", TABLE["label"].dictionary_encode())
    ),
    "another zone": lambda: TABLE.set_column(
        5, "at", TABLE["at"].cast(pa.timestamp("us", "Asia/Kolkata"))
    ),
    "no zone": lambda: TABLE.set_column(5, "at", TABLE["at"].cast(pa.timestamp("us"))),
    "pandas": lambda: pandas.DataFrame(COLUMNS),
    "pandas of arrow": lambda: TABLE.to_pandas(types_mapper=pandas.ArrowDtype),
    "pandas with an index": lambda: pandas.DataFrame(COLUMNS, index=["x", "y", "z"]),
    "polars": lambda: polars.DataFrame(COLUMNS),
}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES.keys())
def test_rows_come_out_as_they_went_in(client: sluice.Client, make: Callable[[], Any]) -> None:
    """All frames hold the same rows, so however many there are, three of them differ."""
    before = count(client)
    result = client.publish("kinds", make())
    assert (result.accepted, result.quarantined) == (3, 0)
    assert count(client) == before + 3
    found = client.sql(f"SELECT DISTINCT {', '.join(COLUMNS)} FROM silver.kinds_rows ORDER BY id")
    assert found.cast(TYPES).to_pylist() == ROWS


def count(client: sluice.Client) -> int:
    [row] = client.sql("SELECT count(*) AS rows FROM silver.kinds_rows", after="all").to_pylist()
    return int(row["rows"])


def test_a_frame_goes_through_a_stream(client: sluice.Client) -> None:
    frame = polars.DataFrame({"device": ["frame"] * 2_500, "number": range(2_500)})
    with client.stream("readings", want_positions=True) as stream:
        stream.send_many(frame, keys="k")
    query = "SELECT count(*) AS rows, sum(number) AS total FROM silver.readings_rows"
    found = client.sql(f"{query} WHERE device = 'frame'", after=stream.positions)
    assert found.to_pylist() == [{"rows": 2_500, "total": 2_500 * 2_499 // 2}]


def payloads(frame: Any) -> list[bytes]:
    return [record.payload for record in records(frame)]


def test_nested_values_are_kept() -> None:
    table = pa.table({"a": [{"b": [1, None]}, None]})
    assert payloads(table) == [b'{"a":{"b":[1,null]}}', b'{"a":null}']


def test_what_is_missing_in_pandas_is_null() -> None:
    frame = pandas.DataFrame({"x": [1.5, None], "at": [pandas.Timestamp(0), pandas.NaT]})
    assert payloads(frame)[1] == b'{"x":null,"at":null}'


@pytest.mark.parametrize(
    "frame",
    [
        pa.table({"x": [1.0, float("nan")]}),
        pa.table({"x": pa.array([1.0, float("inf")], pa.float32())}),
        pa.table({"x": [[1.0], [float("nan")]]}),
        polars.DataFrame({"x": [1.0, float("-inf")]}),
        pandas.DataFrame({"x": [1.0, float("inf")]}),
    ],
    ids=["nan", "float32", "nested", "polars", "pandas"],
)
def test_a_number_that_json_does_not_have_is_named(frame: Any) -> None:
    with pytest.raises(sluice.EncodeError, match=r"events\[1\]\.x") as caught:
        payloads(frame)
    assert caught.value.index == 1
    assert caught.value.field.startswith("x")


def test_the_row_is_counted_over_all_batches() -> None:
    table = pa.concat_tables([pa.table({"x": [1.0] * 5}), pa.table({"x": [1.0, float("nan")]})])
    with pytest.raises(sluice.EncodeError, match=r"events\[6\]\.x is nan"):
        payloads(table)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pa.table({"x": [b"raw"]}), "column 'x' is of type binary.*base64"),
        (pa.table({"x": pa.array([1], pa.duration("s"))}), "column 'x' is of type duration"),
        (pa.table({"x": [[b"raw"]]}), r"events\[0\]\.x\[0\] is of type bytes"),
        (pandas.DataFrame({"x": ["a", 1]}), "column x with type"),
        (polars.Series("x", [1]), "not a table of events"),
        (pa.table([[1], [2]], names=["x", "x"]), "column 'x' stands twice"),
    ],
    ids=["binary", "duration", "nested binary", "mixed", "series", "twice"],
)
def test_a_column_that_cannot_be_written_is_named(frame: Any, words: str) -> None:
    with pytest.raises(sluice.EncodeError, match=words):
        payloads(frame)


def test_decimals_are_not_rounded() -> None:
    value = Decimal("12345678901234567890123456789012.345678")
    with decimal.localcontext() as context:
        context.prec = 6
        assert payloads(pa.table({"x": [value]})) == [f'{{"x":"{value}"}}'.encode()]
