"""Which schema a Redis store has: a number beside the changefeed's state.

A release reads and writes one number only; scripts on the feed's slot look again, so that who has
the store open while it's changed stops writing.
"""

from __future__ import annotations

from typing import Final

from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.redis_keys import FeedKeys
from tabellion_server.storage.redis_link import RedisLink

VERSION: Final = 1
"""The same as ``SCHEMA`` in ``feed_prelude.lua``."""

_FIRST: Final = 1  # of stores whose release didn't number them yet


async def verify_schema(link: RedisLink) -> None:
    """Refuse a store that isn't for this release; an empty one gets its number.

    Raises:
        StorageError: It's older or newer.
    """
    state = FeedKeys(link.address.prefix).key("state")
    found = await link.read("HGET", state, "schema")
    if found is None and not await link.read("EXISTS", state):
        try:
            await link.read("HSETNX", state, "schema", VERSION)
        except StorageError as error:
            raise StorageError(
                f"there is no store in {link.address.name} yet, and none can be begun: "
                f"{error.message}",
                hint=error.hint,
            ) from error
        found = await link.read("HGET", state, "schema")
    number = int(found or _FIRST)
    if number == VERSION:
        return
    name = link.address.name
    message = f"store {name} has schema {number}; this release reads {VERSION}"
    if number > VERSION:
        raise StorageError(message, hint="run the release that wrote it, or a newer one")
    raise StorageError(
        message,
        hint="back it up with the release that wrote it, and restore that with this one into "
        "an empty store: change ?prefix=NAME in storage.url",
    )
