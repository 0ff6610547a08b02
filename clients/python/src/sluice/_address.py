"""Where a server listens: URLs as users write them, and the gRPC channel options."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from sluice.errors import ConfigurationError

INGEST_PORT: Final = 50051
FLIGHT_PORT: Final = 50052
_PLAIN: Final = ("http", "grpc", "grpc+tcp")
_TLS: Final = ("https", "grpcs", "grpc+tls")

CHANNEL_OPTIONS: Final = (
    # A request may be as large as the server says, which is more than gRPC's 4 MiB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Details of errors travel in headers.
    ("grpc.max_metadata_size", 16 * 1024),
    # A server that comes back is found soon; how often to try is ours to say.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A silent server is asked for a sign of life.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients do not share connections.
    ("grpc.use_local_subchannel_pool", 1),
)


class Address:
    """`host:port` of a server."""

    def __init__(self, option: str, url: str, default_port: int, scheme: str) -> None:
        self.host, self.port = _parse(option, url, default_port, scheme)

    @property
    def target(self) -> str:
        """`host:port`, IPv6 hosts in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def addresses(url: str, flight: str | None) -> tuple[Address, Address]:
    """Of ingest and of Flight SQL; Flight's default is the same host at its default port."""
    ingest = Address("url", url, INGEST_PORT, "http")
    if flight is None:
        host = ingest.target.rpartition(":")[0]
        return ingest, Address("flight", f"grpc://{host}:{FLIGHT_PORT}", FLIGHT_PORT, "grpc")
    return ingest, Address("flight", flight, FLIGHT_PORT, "grpc")


def _parse(option: str, url: str, default_port: int, scheme: str) -> tuple[str, int]:
    def wrong(why: str) -> ConfigurationError:
        return ConfigurationError(f"{option}={url!r}: {why}; give {scheme}://HOST:PORT")

    given, separator, rest = url.partition("://")
    if not separator:
        given, rest = scheme, url
    if given in _TLS:
        raise wrong("TLS is not supported yet")
    if given not in _PLAIN:
        raise wrong(f"unknown scheme {given!r}")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise wrong(str(error)) from None
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong("not an address of a server")
    if not host or port == 0:
        raise wrong("the host or port is missing")
    return host, port or default_port
