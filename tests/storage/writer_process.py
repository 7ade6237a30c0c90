"""Another process that writes to a store: `writer_process.py MODE PLACE [COUNT [MARK]]`."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tabellion_server.storage.interface import (
    Head,
    StaleHeadError,
    StorageError,
    Store,
    StoredFile,
    TagEvent,
)
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.postgres_link import Place
from tabellion_server.storage.redis import RedisStore
from tabellion_server.storage.redis_address import parse_redis_url
from tabellion_server.storage.sqlite import SqliteStore
from tabellion_server.storage.sqlite_rows import write_files, write_revision

GUN = "registry.example/app"
ROLES = ("root", "targets", "snapshot", "timestamp")
FILE_BYTES = 50_000
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def whole_set(version: int) -> list[StoredFile]:
    """Make one file of each role, all of that version, together many pages long."""
    return [
        StoredFile.of(
            role, version, f"{role} {version} ".encode() * (FILE_BYTES // 12), stored_at=AT
        )
        for role in ROLES
    ]


def event_of(version: int) -> TagEvent:
    return TagEvent("signed", "1.0", "targets", version, "a" * 64, {"sha256": "b" * 64}, 7, AT)


def say(text: object) -> None:
    print(text, flush=True)  # noqa: T201


async def open_place(place: str, mark: Path | None = None) -> Store:
    """Open the store of a URL of PostgreSQL or Valkey, or of a file."""
    if place.startswith("redis"):
        return await RedisStore.open(parse_redis_url(place), high_water=mark)
    if place.startswith("postgresql://"):
        return await PostgresStore.open(Place(place, place), high_water=mark)
    return await SqliteStore.open(place, high_water=mark)


async def publish_next(store: Store) -> Head:
    """Publish the next whole set, again and again until nobody else came first."""
    while True:
        head = await store.head(GUN)
        version = 1 if head is None else head.files["root"].version + 1
        try:
            return await store.commit(
                GUN,
                dialect="tuf",
                expected_revision=None if head is None else head.revision,
                added=whole_set(version),
                events=[event_of(version)],
                at=AT,
            )
        except StaleHeadError:
            continue


async def publish(place: str, count: int, mark: str | None) -> None:
    store = await open_place(place, Path(mark) if mark else None)
    say("ready")
    for _ in range(count):
        head = await publish_next(store)
        say(head.revision)
    await store.close()


async def stop_in_a_commit(path: Path) -> None:
    """Write half a publication, large enough to spill to the file, and wait to be killed."""
    store = await SqliteStore.open(path)
    head = await store.head(GUN)

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA cache_size = 2")
        write_revision(connection, GUN, "tuf", head, AT)
        write_files(connection, GUN, whole_set(2)[:2])
        say("in a commit")
        time.sleep(60)

    store._writer.submit(work)
    await asyncio.sleep(60)


async def fill_the_disk(path: Path) -> None:
    """Publish until the file may not grow, say how far it came, go on once it may."""
    store = await SqliteStore.open(path)
    await publish_next(store)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, unlimited[1]))
    head = None
    try:
        for _ in range(100):
            head = await publish_next(store)
    except StorageError as error:
        say(error.message)
    say(head.revision if head else 1)
    sys.stdin.readline()
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    say((await publish_next(store)).revision)
    await store.close()


def main(mode: str, path: str, count: str = "1000000", mark: str | None = None) -> None:
    run: Callable[[], None] = {
        "publish": lambda: asyncio.run(publish(path, int(count), mark)),
        "fill-the-disk": lambda: asyncio.run(fill_the_disk(Path(path))),
        "stop-in-a-commit": lambda: asyncio.run(stop_in_a_commit(Path(path))),
    }[mode]
    run()


if __name__ == "__main__":
    main(*sys.argv[1:])
