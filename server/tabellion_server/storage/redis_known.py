"""The GUNs that a Redis store has ever been written for, page by page."""

from __future__ import annotations

from typing import Final

from tabellion_server.storage.redis_keys import FeedKeys, raw
from tabellion_server.storage.redis_link import RedisLink
from tabellion_server.storage.redis_rows import text_of

_PAGE: Final = 100


async def known_guns(link: RedisLink, feed: FeedKeys, after: str) -> list[str]:
    """Give the first names behind one, in order; "" is before all, and [] behind the last."""
    low = b"(" + raw(after) if after else b"-"
    names = await link.read(*("ZRANGE", feed.key("known"), low, "+", "BYLEX", "LIMIT", 0, _PAGE))
    return [text_of(name) for name in names]
