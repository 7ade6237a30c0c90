"""The store that ``storage.url`` names: the one place that knows which engines there are.

An engine's module is imported only when it's used.
"""

from __future__ import annotations

import asyncio

from tabellion.errors import ConfigurationError
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import Store


async def open_store(settings: Settings) -> Store:
    """Open the store, or make it where the engine is a file.

    Raises:
        StorageError: It can't be made or opened, or another program or release wrote it.
        ConfigurationError: There's no such engine here.
    """
    if settings.sqlite_path is not None:
        from tabellion_server.storage.sqlite import SqliteStore  # noqa: PLC0415  (see above)

        return await SqliteStore.open(settings.sqlite_path, high_water=settings.high_water_file)
    raise ConfigurationError(
        f"this release has no engine for {settings.store_name}", hint="set storage.url"
    )


async def is_store_there(settings: Settings) -> bool:
    """Tell whether there is a store; one that is shared is always taken to be."""
    path = settings.sqlite_path
    return path is None or await asyncio.to_thread(path.exists)
