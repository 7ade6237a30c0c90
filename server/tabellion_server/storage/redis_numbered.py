"""Rows that a GUN numbers by itself, newest first: its history and its audit."""

from __future__ import annotations

from typing import Final

from tabellion_server.storage.redis_keys import GunKeys
from tabellion_server.storage.redis_link import RedisLink
from tabellion_server.storage.redis_rows import numbered
from tabellion_server.storage.values import below

_PAGE: Final = 1000


async def newest(
    link: RedisLink,
    keys: GunKeys,
    rows: str,
    index: str,
    about: str | None,
    *,
    before: int | None,
    limit: int,
) -> list[tuple[int, bytes]]:
    """Give ids and rows with ids below one, newest first.

    Args:
        link: The way to the store.
        keys: The GUN's.
        rows: The hash of them, by id.
        index: The sorted set of ``ABOUT:ID``, the id in 16 hex digits.
        about: Only those about that.
        before: Only ids below.
        limit: How many at most.
    """
    if limit <= 0:
        return []
    if about is not None:
        members = await link.read(
            *("ZRANGE", keys.key(index), f"({about}:{below(before):016x}", f"[{about}:"),
            *("BYLEX", "REV", "LIMIT", 0, limit),
        )
        return await _rows(link, keys.key(rows), numbered(members))
    last, first = await link.read("HMGET", keys.key("kept"), rows, f"{rows}_from")
    above, top = int(first or 0), min(below(before) - 1, int(last or 0))
    found: list[tuple[int, bytes]] = []
    while top > above and len(found) < limit:
        count = min(_PAGE, limit - len(found), top - above)
        found += await _rows(link, keys.key(rows), list(range(top, top - count, -1)))
        top -= count
    return found


async def _rows(link: RedisLink, key: bytes, ids: list[int]) -> list[tuple[int, bytes]]:
    if not ids:
        return []
    values = await link.read("HMGET", key, *ids)
    return [(number, value) for number, value in zip(ids, values, strict=True) if value is not None]
