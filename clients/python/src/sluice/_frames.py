"""Rows of Arrow tables, and of frames that give themselves out as such (pandas, polars), as JSON.

A null is `null`. NaN is a number that JSON does not have, so it is an error, but in pandas, where
it stands for null. Times without a zone are UTC; the index of a pandas frame is not sent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sluice._encode import encode
from sluice.errors import EncodeError, UnsupportedType


def payloads(frame: Any) -> Iterator[bytes]:
    """The JSON of each row."""
    offset = 0
    for batch in _reader(frame):
        for name, field in zip(batch.schema.names, batch.schema, strict=True):
            _check_type(name, field.type)
        columns = [
            _plain(batch.column(i), name, offset) for i, name in enumerate(batch.schema.names)
        ]
        lists = [column.to_pylist() for column in columns]
        names = batch.schema.names
        for index, row in enumerate(zip(*lists, strict=True), offset):
            yield encode(dict(zip(names, row, strict=True)), index)
        offset += batch.num_rows


def _reader(frame: Any) -> Any:
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        frame = _of_pandas(frame)
    elif not hasattr(frame, "__arrow_c_stream__"):
        frame = pa.Table.from_batches([pa.record_batch(frame)])
    try:
        reader = pa.RecordBatchReader.from_stream(frame)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        name = type(frame).__name__
        raise UnsupportedType(f"{name} is not a table of events: {error}") from None
    names = reader.schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EncodeError(f"column {twice!r} stands twice in the table", field=twice)
    return reader


def _of_pandas(frame: Any) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        # Arrow's message ends with the column: (…, 'Conversion failed for column x …').
        reason = "; ".join(map(str, error.args))
        raise UnsupportedType(f"a column has values of more than one type: {reason}") from None


def _check_type(name: str, kind: Any) -> None:
    types = pa.types
    binary = (
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )
    if binary or types.is_duration(kind) or types.is_interval(kind):
        hint = ": decode it, or write it as base64 or hex" if binary else ""
        message = f"column {name!r} is of type {kind}, which cannot be written as JSON{hint}"
        raise UnsupportedType(message, field=name)


def _plain(column: Any, name: str, offset: int) -> Any:
    """The column with values that are quickly written, the same as one by one."""
    kind = column.type
    if pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    if pa.types.is_floating(kind):
        return _finite(column, name, offset)
    if pa.types.is_timestamp(kind):
        # The fraction has the digits of the unit.
        utc = column if kind.tz is None else column.cast(pa.timestamp(kind.unit, "UTC"))
        return pc.strftime(utc, format="%Y-%m-%dT%H:%M:%SZ")
    if pa.types.is_date(kind):
        return column.cast(pa.date32()).cast(pa.string())
    return column


def _finite(column: Any, name: str, offset: int) -> Any:
    is_finite: Callable[[Any], Any] = pc.is_finite
    bad = pc.fill_null(pc.invert(is_finite(column)), False)
    at = pc.index(bad, True).as_py()
    if at >= 0:
        value, index = column[at].as_py(), offset + at
        message = f"events[{index}].{name} is {value}, which JSON does not have: make it null"
        raise EncodeError(message, field=name, index=index)
    return column
