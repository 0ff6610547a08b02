"""`Client.sql` and `Client.wait` against a real server, and addresses."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from project import reading

import sluice
from sluice._address import addresses


def test_the_answer_is_an_arrow_table(client: sluice.Client) -> None:
    table = client.sql("SELECT 1 AS one, 'x' AS text, TIMESTAMP '2026-03-02 18:00:00' AS at")
    assert isinstance(table, pa.Table)
    assert table.schema.names == ["one", "text", "at"]
    assert table.to_pandas().loc[0, "one"] == 1


def test_an_empty_answer_has_its_schema(client: sluice.Client) -> None:
    table = client.sql("SELECT device, number FROM silver.readings_rows WHERE false")
    assert (table.num_rows, table.schema.names) == (0, ["device", "number"])


def test_a_query_waits_for_what_it_is_told(client: sluice.Client) -> None:
    query = "SELECT count(*) AS rows FROM silver.readings_rows WHERE device = 'after'"
    forms: tuple[Callable[[Any], Any], ...] = (
        lambda result: result,
        lambda result: result.positions,
        lambda result: str(result.positions),
        lambda result: client.positions,
        lambda result: "all",
    )
    for count, form in enumerate(forms, 1):
        result = client.publish("readings", [reading(count, "after")], want_positions=True)
        assert client.sql(query, after=form(result)).to_pylist() == [{"rows": count}]


def test_wait_waits_for_everything(client: sluice.Client) -> None:
    client.publish("readings", [reading(0, "waited")])
    client.wait()
    query = "SELECT number FROM silver.readings_rows WHERE device = 'waited'"
    assert client.sql(query).to_pylist() == [{"number": 0}]


def test_a_result_without_positions_is_nothing_to_wait_for(client: sluice.Client) -> None:
    result = client.publish("readings", [reading(0, "none")])
    with pytest.raises(ValueError, match="want_positions=True"):
        client.sql("SELECT 1", after=result)


def test_positions_that_never_come_are_late(client: sluice.Client) -> None:
    began = time.monotonic()
    with pytest.raises(sluice.DeadlineExceeded, match="did not reach") as caught:
        client.sql(
            "SELECT count(*) FROM silver.readings_rows", after="readings/0=999999999", timeout=0.5
        )
    assert time.monotonic() - began < 5
    assert caught.value.retryable
    assert caught.value.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("SELEC 1", "INVALID_ARGUMENT", "sql does not parse"),
        ("SELECT * FROM silver.nope", "NOT_FOUND", "table silver.nope does not exist"),
        (
            "DROP TABLE silver.readings_rows",
            "PERMISSION_DENIED",
            "DROP TABLE is refused: SQL is read-only here",
        ),
        ("SELECT 1 / 0", "INVALID_ARGUMENT", "Divide by zero"),
    ],
)
def test_a_wrong_statement_says_what_is_wrong(
    client: sluice.Client, query: str, code: str, words: str
) -> None:
    with pytest.raises(sluice.QueryError) as caught:
        client.sql(query)
    assert (caught.value.code, caught.value.retryable) == (code, False)
    # The server's words, without those of the driver around them.
    assert caught.value.message.startswith(words)
    assert "FlightSQL" not in caught.value.message


def test_wrong_positions_are_named(client: sluice.Client) -> None:
    with pytest.raises(sluice.QueryError, match="x-sluice-after"):
        client.sql("SELECT 1", after="readings")


def test_queries_run_side_by_side(client: sluice.Client) -> None:
    def one(number: int) -> Any:
        return client.sql(f"SELECT {number} AS n").column("n").to_pylist()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(40))) == [[number] for number in range(40)]


def test_no_server_is_unavailable() -> None:
    with (
        sluice.connect("127.0.0.1:9", flight="grpc://127.0.0.1:9") as client,
        pytest.raises(sluice.Unavailable, match=r"Flight SQL at 127\.0\.0\.1:9") as caught,
    ):
        client.sql("SELECT 1")
    assert caught.value.retryable


def test_the_ingest_port_is_not_the_flight_port(server: Any) -> None:
    with (
        sluice.connect(server.ingest_url, flight=server.ingest_url) as client,
        pytest.raises(sluice.ConfigurationError, match="is this its Flight port"),
    ):
        client.sql("SELECT 1")


@pytest.mark.parametrize(
    ("url", "flight", "expected"),
    [
        ("http://h:1", "grpc://f:2", ("h:1", "f:2")),
        ("http://h:1/", None, ("h:1", "h:50052")),
        ("h", None, ("h:50051", "h:50052")),
        ("grpc://h", "f", ("h:50051", "f:50052")),
        ("grpc+tcp://127.0.0.1:7", None, ("127.0.0.1:7", "127.0.0.1:50052")),
        ("http://[::1]:5", None, ("[::1]:5", "[::1]:50052")),
    ],
)
def test_addresses_are_taken_as_users_write_them(
    url: str, flight: str | None, expected: tuple[str, str]
) -> None:
    ingest, queries = addresses(url, flight)
    assert (ingest.target, queries.target) == expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://h:1", "TLS is not supported yet"),
        ("ftp://h:1", "unknown scheme 'ftp'"),
        ("http://", "the host or port is missing"),
        ("http://h:0", "the host or port is missing"),
        ("http://h:x", r"url='http://h:x': .*; give http://HOST:PORT"),
        ("http://h:1/path", "not an address of a server"),
        ("http://me@h:1", "not an address of a server"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused(url: str, words: str) -> None:
    with pytest.raises(sluice.ConfigurationError, match=words):
        sluice.connect(url)
    with pytest.raises(sluice.ConfigurationError):
        sluice.connect("h", flight=url)


@pytest.mark.parametrize("name", ["timeout", "retry_for"])
def test_a_time_has_to_be_above_zero(name: str) -> None:
    with pytest.raises(sluice.ConfigurationError, match=f"{name}=0"):
        sluice.connect("h", **{name: 0})  # type: ignore[arg-type]


def test_positions_have_the_form_of_the_header() -> None:
    one = sluice.Positions({("b", 1): 7, ("a", 0): 3})
    other = sluice.Positions({("b", 1): 5, ("c", 0): 1})
    assert str(one) == "a/0=3,b/1=7"
    assert str(one | other) == "a/0=3,b/1=7,c/0=1"
    assert (one | other) == (other | one)
    assert (len(one), one[("a", 0)], bool(sluice.Positions())) == (2, 3, False)
