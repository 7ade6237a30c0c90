"""How the Redis store writes to a GUN: meant, done, told.

In a Cluster a GUN lies on another slot than the changefeed and the list of GUNs, and a script
runs on one slot. So each write takes three steps, in all topologies alike:

1. **meant**: on the feed's slot the GUN is noted, and listed, under a token;
2. **done**: one script on the GUN's slot does all of it or nothing, and puts what the changefeed
   has to be told into the GUN's outbox;
3. **told**: on the feed's slot what is in the outbox is appended once, by its number within the
   GUN, and the note is struck.

Who dies between two steps leaves the note. Any node finds it later, fences the token off, so that
the write can't come any more, and takes the third step.

First and third steps that come while others are under way are put together.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar

from tabellion_server.logs import log
from tabellion_server.storage.groups import Groups
from tabellion_server.storage.interface import RestoredStoreError, StorageError
from tabellion_server.storage.redis_keys import FeedKeys, GunKeys, raw
from tabellion_server.storage.redis_link import RedisLink, Reply, Script, Value
from tabellion_server.storage.redis_marks import NodeMark
from tabellion_server.storage.redis_rows import pairs
from tabellion_server.storage.values import loading_error, ticks

T = TypeVar("T")
Makes = Literal["gun", "key", ""]

_INTEND: Final = Script("intend", "feed_prelude")
_SETTLE: Final = Script("settle", "feed_prelude")
_NOTE_LOST: Final = Script("note_lost", "feed_prelude")
_DUE: Final = Script("due", "feed_prelude")
_FENCE: Final = Script("fence", "gun_prelude")
_FEED: Final = ("lost", "intents", "latest", "moved", "names", "keyed", "known")

_ATTEMPTS: Final = 8
_SWEEP_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 1.0
_AGE_SECONDS: Final = 10  # beyond this nobody is taken to be still at it
_PAGE: Final = 100


def restored_error(name: str, missing: int) -> RestoredStoreError:
    """Say that the store lacks what nodes know of."""
    return RestoredStoreError(
        f"store {name} lacks up to {missing} changes that are known to have been made: it's an old "
        "backup, or lost its newest moments, and what was signed since then must not be signed "
        "otherwise",
        missing=missing,
    )


class GunWriter:
    """Writes to GUNs in three steps, and finishes what others left."""

    def __init__(self, link: RedisLink, mark: NodeMark) -> None:
        self._link = link
        self._mark = mark
        self._prefix = link.address.prefix
        self._feed = FeedKeys(self._prefix)
        self._intents = Groups(self._intend_all)
        self._settlements = Groups(self._settle_all)
        self._running: set[asyncio.Task[Any]] = set()
        self._missing = 0
        self._watching: list[asyncio.Task[None]] = []
        self._ends = asyncio.Event()
        # A look may hang as long as the time-out, at a master that is gone, before the next begins.
        timeout = link.address.timeout_seconds
        self._look_seconds = min(_LOOK_SECONDS, timeout / 2)
        self._settling_seconds = 2 * (timeout + self._look_seconds)

    def start(self, look: Callable[[], Awaitable[int]]) -> None:
        """Begin to look for what others left, and for what the store lacks, now and then."""
        self._watching = [
            asyncio.create_task(self._sweep_forever()),
            asyncio.create_task(self._look_forever(look)),
        ]

    async def drain(self) -> None:
        """Finish what was begun."""
        self._ends.set()
        for task in self._watching:
            await task
        while self._running:
            await asyncio.wait(list(self._running))

    async def whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work to its end even if who asked for it has gone."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def write(
        self,
        gun: str,
        script: Script,
        keys: Sequence[bytes],
        values: Sequence[Value],
        *,
        makes: Makes = "",
        drops: bool = False,
        judges: bool = True,
        at: datetime | None = None,
    ) -> list[Reply]:
        """Write to a GUN, and tell it.

        Args:
            gun: The GUN.
            script: What is done on its slot.
            keys: Its keys.
            values: Its values, behind token, what was moved, whether a loss is accepted, moment.
            makes: What the GUN may come to have, and be listed for.
            drops: It comes to have nothing.
            judges: Whether a store that lacks something refuses.
            at: The moment.

        Gives the script's answer: a word, the head, the outbox, and what else belongs to the word.

        Raises:
            RestoredStoreError: The store, or this GUN, lacks what was written before.
            StorageError: It couldn't be, or it isn't known whether it was.
        """
        moment = ticks(at or datetime.now(UTC))
        for _ in range(_ATTEMPTS):
            token, moved, is_accepted = await self._intend(gun, makes, judges=judges)
            given = (token, moved, is_accepted, moment, *values)
            answer = list(await self._link.run(script, keys, given, waits=True))
            word = answer[0]
            if word == b"fenced":
                continue
            if word == b"lost":
                missing = int(answer[1])
                note = (token, raw(gun), missing)
                await self._link.run(_NOTE_LOST, self._feed.of("lost", "intents"), note)
                raise restored_error(f"{self._link.address.name}, GUN {gun}", missing)
            try:
                settled = await self._settle(
                    gun, token, answer[2], has_head=not drops, has_keys=not drops
                )
                self._mark.know(token, settled)
            except StorageError as error:
                # It is done, and told later by who finds the note. Of a Cluster the token lies
                # elsewhere, and may be forgotten though nothing is lost.
                if self._link.address.topology != "cluster":
                    self._mark.know(token, 0)
                log().warning("changefeed.delayed", gun=gun, problem=error.message)
            return answer
        raise StorageError(
            f"{gun}: {_ATTEMPTS} writes in a row took too long",
            hint=f"see why store {self._link.address.name} is slow",
        )

    async def sweep(self, *, age_seconds: int = _AGE_SECONDS) -> int:
        """Finish writes that were begun long ago by whoever; give their number.

        Raises:
            StorageError: The store failed.
        """
        count = 0
        while members := await self._link.run(_DUE, self._feed.of("intents"), (age_seconds, _PAGE)):
            for member in members:
                token, _, name = member.partition(b":")
                gun = name.decode()
                keys = GunKeys(self._prefix, gun).of("keys", "outbox")
                head, online, outbox = await self._link.run(_FENCE, keys, (token,), waits=True)
                await self._settle(
                    gun, int(token), outbox, has_head=bool(head), has_keys=bool(online)
                )
            count += len(members)
        return count

    async def _intend(self, gun: str, makes: Makes, *, judges: bool) -> tuple[int, int, int]:
        known = self._mark.known if judges else -1
        word, *numbers = await self._intents.ask((known, self._mark.settled, raw(gun), makes))
        if word == b"lost":
            raise restored_error(self._link.address.name, int(numbers[0]))
        if word == b"unsettled":
            seconds = math.ceil(int(numbers[0]) / 1_000_000)
            raise StorageError(
                f"store {self._link.address.name} was started anew or failed over: nodes "
                f"that know of something it lost have {seconds} s left to say so",
                hint="publish again then; reading goes on",
            )
        if word == b"loading":
            raise loading_error()
        token, moved, is_accepted = map(int, numbers)
        await self._mark.take(token)
        return token, moved, is_accepted

    async def _intend_all(self, asked: Sequence[tuple[int, int, bytes, Makes]]) -> list[Reply]:
        values = [value for each in asked for value in each]
        wait = int(self._settling_seconds * 1_000_000)
        given = [wait, len(asked), *values]
        return list(await self._link.run(_INTEND, self._feed.of(*_FEED), given))

    async def _settle(
        self, gun: str, token: int, outbox: Sequence[bytes], *, has_head: bool, has_keys: bool
    ) -> int:
        told = sorted(pairs(outbox).items(), key=lambda item: int(item[0]))
        entries = [part for entry in told for part in entry]
        values: list[Value] = [token, raw(gun), int(has_head), int(has_keys), len(told), *entries]
        return await self._settlements.ask((self._feed.changes(gun), values))

    async def _settle_all(self, asked: Sequence[tuple[bytes, list[Value]]]) -> list[int]:
        keys = [*self._feed.of(*_FEED), self._feed.changes(None), *(key for key, _ in asked)]
        values = [value for _, each in asked for value in each]
        settled = await self._link.run(_SETTLE, keys, [len(asked), *values], waits=True)
        return [int(settled)] * len(asked)

    async def _look_forever(self, look: Callable[[], Awaitable[int]]) -> None:
        """Tell the store what this node knows of, often: who writes waits only so long for it."""
        while not self._ends.is_set():
            await self._look(look)
            await self._pause(self._look_seconds)

    async def _look(self, look: Callable[[], Awaitable[int]]) -> None:
        try:
            missing = await look()
        except StorageError:
            return  # the sweep says so
        except Exception:  # noqa: BLE001  (what looks must outlive any fault)
            log().exception("store.sweep_failed")
            return
        before, self._missing = self._missing, missing
        if missing > before:
            error = restored_error(self._link.address.name, missing)
            log().error("store.restored", missing=missing, problem=error.message, hint=error.hint)

    async def _pause(self, seconds: float) -> None:
        # Not cancelled: what is under way on a connection is left in order.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ends.wait(), seconds)

    async def _sweep_forever(self) -> None:
        while not self._ends.is_set():
            try:
                count = await self.sweep()
                if count:
                    log().info("store.finished_for_others", count=count)
            except StorageError as error:
                log().warning("store.sweep_failed", problem=error.message, hint=error.hint)
            except Exception:  # noqa: BLE001  (the sweep must outlive any fault)
                log().exception("store.sweep_failed")
            await self._pause(_SWEEP_SECONDS)
