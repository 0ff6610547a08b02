"""Sluice's Python client: events in over gRPC, tables out over Arrow Flight SQL.

    import sluice

    with sluice.connect("http://127.0.0.1:50051") as client:
        client.publish("orders", [{"order_id": "1", "amount": "12.50"}])
        print(client.sql("SELECT count(*) FROM bronze.orders", after="all"))

`sluice.aio` is the same for asyncio. Read on at `Client`, `Stream` and `sluice.errors`.
"""

from sluice import aio, errors
from sluice._version import __version__
from sluice.client import Client, connect
from sluice.errors import (
    AccessDenied,
    Closed,
    ConfigurationError,
    DeadlineExceeded,
    EncodeError,
    InvalidEvents,
    InvalidRequest,
    OutcomeUnknown,
    QueryError,
    SequenceConflict,
    ServerError,
    SluiceError,
    TooLarge,
    Unavailable,
    UnknownStream,
    UnsupportedType,
    Violation,
)
from sluice.stream import Stream
from sluice.values import EventError, Positions, PublishResult, Record, Unacked

__all__ = [
    "AccessDenied",
    "Client",
    "Closed",
    "ConfigurationError",
    "DeadlineExceeded",
    "EncodeError",
    "EventError",
    "InvalidEvents",
    "InvalidRequest",
    "OutcomeUnknown",
    "Positions",
    "PublishResult",
    "QueryError",
    "Record",
    "SequenceConflict",
    "ServerError",
    "SluiceError",
    "Stream",
    "TooLarge",
    "Unacked",
    "Unavailable",
    "UnknownStream",
    "UnsupportedType",
    "Violation",
    "__version__",
    "aio",
    "connect",
    "errors",
]
