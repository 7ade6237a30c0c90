"""Files are read and parsed once, and never mixed up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from forge import Forge, target
from tabellion_server.services.cache import SizedCache
from tabellion_server.services.files import MetadataFiles
from tabellion_server.storage.interface import Head, StoredFile
from tabellion_server.storage.sqlite import SqliteStore

GUN = "registry.example/app"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "store.db")
    yield store
    await store.close()


async def release(store: SqliteStore, forge: Forge, path: str) -> Head:
    """Commit a release of one target, all of version 1 or the one after the stored."""
    before = await store.head(GUN)
    if before is not None:
        forge.targets.version += 1
    forge.targets.targets[path] = target(b"x", path)
    forge.release()
    now = datetime.now(UTC)
    files = [
        StoredFile.of(role, item.version, item.data, stored_at=now)
        for role, item in forge.current().files.items()
    ]
    revision = before.revision if before else None
    return await store.commit(GUN, dialect="tuf", expected_revision=revision, added=files, at=now)


async def test_a_file_is_parsed_again_only_when_its_bytes_change(store: SqliteStore) -> None:
    files, forge = MetadataFiles(store), Forge()
    one = await files.current_set(await release(store, forge, "1.0"))
    two = await files.current_set(await release(store, forge, "2.0"))
    assert two.files["root"] is one.files["root"]
    assert set(two.files["targets"].signed.targets) == {"1.0", "2.0"}
    assert set(one.files["targets"].signed.targets) == {"1.0"}
    assert {role: item.data for role, item in two.files.items()} == forge.files


async def test_a_set_holds_only_the_roles_asked_for(store: SqliteStore) -> None:
    head = await release(store, Forge(), "1.0")
    current = await MetadataFiles(store).current_set(head, {"root", "nobody"})
    assert set(current.files) == {"root"}


async def test_a_gun_made_anew_gives_nothing_of_the_old_one(store: SqliteStore) -> None:
    files = MetadataFiles(store)
    await files.current_set(await release(store, Forge(), "1.0"))
    await store.delete(GUN)
    anew = Forge()
    current = await files.current_set(await release(store, anew, "2.0"))
    assert {role: item.data for role, item in current.files.items()} == anew.files


async def test_what_is_too_large_to_be_held_is_given_all_the_same(store: SqliteStore) -> None:
    files, forge = MetadataFiles(store, cache_bytes=10, parsed_bytes=10), Forge()
    head = await release(store, forge, "1.0")
    for _ in range(2):
        current = await files.current_set(head)
        assert {role: item.data for role, item in current.files.items()} == forge.files


def test_a_full_cache_forgets_what_was_asked_for_longest_ago() -> None:
    cache: SizedCache[str, int] = SizedCache(10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    cache.put("a", 9, 4)
    assert cache.get("a") == 1
    cache.put("c", 3, 4)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    cache.put("d", 4, 11)
    assert [cache.get(key) for key in "abcd"] == [1, None, 3, None]
    cache.put("e", 5, 10)
    assert [cache.get(key) for key in "abce"] == [None, None, None, 5]
