"""Servers that end with the tests, and clients of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import project
import pytest
from harness import EXAMPLE, Sluice

import sluice

MakeServer = Callable[..., Any]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of the tests' project; tests tell their events apart by `device`."""
    home = tmp_path_factory.mktemp("server")
    server = Sluice(home, project.write(home / "project"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The same with limits that are soon reached."""
    home = tmp_path_factory.mktemp("small")
    config = home / "small.toml"
    config.write_text(project.SMALL)
    command = ["up", str(project.write(home / "project")), f"--config={config}"]
    server = Sluice(home, command=command)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def example_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of the example `dvd-clicks`, for what the documents show."""
    home = tmp_path_factory.mktemp("example")
    # Its models may take the whole machine, so that nobody waits for them.
    config = home / "busy.toml"
    config.write_text("[process]\nrecompute_percent = 100\n")
    server = Sluice(home, command=["up", str(EXAMPLE), f"--config={config}"])
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Any]:
    """A server for one test, to be killed and started again on the same ports and folder."""
    server = Sluice(tmp_path / "own", project.write(tmp_path / "project"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def client(server: Any) -> Iterator[sluice.Client]:
    with connect(server) as client:
        yield client


@pytest.fixture
def small_client(small_server: Any) -> Iterator[sluice.Client]:
    with connect(small_server) as client:
        yield client


def connect(server: Any, **options: Any) -> sluice.Client:
    """A client of `server`."""
    return sluice.connect(server.ingest_url, flight=server.flight_url, **options)


def numbers(client: sluice.Client, device: str, stream: str = "readings") -> list[int]:
    """The numbers of a device's rows in Silver, in order, once all that was acked is there."""
    query = f"SELECT number FROM silver.{stream}_rows WHERE device = '{device}' ORDER BY number"
    found: list[int] = client.sql(query, after="all").column("number").to_pylist()
    return found
