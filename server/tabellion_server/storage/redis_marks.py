"""What a node knows of the store from outside of it: the highest token that was given to it.

Tokens are given out one by one, for each write, by the store's own counter. A store that doesn't
know a token that some node has, lacks what was written since: it was restored, or its newest
moments were lost.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tabellion_server.storage.high_water import BLOCK, HighWater


class NodeMark:
    """One node's knowledge; with a file it outlives the process.

    Attributes:
        known: The highest token that was surely given to this node.
        unsure: How many more may have been.
        settled: The number of the newest write's conclusion that this process saw.
        written_ahead: After a crash, up to where others may have been; 0 else.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file. Blocks.

        Raises:
            StorageError: It can't be read or isn't a mark.
        """
        self.known = 0
        self.settled = 0
        self.written_ahead = 0
        self.unsure = 0
        self._water: HighWater | None = None
        if path is None:
            return
        water = HighWater(path)
        try:
            mark = water.read()
        except BaseException:
            water.close()
            raise
        if mark is not None:
            # Of the ids written ahead the first was used; whether others were isn't known.
            self.known = mark.number if mark.is_exact else max(0, mark.number - BLOCK)
            self.unsure = mark.number - self.known
            if water.is_alone and not mark.is_exact:
                self.written_ahead = mark.number
        self._water = water

    async def share(self) -> None:
        """Let others of this machine join, once what was found is dealt with."""
        if self._water is not None:
            await asyncio.to_thread(self._water.share)

    async def take(self, token: int) -> None:
        """Have a mark that covers a token before anything is written with it.

        Raises:
            StorageError: The mark can't be written; the token must not be used.
        """
        if self._water is not None and not self._water.covers(token):
            await asyncio.to_thread(self._water.cover, token)

    def know(self, token: int, settled: int) -> None:
        """Note a token whose write is concluded, on all the replicas that are asked for.

        The store's number of that conclusion is noted too: of a token that it gave out it may
        have forgotten the write.

        One that isn't may be forgotten in a fail-over, and nothing acknowledged is lost with it.
        """
        if token > self.known:
            self.known, self.unsure = token, 0
        self.settled = max(self.settled, settled)

    def try_alone(self) -> bool:
        """Have the file for itself at the end, if no other process has it open. Blocks."""
        return self._water is not None and self._water.try_alone()

    def settle(self, last: int) -> None:
        """Write the exact mark, if no other process has the file open. Blocks."""
        if self._water is not None:
            self._water.settle(last)

    def close(self) -> None:
        """Let go of the file."""
        if self._water is not None:
            self._water.close()
