from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Timestamp

from tabellion.core.dialect import TUF
from tabellion.errors import KeyStoreError
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.storage.sqlite import SqliteStore

GUN = "registry.example/app"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MASTER = MasterKey(bytes(range(32)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path)
    yield store
    await store.close()


@pytest.fixture
def keys(store: SqliteStore) -> OnlineKeys:
    return OnlineKeys(store, MASTER, clock=lambda: AT)


def payload() -> Timestamp:
    return Timestamp(version=3, expires=AT)


def signed_by(data: bytes, key: Key) -> bool:
    metadata: Metadata[Timestamp] = Metadata.from_bytes(data)
    key.verify_signature(metadata.signatures[key.keyid], metadata.signed_bytes)
    return True


async def test_a_key_is_made_once_per_gun_and_role(keys: OnlineKeys, store: SqliteStore) -> None:
    key = await keys.public_key(GUN, "timestamp")
    assert (key.keytype, key.scheme) == ("ed25519", "ed25519")
    assert await keys.public_key(GUN, "timestamp") == key
    others = {
        (await keys.public_key(GUN, "snapshot")).keyid,
        (await keys.public_key("other", "timestamp")).keyid,
    }
    assert len(others | {key.keyid}) == 3
    (row,) = await store.online_keys(GUN, "timestamp")
    assert row.created_at == AT
    assert json.loads(row.public) == {"keyid": key.keyid, **key.to_dict()}


async def test_rivals_for_the_first_key_get_the_same_one(
    keys: OnlineKeys, store: SqliteStore, path: Path
) -> None:
    other_store = await SqliteStore.open(path)
    rivals = [keys, OnlineKeys(store, MASTER), OnlineKeys(other_store, MASTER)]
    got = await asyncio.gather(
        *[rivals[number % 3].public_key(GUN, "snapshot") for number in range(30)]
    )
    assert {key.keyid for key in got} == {got[0].keyid}
    assert len(await store.online_keys(GUN, "snapshot")) == 1
    await other_store.close()


async def test_the_signature_holds_under_the_public_key(keys: OnlineKeys) -> None:
    key = await keys.public_key(GUN, "timestamp")
    data = await keys.sign(GUN, "timestamp", [key.keyid, "f" * 64], payload(), TUF)
    assert signed_by(data, key)
    assert TUF.parse("timestamp", data, max_bytes=16384).version == 3


async def test_a_signer_signs_with_its_key(keys: OnlineKeys) -> None:
    key = await keys.public_key(GUN, "snapshot")
    signer = await keys.signer(GUN, "snapshot", key.keyid)
    assert signer.public_key == key
    key.verify_signature(signer.sign(b"bytes"), b"bytes")


async def test_after_a_rotation_the_old_key_signs_until_the_root_names_the_new(
    keys: OnlineKeys,
) -> None:
    old = await keys.public_key(GUN, "timestamp")
    new = await keys.rotate(GUN, "timestamp")
    assert new.keyid != old.keyid
    assert await keys.public_key(GUN, "timestamp") == new
    for key in (old, new):
        data = await keys.sign(GUN, "timestamp", [key.keyid], payload(), TUF)
        assert set(Metadata.from_bytes(data).signatures) == {key.keyid}
        assert signed_by(data, key)
    both = await keys.sign(GUN, "timestamp", {old.keyid, new.keyid}, payload(), TUF)
    assert signed_by(both, old)
    assert signed_by(both, new)


async def test_a_rotation_without_a_first_key_makes_it(keys: OnlineKeys) -> None:
    key = await keys.rotate(GUN, "timestamp")
    assert await keys.public_key(GUN, "timestamp") == key


async def test_a_key_that_is_not_held_does_not_sign(keys: OnlineKeys) -> None:
    key = await keys.public_key(GUN, "timestamp")
    for gun, role, keyids in (
        (GUN, "timestamp", ["f" * 64]),
        (GUN, "timestamp", []),
        (GUN, "snapshot", [key.keyid]),
        ("other", "timestamp", [key.keyid]),
    ):
        with pytest.raises(KeyStoreError, match="none of the"):
            await keys.sign(gun, role, keyids, payload(), TUF)


@pytest.mark.parametrize("role", ["root", "targets", "alice", ""])
async def test_the_server_never_holds_other_keys(
    keys: OnlineKeys, store: SqliteStore, role: str
) -> None:
    with pytest.raises(KeyStoreError, match="never holds"):
        await keys.public_key(GUN, role)
    with pytest.raises(KeyStoreError, match="never holds"):
        await keys.rotate(GUN, role)
    with pytest.raises(KeyStoreError, match="never holds"):
        await keys.signer(GUN, role, "f" * 64)
    with pytest.raises(KeyStoreError, match="never holds"):
        await keys.sign(GUN, role, ["f" * 64], payload(), TUF)
    assert await store.online_keys(GUN, role) == []


async def test_another_master_key_signs_nothing(keys: OnlineKeys, store: SqliteStore) -> None:
    key = await keys.public_key(GUN, "timestamp")
    stranger = OnlineKeys(store, MasterKey.generate())
    assert await stranger.public_key(GUN, "timestamp") == key
    with pytest.raises(KeyStoreError, match="this master key"):
        await stranger.sign(GUN, "timestamp", [key.keyid], payload(), TUF)


async def test_a_master_key_fits_a_store_of_which_it_opens_a_key(
    keys: OnlineKeys, store: SqliteStore
) -> None:
    stranger = OnlineKeys(store, MasterKey.generate())
    assert await stranger.fits_store()  # it's empty
    await keys.public_key(GUN, "timestamp")
    (row,) = await store.online_keys(GUN, "timestamp")
    await store.add_online_key("other", replace(row, sealed=b"damaged"))
    assert await keys.fits_store()
    assert not await stranger.fits_store()
    await store.delete(GUN)
    assert not await keys.fits_store()


async def test_a_sealed_key_moved_to_another_gun_or_role_does_not_open(
    keys: OnlineKeys, store: SqliteStore
) -> None:
    key = await keys.public_key(GUN, "timestamp")
    (row,) = await store.online_keys(GUN, "timestamp")
    await store.add_online_key("other", row)
    await store.add_online_key(GUN, replace(row, role="snapshot"))
    for gun, role in (("other", "timestamp"), (GUN, "snapshot")):
        with pytest.raises(KeyStoreError, match="doesn't open"):
            await keys.sign(gun, role, [key.keyid], payload(), TUF)


@pytest.mark.parametrize(
    "public", ["", "[]", "{}", '{"keyid": 1}', '{"keyid":"x","keytype":"a","scheme":"b"}']
)
async def test_a_damaged_public_key_is_our_error(
    keys: OnlineKeys, store: SqliteStore, public: str
) -> None:
    await keys.public_key(GUN, "timestamp")
    (row,) = await store.online_keys(GUN, "timestamp")
    await store.add_online_key("other", replace(row, public=public))
    with pytest.raises(KeyStoreError, match="damaged"):
        await keys.public_key("other", "timestamp")


async def test_a_public_key_swapped_in_the_store_signs_nothing(
    keys: OnlineKeys, store: SqliteStore, path: Path
) -> None:
    key = await keys.public_key(GUN, "timestamp")
    foreign = await keys.public_key("other", "timestamp")
    swapped = json.dumps({"keyid": key.keyid, **foreign.to_dict()})
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE online_keys SET public = ? WHERE gun = ?", (swapped, GUN))
    with pytest.raises(KeyStoreError, match="damaged"):
        await keys.sign(GUN, "timestamp", [key.keyid], payload(), TUF)
    await store.check()


async def test_no_private_key_lies_on_disk_in_the_clear(
    keys: OnlineKeys, store: SqliteStore, path: Path
) -> None:
    key = await keys.public_key(GUN, "timestamp")
    signer = await keys.signer(GUN, "timestamp", key.keyid)
    private: bytes = signer.private_bytes  # type: ignore[attr-defined]
    await store.close()
    content = b"".join(file.read_bytes() for file in path.parent.iterdir() if file.is_file())
    assert key.keyid.encode() in content
    assert b"PRIVATE KEY" not in content
    assert private.splitlines()[1] not in content


async def test_a_deleted_gun_takes_its_keys_along(keys: OnlineKeys, store: SqliteStore) -> None:
    key = await keys.public_key(GUN, "timestamp")
    await store.delete(GUN)
    with pytest.raises(KeyStoreError):
        await keys.signer(GUN, "timestamp", key.keyid)
    assert await keys.public_key(GUN, "timestamp") != key
