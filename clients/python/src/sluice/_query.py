"""SQL over Arrow Flight SQL, through ADBC."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sluice import errors
from sluice.errors import SluiceError
from sluice.values import Positions, PublishResult

if TYPE_CHECKING:
    import pyarrow as pa

After = Positions | PublishResult | str | None
"""What a query waits for: positions, those of a result, `all`, or positions as text."""

# Names of the driver's options.
_HEADER: Final = "adbc.flight.sql.rpc.call_header."
_TIMEOUT: Final = "adbc.flight.sql.rpc.timeout_seconds."
_AFTER: Final = "x-sluice-after"

# `NOT_FOUND: [FlightSQL] table x does not exist (NotFound; ExecuteQuery)`: the driver's word for
# the gRPC code stands at the end.
_TEXT: Final = re.compile(
    r"(?:[A-Z_]+: )?(?:\[FlightSQL\] )?(?P<message>.*?)"
    r"(?: \((?P<code>[A-Za-z]+); [^()]*\))?(?:\. Vendor code: \d+)?",
    re.DOTALL,
)
_KINDS: Final[dict[str, type[SluiceError]]] = {
    "Canceled": errors.DeadlineExceeded,
    "DeadlineExceeded": errors.DeadlineExceeded,
    "Unauthenticated": errors.AccessDenied,
    "Unavailable": errors.Unavailable,
    "Unimplemented": errors.ConfigurationError,
}


class Queries:
    """Connections to one Flight SQL server. May be used from several threads."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._database: Any = None
        self._idle: list[Any] = []
        self._is_closed = False

    def run(self, query: str, after: After, timeout: float) -> pa.Table:
        """The whole answer of one statement."""
        import adbc_driver_manager
        import pyarrow as pa

        options = {f"{_TIMEOUT}{what}": f"{timeout:.3f}" for what in ("query", "fetch")}
        if header := _header(after):
            options[_HEADER + _AFTER] = header
        try:
            with (
                self._connection() as connection,
                adbc_driver_manager.AdbcStatement(connection) as statement,
            ):
                statement.set_options(**options)
                statement.set_sql_query(query)
                rows, _ = statement.execute_query()
                return pa.RecordBatchReader.from_stream(rows).read_all()
        # What fails while rows are read comes as an error of Arrow.
        except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
            raise self._error_of(error, timeout) from None

    def close(self) -> None:
        """Closes all connections; those in use when they are given back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            database, self._database = self._database, None
        for connection in idle:
            connection.close()
        if database is not None:
            database.close()

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection that nobody else uses meanwhile."""
        with self._lock:
            if self._is_closed:
                raise errors.Closed("the client is closed")
            connection = self._idle.pop() if self._idle else self._connect()
        try:
            yield connection
        finally:
            with self._lock:
                is_kept = not self._is_closed
                if is_kept:
                    self._idle.append(connection)
            if not is_kept:
                connection.close()

    def _connect(self) -> Any:
        # The driver is loaded for those who query.
        import adbc_driver_flightsql
        import adbc_driver_manager

        if self._database is None:
            self._database = adbc_driver_flightsql.connect(f"grpc://{self._target}")
        return adbc_driver_manager.AdbcConnection(self._database)

    def _error_of(self, error: Exception, timeout: float) -> SluiceError:
        found = _TEXT.fullmatch(str(error))
        message = str(error) if found is None else found["message"]
        code = "" if found is None else found["code"] or ""
        kind = _KINDS.get(code, errors.QueryError)
        if kind is errors.Unavailable:
            message = f"Flight SQL at {self._target}: {message}"
        elif kind is errors.ConfigurationError:
            message = (
                f"{self._target} does not speak Flight SQL: is this its Flight port? ({message})"
            )
        elif kind is errors.DeadlineExceeded and "context deadline" in message:
            message = f"no answer in {timeout:g} s"
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper()
        return kind(message, code=name)


def _header(after: After) -> str:
    if after is None:
        return ""
    if isinstance(after, PublishResult):
        if after.positions is None:
            raise ValueError("the result has no positions: publish with want_positions=True")
        after = after.positions
    return str(after)
