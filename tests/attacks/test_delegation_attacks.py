"""A delegated signer, alone or with the server's keys, against the others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, Snapshot, Targets, Timestamp

from forge import LATER, NOW, Forge, target
from puller import Puller
from simulator import GUN, Simulator, proper_head
from tabellion.core.dialect import TUF
from tabellion.core.limits import Limits
from tabellion.core.names import Digest
from tabellion.core.publication import UploadedFile
from tabellion.core.transitions import judge_publication
from tabellion.errors import (
    MetadataTooLargeError,
    RefusedPublicationError,
    RollbackError,
    TabellionError,
)
from tabellion.publish.server_api import ServerApi
from tabellion.publish.state import StateReader

EVIL = Digest.of(b"evil")


def delegate(payload: Targets, name: str, paths: list[str], *signers: Signer) -> None:
    if payload.delegations is None:
        payload.delegations = Delegations({}, {})
    assert payload.delegations.roles is not None
    payload.delegations.roles[name] = DelegatedRole(name, [], 1, terminating=False, paths=paths)
    for signer in signers:
        payload.add_key(signer.public_key, name)


@dataclass
class Conspiracy:
    """Alice may sign ``a*``; with the server's snapshot key she wants to be bob, who has ``c*``."""

    server: Simulator
    forge: Forge

    def plot(self, *, shares_key: bool) -> None:
        alice, bob, carol = (CryptoSigner.generate_ed25519() for _ in range(3))
        delegate(self.forge.targets, "alice", ["a*"], alice)
        delegate(self.forge.targets, "bob", ["c*"], bob)
        self.forge.targets.version += 1
        real_bob, false_bob, hers, false_carol = (Targets(expires=LATER) for _ in range(4))
        delegate(real_bob, "carol", ["c*"], carol)
        delegate(hers, "bob", ["a*"], alice, *([bob] if shares_key else []))
        delegate(false_bob, "carol", ["c*"], alice)
        false_bob.targets["c9"] = target(b"evil", "c9")
        false_carol.targets["c1"] = target(b"evil", "c1")
        version = self.forge.targets.version
        self.server.files |= {
            f"{version}.targets.json": TUF.sign(self.forge.targets, self.forge.signers["targets"]),
            "1.alice.json": TUF.sign(hers, [alice]),
            "1.carol.json": TUF.sign(false_carol, [alice]),
            "1.bob.json": b"",
        }
        real, false = TUF.sign(real_bob, [bob]), TUF.sign(false_bob, [alice])
        shown = [false] if shares_key else [false, real]

        async def show_bob(writer: asyncio.StreamWriter, _: bytes) -> None:
            data = shown.pop(0) if len(shown) > 1 else shown[0]
            writer.write(proper_head(len(data)) + data)
            await writer.drain()

        self.server.answers["1.bob.json"] = show_bob
        roles = {"targets": version, "alice": 1, "bob": 1, "carol": 1}
        # Without hashes, as TUF allows: one version may then have two contents.
        meta = {f"{role}.json": MetaFile(number) for role, number in roles.items()}
        snapshot = Snapshot(version=50, expires=LATER, meta=meta)
        timestamp = Timestamp(version=50, expires=LATER, snapshot_meta=MetaFile(50))
        self.server.files |= {
            "50.snapshot.json": TUF.sign(snapshot, self.forge.signers["snapshot"]),
            "timestamp.json": TUF.sign(timestamp, self.forge.signers["timestamp"]),
        }


async def test_a_signer_with_the_servers_keys_cannot_speak_for_another_role(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    Conspiracy(server, forge).plot(shares_key=False)
    trust = puller.client()
    # Asked together, they share what was read: a search in her paths comes to her bob first.
    asked = [trust.verify(f"{GUN}:{name}") for name in ("a9", "c1", "c9")]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(outcome, TabellionError) for outcome in outcomes), outcomes
    listing: Any = await trust.targets(GUN)
    assert {"c1", "c9"}.isdisjoint(match.path for match in listing)


async def test_a_publisher_never_builds_on_a_file_that_another_role_signed(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    Conspiracy(server, forge).plot(shares_key=True)
    async with ServerApi(server.url) as api:
        with pytest.raises(TabellionError):
            await StateReader(api, puller.client(), puller.home).read(GUN)


async def test_a_signer_cannot_hide_another_by_a_role_of_that_name(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    server.add_delegation("alice", ["a*"])
    server.add_delegation("bob", ["b*"])
    server.publish_target(b"bobs", "b1", "bob")
    delegate(forge.delegated["alice"], "bob", ["a*"], forge.signers["alice"][0])
    forge.delegated["alice"].version += 1
    server.publish()
    assert (await puller.verify(f"{GUN}@{Digest.of(b'bobs')}")).target == "b1"
    assert "b1" in {match.path for match in await puller.client().targets(GUN)}


async def test_a_signer_with_many_roles_of_its_own_hides_nobody(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    for name in ("bob", "alice", "carol"):
        server.add_delegation(name, [f"{name[0]}*"])
    for number in range(40):
        name = f"alice-{number}"
        forge.delegated[name] = Targets(expires=LATER)
        forge.signers[name] = forge.signers["alice"]
        delegate(forge.delegated["alice"], name, ["a*"], forge.signers["alice"][0])
    forge.delegated["alice"].version += 1
    server.publish_target(b"bobs", "b1", "bob")
    server.publish_target(b"carols", "c1", "carol")
    assert (await puller.verify(f"{GUN}@{Digest.of(b'bobs')}")).target == "b1"
    assert (await puller.verify(f"{GUN}@{Digest.of(b'carols')}")).target == "c1"
    listing = await puller.client(limits=Limits(roles=20)).targets(GUN)
    assert [match.path for match in listing] == ["1.2", "b1", "c1"]
    assert [type(error) for error in listing.left_out] == [MetadataTooLargeError]


async def test_an_older_root_file_forgets_no_newer_root(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    old = list(forge.signers["timestamp"]), list(forge.signers["snapshot"])
    for role in ("root", "root", "timestamp", "snapshot"):
        server.rotate_keys(role)
    server.publish_target(b"new")
    await puller.verify(root=server.files["3.root.json"])
    # The thief of retired keys withholds a root, and shows what they can sign.
    del server.files["2.root.json"]
    forge.signers["timestamp"], forge.signers["snapshot"] = old
    forge.files.pop("timestamp")
    forge.files.pop("snapshot")
    server.publish_target(b"image")
    before = puller.kept()
    await puller.refused(RollbackError, root=server.files["1.root.json"])
    assert puller.kept() == before


def test_nobody_may_delegate_to_a_name_that_another_role_delegates_to() -> None:
    forge = Forge()
    alice = forge.delegate("alice", ["a*"])
    bob = CryptoSigner.generate_ed25519()
    delegate(forge.targets, "bob", ["b*"], bob)
    forge.release()
    hers = forge.delegated["alice"]
    hers.version += 1
    delegate(hers, "bob", ["a*"], alice)
    upload = [UploadedFile("alice", TUF.sign(hers, [alice]))]
    with pytest.raises(RefusedPublicationError) as caught:
        judge_publication(forge.current(), upload, gun="g", online=forge.online(), now=NOW)
    assert caught.value.rule == "role-delegated-twice"
    assert "bob" in caught.value.message
