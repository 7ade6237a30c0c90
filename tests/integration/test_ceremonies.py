"""Ceremonies: several holders change a root, release, or found a GUN; all readers follow."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.ngclient import Updater

import publisher_process
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.names import Digest
from tabellion.errors import (
    KeyStoreError,
    MalformedMetadataError,
    NotSignedError,
    RefusedPublicationError,
    UntrustedRootError,
    UsageError,
)
from tabellion.publish.certificates import root_certificate
from tabellion.publish.offline import examine_file, sign_file
from tabellion.publish.outcome import Published
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.publisher import Publisher
from tabellion.publish.signing import Expiries, KeyRing

ROOT_SECRET = publisher_process.PASSPHRASES["TABELLION_ROOT_PASSPHRASE"]


def digest(text: str) -> Digest:
    return Digest.of(text.encode())


def public_key(person: Person, folder: Path, role: str = "root", keytype: str = "ed25519") -> str:
    """Give a file with the public part of a new key of somebody."""
    secret = publisher_process.PASSPHRASES[f"TABELLION_{role.upper()}_PASSPHRASE"]
    info = person.keys.generate(role, passphrase=secret, keytype=keytype)  # type: ignore[arg-type]
    path = folder / f"{info.keyid[:16]}.pub"
    path.write_bytes(person.keys.export(info.keyid))
    return str(path)


def offline(person: Person, file: Path, *, root: bytes | None = None) -> list[str]:
    """Sign a file as on a machine without network; gives what was told."""
    told: list[str] = []
    ring = KeyRing(person.keys, Passphrases(environ=publisher_process.PASSPHRASES))
    sign_file(file, ring, home=person.home, root=root, out=file, show=told.extend)
    return told


def by_python_tuf(server: EmbeddedServer, gun: str, folder: Path, bootstrap: bytes) -> Updater:
    """Refresh with python-tuf's own client, from a root of old."""
    folder.mkdir()
    base = f"{server.url}/v2/{gun}/_trust/tuf/"
    updater = Updater(str(folder), base, bootstrap=bootstrap)
    updater.refresh()
    return updater


async def served_root(person: Person, gun: str, version: int) -> bytes:
    return await person.publisher._api.metadata(gun, f"{version}.root.json", max_bytes=512_000)


async def people(
    stack: AsyncExitStack, server: EmbeddedServer, folder: Path, names: Sequence[str]
) -> list[Person]:
    return [await stack.enter_async_context(Person(server.url, folder / name)) for name in names]


async def with_root(server: EmbeddedServer, person: Person, root: bytes) -> Person:
    """Give the same person again, now trusting a root."""
    return Person(server.url, person.home, root)


async def test_two_of_three_change_a_root_one_of_them_without_a_network(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob, eve, dan = await people(stack, server, tmp_path, ["ann", "bob", "eve", "dan"])
        made = await ann.publisher.init(gun)
        pubs = [public_key(person, tmp_path) for person in (bob, eve)]
        proposals = ann.publisher.proposals
        grown = await proposals.prepare_root(
            gun,
            added={"root": [f"{pubs[0]}=Bob", f"{pubs[1]}=Eve"]},
            thresholds={"root": 2},
        )
        # The old root's one key isn't enough for the new root, which needs two.
        assert grown.missing == {"root": 1}
        assert grown.pending
        bob = await stack.enter_async_context(await with_root(server, bob, made.root))
        told: list[str] = []
        done = await bob.publisher.proposals.cosign(gun, show=told.extend)
        assert done.versions == {"root": 2}
        assert "root: root needs 2 of 3 keys (was 1 of 1)" in told
        assert any(line.endswith("(Bob)") and "gets key" in line for line in told)
        # Now Dan replaces Eve; Eve's machine has no network, and she agrees by a file.
        await ann.trust.refresh(gun)
        dans = public_key(dan, tmp_path)
        eves_key = eve.keys.list()[0].keyid
        file = tmp_path / "ceremony.json"
        out = await ann.publisher.proposals.prepare_root(
            gun, added={"root": [f"{dans}=Dan"]}, removed=[eves_key[:16]], out=file
        )
        assert out.missing == {"root": 1}
        assert (await ann.publisher.proposals.pending(gun)) == []
        trusted = await served_root(ann, gun, 2)
        with pytest.raises(UsageError, match="no root of"):
            offline(eve, file)
        told = offline(eve, file, root=trusted)
        assert f"root: root loses key {eves_key[:16]} (Eve)" in told
        assert (await served_root(ann, gun, 2)) == trusted
        # The old threshold is met, the new root's own not yet: Eve isn't one of its keys.
        kept = await ann.publisher.proposals.publish_file(file)
        assert kept.missing == {"root": 1}
        dan = await stack.enter_async_context(await with_root(server, dan, made.root))
        done = await dan.publisher.proposals.cosign(gun)
        assert done.versions == {"root": 3}
        reader = await stack.enter_async_context(Person(server.url, tmp_path / "r", made.root))
        await ann.sign(gun, "1")
        assert await reader.digest(gun, "1") == digest("1").hex
        assert (await reader.trust.refresh(gun)).root.version == 3
        updater = await asyncio.to_thread(
            by_python_tuf, server, gun, tmp_path / "python-tuf", made.root
        )
        assert updater._trusted_set.root.version == 3
        actions = [record.action for record in await ann.publisher.proposals.audit(gun)]
        assert actions == ["published", "opened", "published", "opened"]


async def test_a_release_waits_at_the_server_until_two_of_two_signed_the_same_bytes(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        bobs = public_key(bob, tmp_path, "targets")
        ann.keys.generate("targets", passphrase="targets passphrase", gun=gun, name="anns")
        made = await ann.publisher.init(
            gun, targets_keys=["anns=Ann", f"{bobs}=Bob"], targets_threshold=2
        )
        assert made.missing == {"targets": 1}
        done = await bob.publisher.proposals.cosign(gun)
        assert done.versions == {"root": 1, "targets": 1}
        root = await served_root(ann, gun, 1)
        ann = await stack.enter_async_context(await with_root(server, ann, root))
        bob = await stack.enter_async_context(await with_root(server, bob, root))
        half = await ann.publisher.sign(gun, "1", digest("1"), 1)
        assert half.missing == {"targets": 1}
        assert half.pending
        assert half.incomplete is not None
        with pytest.raises(NotSignedError):
            await ann.trust.verify_target(gun, "1")
        with pytest.raises(KeyStoreError):
            await ann.publisher.proposals.cosign(gun)  # the same person twice doesn't count
        examined = await bob.publisher.proposals.show(gun)
        assert examined.words[0].startswith("targets: sign 1 sha256:")
        (standing,) = examined.proposal.standings(examined.current)
        assert [standing.holders[keyid] for keyid in standing.signed_by] == ["Ann"]
        assert [standing.holders[keyid] for keyid in standing.awaited] == ["Bob"]
        done = await bob.publisher.proposals.cosign(gun)
        assert done.versions == {"targets": 2}
        assert await ann.digest(gun, "1") == digest("1").hex
        assert await ann.publisher.proposals.pending(gun) == []
        updater = await asyncio.to_thread(by_python_tuf, server, gun, tmp_path / "tuf", root)
        found = updater.get_targetinfo("1")
        assert found is not None
        assert found.hashes["sha256"] == digest("1").hex
        # The file that Ann has still is published already: nothing more to do.
        again = await bob.publisher.cosign(half.incomplete)
        assert again.versions == {"targets": 2}


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_two_holders_found_a_gun(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        keytype = "ecdsa" if dialect is NOTARY else "ed25519"
        bobs = public_key(bob, tmp_path, keytype=keytype)
        if dialect is NOTARY:
            with pytest.raises(KeyStoreError, match="bare key"):
                await ann.publisher.init(gun, root_keys=[bobs], dialect=dialect)
            bobs = certificate(bob, gun, tmp_path)
        public_key(ann, tmp_path, keytype=keytype)
        anns = ann.keys.list()[0].keyid
        made = await ann.publisher.init(
            gun, root_keys=[anns, bobs], root_threshold=2, dialect=dialect
        )
        assert made.missing == {"root": 1}
        assert not await ann.publisher._api.exists(gun)
        with pytest.raises(KeyStoreError):
            await ann.publisher.proposals.cosign(gun)
        told: list[str] = []
        done = await bob.publisher.proposals.cosign(gun, show=told.extend)
        assert done.versions == {"root": 1, "targets": 1}
        assert "root: founds the GUN: nothing of it is trusted yet" in told
        assert "root: root needs 2 of 2 keys" in told
        root = await served_root(ann, gun, 1)
        owner = await stack.enter_async_context(await with_root(server, ann, root))
        await owner.sign(gun, "1")
        reader = await stack.enter_async_context(Person(server.url, tmp_path / "r", root))
        assert await reader.digest(gun, "1") == digest("1").hex
        if dialect is TUF:
            updater = await asyncio.to_thread(by_python_tuf, server, gun, tmp_path / "t", root)
            assert updater.get_targetinfo("1") is not None


def certificate(person: Person, gun: str, folder: Path) -> str:
    private = person.keys.private_key(person.keys.list()[0].keyid, ROOT_SECRET)
    key = root_certificate(private, gun, now=person.publisher._clock())
    path = folder / "certificate.pem"
    path.write_bytes(base64.b64decode(key.keyval["public"]))
    return str(path)


async def test_a_notary_root_gets_a_second_holder(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        made = await ann.publisher.init(gun, dialect=NOTARY)
        public_key(bob, tmp_path, keytype="ecdsa")
        bobs = certificate(bob, gun, tmp_path)
        with pytest.raises(UsageError, match="no place for holders"):
            await ann.publisher.proposals.prepare_root(gun, added={"root": [f"{bobs}=Bob"]})
        half = await ann.publisher.proposals.prepare_root(
            gun, added={"root": [bobs]}, thresholds={"root": 2}
        )
        assert half.missing == {"root": 1}
        bob = await stack.enter_async_context(await with_root(server, bob, made.root))
        done = await bob.publisher.proposals.cosign(gun)
        assert done.versions == {"root": 2}
        await ann.sign(gun, "1")
        reader = await stack.enter_async_context(Person(server.url, tmp_path / "r", made.root))
        assert await reader.digest(gun, "1") == digest("1").hex


async def test_a_rotation_that_several_have_to_sign_waits_for_them(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        made = await ann.publisher.init(gun)
        await ann.sign(gun, "1")
        bobs = public_key(bob, tmp_path)
        await ann.publisher.proposals.prepare_root(gun, added={"root": [bobs]})
        grown = await ann.publisher.proposals.prepare_root(gun, thresholds={"root": 2})
        assert grown.missing == {"root": 1}
        bob = await stack.enter_async_context(await with_root(server, bob, made.root))
        await bob.publisher.proposals.cosign(gun)
        half = await ann.publisher.rotate(gun, "targets")
        assert half.missing == {"root": 1}
        assert await ann.digest(gun, "1") == digest("1").hex
        done = await bob.publisher.proposals.cosign(gun)
        assert done.versions == {"root": 4, "targets": 3}
        reader = await stack.enter_async_context(Person(server.url, tmp_path / "r", made.root))
        assert await reader.digest(gun, "1") == digest("1").hex


async def test_a_file_edited_after_a_signature_is_signed_by_nobody(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        made = await ann.publisher.init(gun)
        file = tmp_path / "root.json"
        await ann.publisher.proposals.prepare_root(
            gun, added={"root": [public_key(bob, tmp_path)]}, thresholds={"root": 2}, out=file
        )
        document = json.loads(file.read_bytes())
        document["files"]["root"] = document["files"]["root"].replace(
            '"threshold":2', '"threshold":1'
        )
        file.write_text(json.dumps(document))
        before = file.read_bytes()
        with pytest.raises(MalformedMetadataError, match="was changed after key"):
            offline(bob, file, root=made.root)
        ring = KeyRing(bob.keys, Passphrases(environ=publisher_process.PASSPHRASES))
        with pytest.raises(MalformedMetadataError, match="was changed after key"):
            examine_file(file, ring, home=bob.home, root=made.root)
        assert file.read_bytes() == before
        with pytest.raises(MalformedMetadataError):
            await ann.publisher.proposals.publish_file(file)
        assert await ann.publisher.proposals.pending(gun) == []


async def test_a_root_that_comes_with_the_file_does_not_replace_the_trusted_one(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, eve, bob = await people(stack, server, tmp_path, ["ann", "eve", "bob"])
        await ann.publisher.init(gun)
        await eve.publisher.init(f"{gun}/hers")
        hers = await served_root(eve, f"{gun}/hers", 1)
        file = tmp_path / "root.json"
        await ann.publisher.proposals.prepare_root(
            gun, added={"root": [public_key(bob, tmp_path)]}, thresholds={"root": 2}, out=file
        )
        cached = ann.home / "trust"
        copied = bob.home / "trust"
        copied.parent.mkdir(exist_ok=True, parents=True)
        shutil.copytree(cached, copied)
        with pytest.raises(UntrustedRootError):
            offline(bob, file, root=hers)
        assert offline(bob, file)


async def test_a_withdrawn_release_is_published_by_no_copy_of_it(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        made = await ann.publisher.init(gun)
        half: Published = await ann.publisher.proposals.prepare_root(
            gun, added={"root": [public_key(bob, tmp_path)]}, thresholds={"root": 2}
        )
        assert half.incomplete is not None
        dropped = await ann.publisher.proposals.withdraw(gun, half.pending[:12])
        assert dropped == half.pending
        bob = await stack.enter_async_context(await with_root(server, bob, made.root))
        with pytest.raises(UsageError, match="nothing is pending"):
            await bob.publisher.proposals.cosign(gun)
        with pytest.raises(RefusedPublicationError) as caught:
            await bob.publisher.cosign(half.incomplete)
        assert caught.value.rule == "proposal-closed"
        assert (await bob.trust.refresh(gun)).root.version == 1


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_a_witness_signs_anew_what_is_there_and_revives_what_expired(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with AsyncExitStack() as stack:
        (ann,) = await people(stack, server, tmp_path, ["ann"])
        made = await ann.publisher.init(gun, dialect=dialect)
        brief = Publisher(
            server.url,
            home=ann.home,
            trust=ann.trust,
            passphrases=Passphrases(environ=publisher_process.PASSPHRASES),
            expiries=Expiries(targets=timedelta(seconds=8)),
        )
        async with brief:
            await brief.sign(gun, "1", digest("1"), 1)
        expired_at = (await ann.publisher.status(gun)).expires["targets"]
        left = expired_at - ann.publisher._clock()
        await asyncio.sleep(max(left.total_seconds(), 0) + 0.1)
        done = await ann.publisher.witness(gun, ["targets"])
        assert done.versions == {"targets": 3}
        done = await ann.publisher.witness(gun, ["root"])
        assert done.versions == {"root": 2}
        reader = await stack.enter_async_context(Person(server.url, tmp_path / "r", made.root))
        assert await reader.digest(gun, "1") == digest("1").hex
        for roles in (["timestamp"], ["snapshot"], ["root", "targets"], []):
            with pytest.raises(UsageError):
                await ann.publisher.witness(gun, roles)
        with pytest.raises(UsageError, match="no role"):
            await ann.publisher.witness(gun, ["nobody"])


async def test_bins_of_two_holders_are_founded_signed_and_spread_anew_by_both(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        bobs = public_key(bob, tmp_path, role="targets")
        public_key(ann, tmp_path, role="targets")
        anns = ann.keys.list()[0].keyid
        made = await ann.publisher.init(gun, targets_keys=[anns, bobs], targets_threshold=2, bins=4)
        bins = [f"bin1-{number}" for number in range(4)]
        assert made.missing == dict.fromkeys(["targets", *bins], 1)
        told: list[str] = []
        await bob.publisher.proposals.cosign(gun, show=told.extend)
        assert any("over 4 bins bin1-..., each signed with 2 of the keys" in line for line in told)
        root = await served_root(ann, gun, 1)
        ann = await stack.enter_async_context(await with_root(server, ann, root))
        bob = await stack.enter_async_context(await with_root(server, bob, root))
        half = await ann.publisher.sign(gun, "1", digest("1"), 1)
        (role,) = half.missing
        assert role in bins
        assert await ann.digest(gun, "1") is None
        told = []
        done = await bob.publisher.proposals.cosign(gun, show=told.extend)
        assert done.versions == {role: 2}
        assert [line.split(" sha256")[0] for line in told[:1]] == [f"{role}: sign 1"]
        assert [line.split(", expires")[0] for line in told[1:]] == [f"{role}: version 2"]
        wider = await ann.publisher.rebin(gun, 8)
        assert wider.pending
        done = await bob.publisher.proposals.cosign(gun)
        assert done.versions == {"targets": 2, **{f"bin2-{number}": 1 for number in range(8)}}
        reader = await stack.enter_async_context(Person(server.url, tmp_path / "r", root))
        assert await reader.signed(gun) == {"1": digest("1").hex}
        witnessed = await ann.publisher.witness(gun, ["bin2-0"])
        assert witnessed.missing == {"bin2-0": 1}
        assert (await bob.publisher.proposals.cosign(gun)).versions == {"bin2-0": 2}
        assert await reader.signed(gun) == {"1": digest("1").hex}


@pytest.mark.parametrize("by_file", [False, True], ids=["server", "file"])
@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_who_has_not_the_snapshot_key_leaves_the_last_step_to_who_has(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect, *, by_file: bool
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        made = await ann.publisher.init(gun, dialect=dialect)
        bobs = public_key(bob, tmp_path, keytype="ecdsa")
        bobs = certificate(bob, gun, tmp_path) if dialect is NOTARY else bobs
        bob = await stack.enter_async_context(await with_root(server, bob, made.root))
        await ann.publisher.proposals.prepare_root(
            gun, added={"root": [bobs]}, thresholds={"root": 2}
        )
        await bob.publisher.proposals.cosign(gun)
        half = await ann.publisher.rotate(gun, "snapshot", "targets")
        assert half.missing == {"root": 1}
        assert half.incomplete is not None
        if by_file:
            waits = await bob.publisher.cosign(half.incomplete)
        else:
            waits = await bob.publisher.proposals.cosign(gun)
        # Bob's signature is kept; who signs the snapshot is named.
        assert (waits.versions, waits.missing) == ({}, {"snapshot": 1})
        (signer,) = waits.awaited["snapshot"]
        assert signer[:16] in {info.keyid[:16] for info in ann.keys.list(role="snapshot")} or (
            dialect is NOTARY
        )
        seen = await ann.publisher.proposals.show(gun)
        assert not seen.proposal.missing(seen.current)
        assert (await ann.trust.refresh(gun)).root.version == 2
        done = await ann.publisher.proposals.cosign(gun)
        assert done.versions["root"] == 3
        reader = await stack.enter_async_context(Person(server.url, tmp_path / "r", made.root))
        assert (await reader.trust.refresh(gun)).root.version == 3
