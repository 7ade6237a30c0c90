"""The store that ``storage.url`` names: the one place that knows which engines there are.

An engine's module is imported only when it's used.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from tabellion.errors import ConfigurationError
from tabellion_server.settings import Settings
from tabellion_server.settings_storage import POSTGRES, REDIS, engine_of
from tabellion_server.storage.interface import Store
from tabellion_server.storage.password_file import read_password

if TYPE_CHECKING:
    from tabellion_server.storage.postgres_link import Place


_VERIFYING: Final = frozenset({"verify-ca", "verify-full"})


async def open_store(settings: Settings) -> Store:
    """Open the store, or make it where the engine is a file.

    Raises:
        StorageError: It can't be made or opened, or another program or release wrote it.
        ConfigurationError: There's no such engine here.
    """
    if settings.sqlite_path is not None:
        from tabellion_server.storage.sqlite import SqliteStore  # noqa: PLC0415  (see above)

        return await SqliteStore.open(settings.sqlite_path, high_water=settings.high_water_file)
    if is_redis(settings):
        with _engine(settings):
            from tabellion_server.storage.redis_opening import open_redis_store  # noqa: PLC0415

        return await open_redis_store(settings)
    await asyncio.to_thread(check_files, settings)
    with _engine(settings):
        from tabellion_server.storage.postgres import PostgresStore  # noqa: PLC0415  (same)

        place = _postgres_place(settings)
    return await PostgresStore.open(place, high_water=settings.high_water_file)


async def migrate(settings: Settings) -> str:
    """Bring the store's tables to this release; say what was done.

    Raises:
        StorageError: It can't be done, or a newer release wrote them.
        ConfigurationError: There's no such engine here.
    """
    if settings.sqlite_path is not None:
        if not await is_store_there(settings):
            return f"there is no store {settings.store_name} yet: the server makes it at its start"
        store = await open_store(settings)
        await store.close()
        return f"store {settings.store_name} is of this release: SQLite's is brought so when opened"
    if is_redis(settings):
        await (await open_store(settings)).close()
        return f"store {settings.store_name} has this release's schema: nothing to do"
    await asyncio.to_thread(check_files, settings)
    with _engine(settings):
        from tabellion_server.storage.postgres_schema import migrate_store  # noqa: PLC0415  (same)

        place = _postgres_place(settings)
    return await migrate_store(place)


async def is_store_there(settings: Settings) -> bool:
    """Tell whether there is a store; one that is shared is always taken to be."""
    path = settings.sqlite_path
    return path is None or await asyncio.to_thread(_has_begun, path)


def _has_begun(path: Path) -> bool:
    """Tell whether a SQLite file has anything in it: one of no bytes was made, and no more."""
    is_empty = path.is_file() and path.stat().st_size == 0 and not Path(f"{path}-wal").exists()
    return path.exists() and not is_empty


def check_files(settings: Settings) -> None:
    """See whether the files with the store's passwords and CA can be used. Blocks.

    Raises:
        ConfigurationError: It can't.
    """
    file, sentinels = settings.storage_password_file, settings.storage_sentinel_password_file
    if file is not None and settings.sqlite_path is None:
        read_password(file)
    if sentinels is not None and is_redis(settings):
        read_password(sentinels, key="storage.sentinel_password_file")
    if engine_of(settings.storage_url) in POSTGRES:
        _check_root_certificate(settings.storage_url)


def _check_root_certificate(url: str) -> None:
    """Refuse to verify PostgreSQL's certificate by none: libpq's rules, and the system's aren't in.

    Raises:
        ConfigurationError: No CA is named, or it isn't there.
    """
    options = dict(parse_qsl(urlsplit(url).query))
    if options.get("sslmode") not in _VERIFYING or "service" in options:
        return
    usual = Path("~/.postgresql/root.crt").expanduser()
    file = Path(options.get("sslrootcert") or os.environ.get("PGSSLROOTCERT") or usual)
    if file.is_file():
        return
    mode = f"storage.url: sslmode={options['sslmode']}"
    raise ConfigurationError(
        f"{mode} names no CA to verify by" if file == usual else f"{mode}: there is no file {file}",
        hint="add &sslrootcert=FILE, the CA of the server's certificate; the system's CAs aren't "
        "taken by themselves: /etc/ssl/certs/ca-certificates.crt on many systems",
    )


def is_redis(settings: Settings) -> bool:
    """Tell whether the store is in Redis or Valkey."""
    return REDIS.fullmatch(engine_of(settings.storage_url)) is not None


def _postgres_place(settings: Settings) -> Place:
    from tabellion_server.storage.postgres_link import Place  # noqa: PLC0415  (same)

    return Place(
        settings.storage_url,
        settings.store_name,
        password_file=settings.storage_password_file,
        connections=settings.storage_connections,
        prepares=settings.storage_prepares,
    )


@contextlib.contextmanager
def _engine(settings: Settings) -> Iterator[None]:
    """Say which extra is missing."""
    try:
        yield
    except ImportError as error:
        engine = engine_of(settings.storage_url)
        extra = "redis" if is_redis(settings) else "postgres"
        raise ConfigurationError(
            f"{engine}:// needs the package {error.name}, which isn't installed",
            hint=f"install it: pip install '.[server,{extra}]' in a clone of Tabellion",
        ) from error
