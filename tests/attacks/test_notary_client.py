"""The whole client on a Notary GUN, over a server of files that an attacker may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from notary_files import NotaryFiles
from notary_gun import GUN, NOW, NotaryGun, new_signer, target
from tabellion.core.dialect import NOTARY
from tabellion.core.notary_search import RELEASES
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.errors import RollbackError
from tabellion.verify.client import TrustClient

IMAGE = f"{GUN}:1.0"


@pytest.fixture
def gun() -> NotaryGun:
    gun = NotaryGun()
    gun.targets["targets"].targets["1.0"] = target(b"owner's old word")
    gun.delegate(RELEASES)
    gun.targets[RELEASES].targets["1.0"] = target(b"released")
    gun.release()
    return gun


def client(gun: NotaryGun, home: Path) -> TrustClient:
    return TrustClient(
        "https://trust.example",
        home=home,
        root=gun.files["root"],
        clock=lambda: NOW,
        fetcher=NotaryFiles(gun),  # type: ignore[arg-type]
    )


def without_release(gun: NotaryGun) -> None:
    """Sign with the online keys alone that there is no release."""
    old: Any = NOTARY.parse("snapshot", gun.files["snapshot"], max_bytes=100_000).signed
    timestamp: Any = NOTARY.parse("timestamp", gun.files["timestamp"], max_bytes=100_000).signed
    snapshot = next_snapshot(NOTARY, old, {}, expires_at=gun.root.expires, dropped=[RELEASES])
    data = NOTARY.sign(snapshot, gun.signers["snapshot"])
    following = next_timestamp(
        NOTARY, timestamp, data, snapshot.version, expires_at=gun.root.expires
    )
    gun.files["snapshot"] = data
    gun.files["timestamp"] = NOTARY.sign(following, gun.signers["timestamp"])


async def test_a_hidden_release_is_refused_as_often_as_it_is_asked_for(
    gun: NotaryGun, tmp_path: Path
) -> None:
    async with client(gun, tmp_path) as trust:
        released = (await trust.verify(IMAGE)).digest
    honest = dict(gun.files)
    without_release(gun)
    for _ in range(2):
        async with client(gun, tmp_path) as trust:
            with pytest.raises(RollbackError):
                await trust.verify(IMAGE)
    gun.files = honest
    gun.put({})  # the server is itself again, and has signed anew
    gun.put({})
    async with client(gun, tmp_path) as trust:
        assert (await trust.verify(IMAGE)).digest == released


async def test_a_release_role_with_new_keys_may_be_gone_until_it_publishes(
    gun: NotaryGun, tmp_path: Path
) -> None:
    async with client(gun, tmp_path) as trust:
        released = (await trust.verify(IMAGE)).digest
    new = new_signer()
    delegations = gun.targets["targets"].delegations
    assert delegations is not None
    assert delegations.roles is not None
    delegations.keys[new.public_key.keyid] = new.public_key
    delegations.roles[RELEASES].keyids[:] = [new.public_key.keyid]
    gun.targets["targets"].version = 2
    gun.release("targets")
    without_release(gun)
    for _ in range(2):
        async with client(gun, tmp_path) as trust:
            assert (await trust.verify(IMAGE)).digest != released
