"""The master key that goes with a store: made beside a new file, else it has to be there."""

from __future__ import annotations

import asyncio

from tabellion.errors import ConfigurationError
from tabellion_server.keys.master import MasterKey
from tabellion_server.settings import Settings
from tabellion_server.storage.opening import is_store_there


async def open_master_key(settings: Settings) -> MasterKey:
    """Load the master key, or make it where the store is a file that isn't there yet.

    Raises:
        ConfigurationError: It's missing or can't be used.
    """
    file, is_first = settings.master_key_file, not await is_store_there(settings)
    if not is_first and not await asyncio.to_thread(file.exists):
        if settings.sqlite_path is None:
            # Made by each node for itself, they would not open each other's keys.
            raise ConfigurationError(
                f"master key file {file} doesn't exist",
                hint="all nodes of a store share one: bring it from another node or its backup; "
                f"for a new store: (umask 077; openssl rand -base64 32 > {file})",
            )
        raise ConfigurationError(
            f"master key file {file} is gone, but the store is here",
            hint="restore the key file from its backup; a new one can't open the keys in the store",
        )
    return await asyncio.to_thread(MasterKey.load_or_create, file, create=is_first)
