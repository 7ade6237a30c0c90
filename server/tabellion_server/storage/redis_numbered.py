"""Rows of a GUN by their ids, newest first: its history and its audit."""

from __future__ import annotations

from tabellion_server.storage.redis_keys import GunKeys
from tabellion_server.storage.redis_link import RedisLink
from tabellion_server.storage.values import below


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
        index: The sorted set of ``ABOUT:ID`` and ``:ID``, the id in 16 hex digits.
        about: Only those about that.
        before: Only ids below.
        limit: How many at most.
    """
    if limit <= 0:
        return []
    name = about or ""
    members = await link.read(
        *("ZRANGE", keys.key(index), f"({name}:{below(before):016x}", f"[{name}:"),
        *("BYLEX", "REV", "LIMIT", 0, limit),
    )
    if not members:
        return []
    ids = [member.rpartition(b":")[2] for member in members]
    values = await link.read("HMGET", keys.key(rows), *ids)
    found = zip(ids, values, strict=True)
    return [(int(number, 16), value) for number, value in found if value is not None]
