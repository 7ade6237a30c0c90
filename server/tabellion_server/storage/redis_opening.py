"""The Redis or Valkey store that the configuration names, with passwords from files."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import cast

from tabellion_server.settings import Settings
from tabellion_server.storage.password_file import read_password
from tabellion_server.storage.redis import RedisStore
from tabellion_server.storage.redis_address import parse_redis_url
from tabellion_server.storage.redis_durability import Durability


async def open_redis_store(settings: Settings) -> RedisStore:
    """Open it.

    Raises:
        StorageError: It can't be reached, or keeps less than the configuration demands.
        ConfigurationError: A password's file, or that of CAs, can't be used.
    """
    address = parse_redis_url(settings.storage_url)
    file, sentinels = settings.storage_password_file, settings.storage_sentinel_password_file
    if file is not None:
        address = replace(address, password=await _password(file))
    if sentinels is not None:
        own = await _password(sentinels, key="storage.sentinel_password_file")
        address = replace(address, sentinel_password=own)
    return await RedisStore.open(
        address,
        high_water=settings.high_water_file,
        durability=cast("Durability | None", settings.storage_durability),
        replicas=settings.storage_replicas,
        connections=settings.storage_connections,
        ca=settings.storage_ca_file,
    )


async def _password(file: Path, *, key: str = "storage.password_file") -> str:
    return await asyncio.to_thread(read_password, file, key=key)
