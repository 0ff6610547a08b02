"""When to try again, and when to give up. Knows no clock but the one it is given."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from sluice.errors import SluiceError

Clock = Callable[[], float]
"""Seconds since whenever, never going back."""

_FIRST_S: Final = 0.1
_MAX_S: Final = 2.0


class Patience:
    """Pauses between tries, longer and longer, for so many seconds without progress."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds = seconds
        self._clock = clock
        self._failing_since: float | None = None
        self._tries = 0

    def start(self) -> None:
        """The time runs from now on, not from the first failure."""
        self._failing_since = self._clock()

    def progressed(self) -> None:
        """Something got through: the time starts anew with the next failure."""
        self._failing_since = None
        self._tries = 0

    def left(self) -> float:
        """Seconds before it ends."""
        if self._failing_since is None:
            return self.seconds
        return self._failing_since + self.seconds - self._clock()

    def pause(self, error: SluiceError) -> float | None:
        """Seconds to wait before the next try; None: another one makes no sense."""
        if not error.retryable:
            return None
        if self._failing_since is None:
            self.start()
        full = min(_FIRST_S * 2 ** min(self._tries, 8), _MAX_S)
        self._tries += 1
        pause = error.retry_after
        if pause is None:
            pause = full * random.uniform(0.5, 1.0)
        return pause if pause < self.left() else None
