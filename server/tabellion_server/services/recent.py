"""The newest changes, held in memory: most readers of the changefeed stand near its end.

What is here has no gaps: all changes above one id, as far as a node has looked.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Final

from tabellion_server.storage.interface import Change

_HELD: Final = 2000


class RecentChanges:
    """Holds so many of the newest changes, in order.

    Attributes:
        newest: Id of the newest change that a look has found; None before the first look.
    """

    def __init__(self, held: int = _HELD) -> None:
        """Take how many are held at least, once there were so many; never twice as many."""
        self._held = held
        self._changes: list[Change] = []
        self._above = 0
        self.newest: int | None = None

    def begin(self, newest: int) -> None:
        """Hold nothing yet, but all that comes above an id."""
        self._above = self.newest = newest
        self._changes = []

    def add(self, found: Sequence[Change]) -> list[Change]:
        """Take what comes next, oldest first; give what wasn't here yet."""
        fresh = [change for change in found if self.newest is None or change.id > self.newest]
        if fresh:
            self._changes += fresh
            self.newest = fresh[-1].id
        if len(self._changes) >= 2 * self._held:
            self._above = self._changes[-self._held - 1].id
            self._changes = self._changes[-self._held :]
        return fresh

    def after(self, gun: str | None, after: int, limit: int) -> list[Change] | None:
        """Give the first changes above an id, of one GUN or all; None if some aren't here."""
        if self.newest is None or after < self._above:
            return None
        found: list[Change] = []
        begin = bisect.bisect_right(self._changes, after, key=lambda change: change.id)
        for place in range(begin, len(self._changes)):
            if len(found) >= limit:
                break
            if gun is None or self._changes[place].gun == gun:
                found.append(self._changes[place])
        return found
