"""Which keys a role had before: an old file is judged by those that its delegator gave it then.

The delegator's versions are walked back on the server, each verified as what is cited: by the file
that delegated to it, up to a root that this home has trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from tuf.api.metadata import Root, Targets

from tabellion.core.dialect import dialect_of
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.notary_vouching import is_vouched
from tabellion.errors import MalformedMetadataError, NotFoundError
from tabellion.publish.server_api import ServerApi
from tabellion.publish.state import Current
from tabellion.verify.cache import MetadataCache

_MOST_VERSIONS: Final = 1000


class EarlierKeys:
    """Judges old files of one GUN's targets roles.

    Args:
        api: The server.
        current: What is current there, verified.
        roots: Roots of before, newest first, that were trusted here.
    """

    def __init__(self, api: ServerApi, current: Current, roots: Sequence[Root]) -> None:
        self._api = api
        self._current = current
        self._roots = roots

    async def vouch_for(self, item: UnverifiedMetadata[Any]) -> bool:
        """Tell whether keys that its role has, or had, signed a file.

        Raises:
            TransportError: No usable answer.
        """
        async for delegator in self._versions(self._current.delegators[item.role]):
            if await asyncio.to_thread(is_vouched, item, delegator):
                return True
        return False

    async def _versions(self, role: str) -> AsyncIterator[Root | Targets]:
        """Give what a role said, newest first; a version is vouched for by its own time's keys.

        Whoever is walked back never goes forth again: an older file isn't judged by newer keys
        than a newer file needed.
        """
        if role == "root":
            for root in (self._current.root, *self._roots):
                yield root
            return
        newest = self._current.roles[role]
        yield newest.signed
        above = self._versions(self._current.delegators[role])
        delegator = await anext(above)
        for version in range(newest.version - 1, max(newest.version - _MOST_VERSIONS, 0), -1):
            item = await self._file(role, version)
            if item is None:
                continue
            while not await asyncio.to_thread(is_vouched, item, delegator):
                older = await anext(above, None)
                if older is None:
                    return
                delegator = older
            yield item.signed

    async def _file(self, role: str, version: int) -> UnverifiedMetadata[Targets] | None:
        """Fetch one version; None if the server doesn't have it, or it's of before a conversion."""
        trusted = self._current.trusted
        dialect, limit = trusted.dialect, trusted.limits.targets_bytes
        name = dialect.file_name(role, version)
        try:
            data = await self._api.metadata(self._current.gun, name, max_bytes=limit)
            item: UnverifiedMetadata[Any] = await asyncio.to_thread(
                dialect.parse, role, data, max_bytes=limit
            )
        except (NotFoundError, MalformedMetadataError):
            return None
        return item if item.version == version else None


def earlier_roots(cache: MetadataCache, current: Current) -> list[Root]:
    """Give the roots before the current one that this home has trusted, newest first. Blocks."""
    dialect, found, limit = current.trusted.dialect, list[Root](), Limits().root_bytes
    for version in range(current.root.version - 1, 0, -1):
        data = cache.load_root(version)
        if data is None or dialect_of(data) is not dialect:
            break
        parsed: UnverifiedMetadata[Any] = dialect.parse("root", data, max_bytes=limit)
        found.append(parsed.signed)
    return found
