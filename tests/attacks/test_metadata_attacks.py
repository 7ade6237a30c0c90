"""What a mirror, a network or a thief of online keys may try; each is refused, nothing changes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from forge import LATER, NOW, Forge, resign, target
from puller import Puller
from simulator import GUN, Simulator, version_of
from tabellion.core.names import Digest
from tabellion.errors import (
    ExpiredMetadataError,
    MetadataTooLargeError,
    MixAndMatchError,
    NotSignedError,
    RollbackError,
    ThresholdError,
    TransferError,
    VerificationError,
)

pytestmark = pytest.mark.usefixtures("seen")


@pytest.fixture
async def seen(puller: Puller, server: Simulator) -> None:
    """A puller that has seen two releases."""
    await puller.verify()
    server.publish_target(b"new image")
    image = await puller.verify()
    assert image.digest == Digest.of(b"new image")


async def test_an_older_timestamp_is_a_rollback(puller: Puller, server: Simulator) -> None:
    old = server.files["timestamp.json"]
    server.publish_target(b"new image")
    await puller.verify()
    server.files["timestamp.json"] = old
    await puller.refused(RollbackError)


async def test_a_newer_timestamp_over_an_older_snapshot_is_a_rollback(
    puller: Puller, forge: Forge, server: Simulator
) -> None:
    def back(signed: dict[str, object]) -> None:
        signed["version"] = 99
        signed["meta"] = {"snapshot.json": {"version": 1}}

    data = resign(forge.files["timestamp"], forge.signers["timestamp"], back)
    server.files["timestamp.json"] = data
    await puller.refused(RollbackError)


async def test_a_snapshot_that_takes_targets_back_is_a_rollback(
    puller: Puller, forge: Forge, server: Simulator
) -> None:
    def back(signed: dict[str, object]) -> None:
        signed["version"] = 3
        signed["meta"] = {"targets.json": {"version": 1}}

    snapshot = resign(forge.files["snapshot"], forge.signers["snapshot"], back)
    server.files["3.snapshot.json"] = snapshot

    def ahead(signed: dict[str, object]) -> None:
        signed["version"] = 3
        signed["meta"] = {"snapshot.json": {"version": 3}}

    server.files["timestamp.json"] = resign(
        forge.files["timestamp"], forge.signers["timestamp"], ahead
    )
    before = puller.kept()
    with pytest.raises(RollbackError):
        await puller.verify()
    after = puller.kept()
    changed = {name for name, data in after.items() if before.get(name) != data}
    assert {Path(name).name for name in changed} <= {"timestamp.json"}


@pytest.mark.parametrize("days", [366, 4000])
async def test_a_frozen_view_is_refused_once_it_expires(puller: Puller, days: int) -> None:
    before = puller.kept()
    with pytest.raises(ExpiredMetadataError):
        await puller.verify(now=NOW + timedelta(days=days))
    assert puller.kept() == before


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
async def test_each_role_alone_freezes_the_view_when_it_expires(
    puller: Puller, forge: Forge, server: Simulator, role: str
) -> None:
    soon = NOW + timedelta(days=1)
    forge.targets.expires = soon if role == "targets" else LATER
    forge.targets.version += 1
    server.publish(
        expires_at=soon if role == "timestamp" else LATER,
        snapshot_expires_at=soon if role == "snapshot" else LATER,
    )
    await puller.verify()
    for policy in ("deny", "last-known"):
        error = await puller.refused(ExpiredMetadataError, now=soon, offline=policy)
        assert isinstance(error, ExpiredMetadataError)
        assert error.role == role
    await server.stop()
    await puller.refused(ExpiredMetadataError, now=soon, offline="last-known")


async def test_a_snapshot_of_another_release_is_mix_and_match(
    puller: Puller, server: Simulator
) -> None:
    server.publish_target(b"new image")
    server.files["3.snapshot.json"] = server.files["2.snapshot.json"]
    with pytest.raises(MixAndMatchError):
        await puller.verify()
    assert version_of((next(puller.home.rglob("snapshot.json"))).read_bytes()) == 2


async def test_targets_of_another_release_are_mix_and_match(
    puller: Puller, server: Simulator
) -> None:
    server.publish_target(b"new image")
    server.files["3.targets.json"] = server.files["2.targets.json"]
    with pytest.raises(MixAndMatchError):
        await puller.verify()
    assert version_of((next(puller.home.rglob("targets.json"))).read_bytes()) == 2


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
async def test_a_release_signed_by_the_wrong_key_is_refused(
    puller: Puller, forge: Forge, server: Simulator, role: str
) -> None:
    forge.signers[role] = [CryptoSigner.generate_ed25519()]
    server.publish_target(b"malware")
    with pytest.raises(ThresholdError) as caught:
        await puller.verify()
    assert caught.value.role == role
    assert version_of((next(puller.home.rglob("targets.json"))).read_bytes()) == 2


async def test_a_root_of_a_stranger_is_refused(puller: Puller, server: Simulator) -> None:
    stranger = Forge()
    stranger.root.version = 2
    stranger.release()
    server.files["2.root.json"] = stranger.files["root"]
    await puller.refused(ThresholdError)
    del server.files["2.root.json"]
    await puller.verify()


async def test_a_fast_forward_with_stolen_online_keys_is_undone_by_their_rotation(
    puller: Puller, forge: Forge, server: Simulator
) -> None:
    def far(signed: dict[str, object]) -> None:
        signed["version"] = 2**31 - 1

    honest = dict(server.files)
    server.files["timestamp.json"] = resign(
        forge.files["timestamp"], forge.signers["timestamp"], far
    )
    await puller.verify()
    server.files = honest
    await puller.refused(RollbackError)
    for role in ("timestamp", "snapshot"):
        forge.root.revoke_key(forge.signers[role][0].public_key.keyid, role)
        forge.signers[role] = [CryptoSigner.generate_ed25519()]
        forge.root.add_key(forge.signers[role][0].public_key, role)
    forge.root.version = 2
    server.publish_target(b"new image")
    image = await puller.verify()
    assert image.versions["root"] == 2
    assert image.versions["timestamp"] == 3


async def test_a_tag_and_a_digest_nobody_signed_are_refused(puller: Puller) -> None:
    for reference in (f"{GUN}:9.9", f"{GUN}@{Digest.of(b'malware')}"):
        with pytest.raises(NotSignedError):
            await puller.verify(reference)


async def test_a_delegated_role_speaks_for_its_paths_only(
    puller: Puller, forge: Forge, server: Simulator
) -> None:
    forge.delegate("alice", ["rel-*"])
    forge.delegated["alice"].targets["rel-1"] = target(b"alice's")
    forge.delegated["alice"].targets["1.3"] = target(b"not hers")
    server.publish_target(b"new image")
    image = await puller.verify(f"{GUN}:rel-1")
    assert [signer.role for signer in image.signers] == ["alice"]
    for reference in (f"{GUN}:1.3", f"{GUN}@{Digest.of(b'not hers')}"):
        with pytest.raises(NotSignedError):
            await puller.verify(reference)


async def test_files_above_the_limit_are_not_parsed(puller: Puller, server: Simulator) -> None:
    server.files["timestamp.json"] += b" " * 20_000
    await puller.refused(TransferError)
    assert issubclass(MetadataTooLargeError, VerificationError)


async def test_an_expired_root_is_refused_until_the_next_one(
    puller: Puller, forge: Forge, server: Simulator
) -> None:
    after = LATER + timedelta(days=1)
    with pytest.raises(ExpiredMetadataError) as caught:
        await puller.verify(now=after)
    assert caught.value.role == "root"
    for payload in (forge.root, forge.targets):
        payload.expires = after + timedelta(days=9)
    forge.root.version = 2
    forge.targets.version += 1
    server.publish(
        expires_at=after + timedelta(days=9), snapshot_expires_at=after + timedelta(days=9)
    )
    assert (await puller.verify(now=after)).versions["root"] == 2
