"""Is this node's clock right: compared with the store's, which all nodes share.

A clock that is behind makes what is signed by it expire early; by more than what it signs lives,
it's expired from the start, and what has long expired is taken for valid. So that isn't signed
and not served. SQLite has no clock but its machine's: there only a change that is dated in the
future tells, and as nobody knows which of the two was wrong, nothing is refused for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from tabellion_server.logs import log
from tabellion_server.services.signing import Clock
from tabellion_server.storage.interface import ClockError, StorageError, Store

_ROUND_SECONDS: Final = 60.0
_START_SECONDS: Final = 2.0  # how long a start waits for the first look
_TOLERATED: Final = timedelta(minutes=1)
_HINT: Final = "set the clock that is wrong, and keep all by NTP (timedatectl, chronyc tracking)"


class ClockWatch:
    """Compares the node's clock with the store's, and says what is found.

    Attributes:
        problem: What is wrong, in words; empty if nothing is.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        report: Callable[[float], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is compared; ``report`` is told how many seconds this node is ahead."""
        self._store = store
        self._clock = clock
        self._report = report
        self._monotonic = monotonic
        self._told: tuple[datetime, float] | None = None
        self.problem = ""

    def is_past(self, moment: datetime) -> bool:
        """Tell whether a moment has passed by the store's clock; if it has none, never.

        Between two looks it's counted on from the last answer, whatever becomes of this clock.
        """
        now = self._store_now()
        return now is not None and moment <= now

    def verify(self, expires_at: datetime) -> None:
        """Refuse what would be signed by this node's clock if it's expired by the store's.

        Raises:
            ClockError: It is.
        """
        now = self._store_now()
        if now is not None and expires_at <= now:
            raise ClockError(
                f"this node's clock says {_words(self._clock())}, the store's {_words(now)}: what "
                f"is signed here would be expired already, at {_words(expires_at)}",
                hint=_HINT,
            )

    async def look(self) -> None:
        """Compare them once, and log what changed.

        Raises:
            StorageError: The store failed.
        """
        before = self._clock()
        told = await self._store.now()
        after = self._clock()
        if told is None:
            self._tell(await self._dated_ahead())
            return
        self._told = (told, self._monotonic())
        self._report((before - told + (after - before) / 2).total_seconds())
        # An answer that took long makes no difference that there isn't.
        found = ""
        if told - after > _TOLERATED:
            found = f"this node's clock is {_length(told - after)} behind the store's"
        elif before - told > _TOLERATED:
            found = f"this node's clock is {_length(before - told)} ahead of the store's"
        self._tell(found)

    async def begin(self) -> None:
        """Look once before anything is signed, if the store answers soon."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self.look()
        except (StorageError, TimeoutError):
            pass  # who asks the store for more is told

    async def watch_forever(self) -> None:
        """Look about once a minute; runs until cancelled."""
        while True:
            await asyncio.sleep(_ROUND_SECONDS)
            try:
                await self.look()
            except StorageError:
                pass  # who asks the store for more is told
            except Exception:  # noqa: BLE001  (it must outlive any fault)
                log().exception("clock.failed")

    async def _dated_ahead(self) -> str:
        """Say if the newest change is dated in the future."""
        newest = await self._store.changes(None, limit=1)
        ahead = newest[-1].at - self._clock() if newest else timedelta(0)
        if ahead <= _TOLERATED:
            return ""
        return (
            f"the newest change, of {newest[-1].gun}, is dated {_length(ahead)} ahead of this "
            "node's clock, which is wrong, or was wrong then"
        )

    def _store_now(self) -> datetime | None:
        if self._told is None:
            return None
        told, at = self._told
        return told + timedelta(seconds=self._monotonic() - at)

    def _tell(self, found: str) -> None:
        if found and not self.problem:
            log().warning("clock.wrong", problem=found, hint=_HINT)
        elif self.problem and not found:
            log().info("clock.right")
        self.problem = found


def _words(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _length(time: timedelta) -> str:
    return str(timedelta(seconds=round(time.total_seconds())))
