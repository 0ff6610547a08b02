"""What `Client` and `AsyncClient` have in common: options and their checks, without I/O."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from sluice._address import addresses
from sluice._session import Options, Session
from sluice.errors import ConfigurationError
from sluice.values import PublishResult, Unacked

TIMEOUT: Final = 30.0
"""Seconds that a call may take."""
RETRY_FOR: Final = 60.0
"""Seconds that a stream tries again while nothing is acked."""
_UINT32_MAX: Final = 2**32 - 1


class Settings:
    """Where the servers are, and how patient a client is."""

    def __init__(self, url: str, flight: str | None, timeout: float, retry_for: float) -> None:
        self.ingest, self.flight = addresses(url, flight)
        self.timeout = positive("timeout", timeout)
        self.retry_for = positive("retry_for", retry_for)


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a stream cuts batches and how much it has on its way."""

    batch_events: int = 1_000
    batch_bytes: int = 1 << 20
    linger: float = 0.005
    max_inflight_bytes: int = 8 << 20
    retry_for: float | None = None
    ack_timeout: float = 30.0

    def check(self) -> None:
        """Raises `ConfigurationError` for a value that makes no sense."""
        for name in ("batch_events", "batch_bytes", "max_inflight_bytes", "ack_timeout"):
            positive(name, getattr(self, name))
        if self.linger < 0:
            raise ConfigurationError(f"linger={self.linger}: give seconds, 0 or more")


def identity(producer_id: str | None, epoch: int | None, first_sequence: int) -> Unacked:
    """The name under which a new stream sends: that of nothing that is not acked yet."""
    if producer_id is None:
        if epoch is not None or first_sequence:
            raise ConfigurationError("epoch= and first_sequence= need producer_id=")
        producer_id, epoch = f"python-{uuid.uuid4()}", 0
    if epoch is None:
        # Under an epoch that was used before, new batches would be taken for repeats of old ones.
        raise ConfigurationError(
            f"producer_id={producer_id!r} needs epoch=: a number that is raised with each start"
        )
    if not 0 <= epoch <= _UINT32_MAX:
        raise ConfigurationError(f"epoch={epoch}: give a number from 0 to {_UINT32_MAX}")
    if first_sequence < 0:
        raise ConfigurationError(f"first_sequence={first_sequence}: give a number from 0 on")
    return Unacked("", producer_id, epoch, first_sequence, ())


def options_of(
    stream: str,
    sender: Unacked,
    tuning: Tuning,
    settings: Settings,
    *,
    want_positions: bool,
    has_callback: bool,
) -> Options:
    """The options of a stream that sends under the identity of `sender`, checked."""
    tuning.check()
    return Options(
        stream=stream,
        producer_id=sender.producer_id,
        epoch=sender.epoch,
        first_sequence=sender.next_sequence,
        want_positions=want_positions,
        batch_events=tuning.batch_events,
        batch_bytes=tuning.batch_bytes,
        linger=tuning.linger,
        max_inflight_bytes=tuning.max_inflight_bytes,
        retry_for=settings.retry_for if tuning.retry_for is None else tuning.retry_for,
        ack_timeout=tuning.ack_timeout,
        has_callback=has_callback,
    )


def result_of(session: Session) -> PublishResult:
    """What became of the events of a stream so far, in the form of a `publish`."""
    counts, options = session.counts, session.options
    return PublishResult(
        events=counts.sent,
        accepted=counts.accepted,
        quarantined=counts.quarantined,
        errors=tuple(session.errors),
        errors_cut=counts.errors_cut,
        positions=session.positions if options.want_positions else None,
        idempotency_key="",
    )


def positive(name: str, value: float) -> float:
    """`value`, or `ConfigurationError` where it is not above 0."""
    if not value > 0:
        raise ConfigurationError(f"{name}={value}: give a number above 0")
    return value
