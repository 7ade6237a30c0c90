"""Reading a Notary server over HTTP without being a burden to it.

Requests keep a distance in time, and when the server says "later" (429, 503) all of them wait.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

from tabellion.errors import (
    NotFoundError,
    ServerAnswerError,
    TransferError,
    TransportError,
    UnreachableError,
)
from tabellion.transport.fetcher import HttpFetcher, read_body

_LATER: Final = frozenset({429, 502, 503, 504})
_ATTEMPTS: Final = 5
_BACKOFF_SECONDS: Final = 0.5  # doubled each time
_MAX_RETRY_AFTER: Final = 300.0
_FEED_RECORDS: Final = 1000
_FEED_BYTES: Final = 8_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """A file as it was served.

    Attributes:
        data: The bytes.
        stored_at: When the server got it, as far as it says; aware UTC.
    """

    data: bytes
    stored_at: datetime | None


class NotarySite:
    """One Notary server's files.

    Args:
        url: Its base, such as ``https://notary.example``; a path is kept.
        fetcher: How to get there.
        rate: Requests a second at most.
        concurrency: Requests at a time at most.
    """

    def __init__(self, url: str, fetcher: HttpFetcher, *, rate: float, concurrency: int) -> None:
        self._base = url.rstrip("/")
        self._fetcher = fetcher
        self._interval = 1 / rate
        self._slots = asyncio.Semaphore(concurrency)
        self._next_at = 0.0

    async def file(self, gun: str, name: str, *, max_bytes: int) -> Answer | None:
        """Give a GUN's file, such as ``2.root.json``; None if the server has none.

        Raises:
            TransportError: The server can't be reached, refuses, or is still busy after a while.
        """
        path = f"/v2/{quote(gun, safe='/:@')}/_trust/tuf/{quote(name, safe='/')}"
        return await self._get(path, max_bytes)

    async def feed(self) -> AsyncIterator[tuple[str, bool]]:
        """Give the changefeed, oldest first: GUNs, and whether they were there from then on.

        Raises:
            TransportError: The server can't be reached, refuses, or gives no changefeed.
        """
        last = "0"
        while True:
            path = f"/v2/_trust/changefeed?records={_FEED_RECORDS}&change_id={last}"
            answer = await self._get(path, _FEED_BYTES)
            records = _records(answer.data) if answer is not None else None
            if records is None:
                raise ServerAnswerError(
                    f"{self._base} gives no changefeed",
                    status=404 if answer is None else 200,
                    hint="name the GUNs one by one: --gun NAME or --guns-file FILE",
                )
            if not records:
                return
            for _, gun, is_there in records:
                yield gun, is_there
            number = records[-1][0]
            if number <= int(last):
                raise ServerAnswerError(f"{self._base}: its changefeed goes in circles", status=200)
            last = str(number)

    async def _get(self, path: str, max_bytes: int) -> Answer | None:
        url = self._base + path
        wait = _BACKOFF_SECONDS
        failure: TransportError = UnreachableError(f"can't reach {url}")
        for attempt in range(1, _ATTEMPTS + 1):
            await self._turn()
            try:
                async with self._slots, self._fetcher.request("GET", url) as response:
                    if response.status not in _LATER:
                        data = await read_body(response, max_bytes)
                        return Answer(data, _moment(response.headers.get("Last-Modified")))
                    asked = _retry_after(response.headers.get("Retry-After"))
                    self._pause(max(wait, asked))
                    failure = ServerAnswerError(
                        f"{url}: the server answered {response.status}, {attempt} times",
                        status=response.status,
                        hint="try again later, or with a lower --rate",
                    )
            except NotFoundError:
                return None
            except (TransferError, UnreachableError) as error:
                failure = error
                if attempt < _ATTEMPTS:
                    await asyncio.sleep(wait)
            wait *= 2
        raise failure

    async def _turn(self) -> None:
        """Wait for one's turn."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._next_at)
        self._next_at = at + self._interval
        await asyncio.sleep(at - now)

    def _pause(self, seconds: float) -> None:
        """Let nobody have a turn for a while."""
        self._next_at = max(self._next_at, asyncio.get_running_loop().time() + seconds)


def _records(data: bytes) -> list[tuple[int, str, bool]] | None:
    """Read a page of a changefeed: id, GUN, whether it's there; None if it isn't one."""
    try:
        records: list[dict[str, Any]] = json.loads(data)["records"] or []
        found = [(int(r["ID"]), r["GUN"], r["Category"] != "deletion") for r in records]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if all(isinstance(gun, str) for _, gun, _ in found) else None


def _retry_after(text: str | None) -> float:
    """Read seconds or an HTTP date; 0 for neither."""
    if text is None:
        return 0.0
    if text.isascii() and text.isdigit():
        return min(float(text[:6]), _MAX_RETRY_AFTER)
    moment = _moment(text)
    seconds = (moment - datetime.now(UTC)).total_seconds() if moment else 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _moment(text: str | None) -> datetime | None:
    """Read an HTTP date, also Notary's, which end in ``UTC`` or ``+0000``."""
    try:
        found = parsedate_to_datetime(text or "")
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
