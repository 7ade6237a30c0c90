"""Waiting between attempts: full jitter, bounded in time and number."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Final

from tabellion.errors import ServerAnswerError

_BASE_SECONDS: Final = 0.05
_CAP_SECONDS: Final = 6.0
_BUSY: Final = 503
_RANDOM: Final = random.SystemRandom()


@dataclass
class Retries:
    """One publication's attempts.

    Attributes:
        max_attempts: How often is enough after a lost race.
        max_faults: How often is enough without a usable answer.
        max_seconds: How long is enough.
        busy_seconds: How long is enough while the server says that it can't for now: its store
            is restarting or failing over.
    """

    max_attempts: int = 100
    max_faults: int = 4
    max_seconds: float = 300
    busy_seconds: float = 12
    attempts: int = 0
    faults: int = 0
    _began: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    _attempt_began: float = 0.0

    def begin(self) -> None:
        """Count an attempt and take its time: the wait after it goes by how long it took."""
        self.attempts += 1
        self._attempt_began = asyncio.get_running_loop().time()

    async def pause(self, error: Exception, *, is_fault: bool) -> None:
        """Wait before the next attempt, or raise ``error`` if it was the last."""
        self.faults += is_fault
        now = asyncio.get_running_loop().time()
        elapsed, took = now - self._began, now - self._attempt_began
        is_busy = isinstance(error, ServerAnswerError) and error.status == _BUSY
        if (
            self.attempts >= self.max_attempts
            or (self.faults > self.max_faults and not (is_busy and elapsed < self.busy_seconds))
            or elapsed > self.max_seconds
        ):
            raise error
        # Under load an attempt takes longer: shorter waits would only make more lost races.
        bound = min(_CAP_SECONDS, max(_BASE_SECONDS, took) * 2 ** min(self.attempts, 6))
        await asyncio.sleep(_RANDOM.uniform(0, bound))
