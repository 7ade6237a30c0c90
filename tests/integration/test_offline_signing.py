"""Signing away from any network: what a proposal brings is believed from the trusted root on."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater

import publisher_process
from integration.test_ceremonies import (
    certificate,
    digest,
    offline,
    people,
    public_key,
    served_root,
    with_root,
)
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.holders import MEMBER
from tabellion.errors import UntrustedRootError, UsageError
from tabellion.publish.key_notes import KeyInfo
from tabellion.publish.offline import examine_file
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.signing import KeyRing

SECRET = publisher_process.PASSPHRASES["TABELLION_SIGNER_PASSPHRASE"]


def key_of(person: Person, name: str) -> KeyInfo:
    return person.keys.generate("signer", passphrase=SECRET, name=name)


def edit(file: Path, **members: Any) -> None:
    document = json.loads(file.read_bytes())
    file.write_text(json.dumps({**document, **members}))


async def test_a_nested_role_of_two_is_signed_by_the_chain_that_the_file_brings(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob, eve = await people(stack, server, tmp_path, ["ann", "bob", "eve"])
        made = await ann.publisher.init(gun)
        alice, bobs, eves = key_of(ann, "alice"), key_of(bob, "bob"), key_of(eve, "eve")
        await ann.publisher.add_signer(gun, "alice", [alice.key], paths=["a*"])
        await ann.publisher.add_signer(
            gun,
            "qa",
            [bobs.key, eves.key],
            paths=["*-rc"],
            threshold=2,
            under="alice",
            holders={bobs.keyid: "Bob", eves.keyid: "Eve"},
        )
        bob = await stack.enter_async_context(await with_root(server, bob, made.root))
        half = await bob.publisher.sign(gun, "a1-rc", digest("1"), 1, role="qa")
        assert half.awaited == {"qa": [f"{eves.keyid[:16]} (Eve)"]}
        file = half.incomplete
        assert file is not None
        brought = json.loads(file.read_bytes())["base"]
        assert brought.keys() == {"alice", "targets"}
        before = file.read_bytes()
        # A link of the chain is missing: nothing says whose role that is.
        edit(file, base={"targets": brought["targets"]})
        with pytest.raises(UsageError, match="delegates to role qa"):
            offline(eve, file, root=made.root)
        edit(file, base={"alice": brought["alice"]})
        with pytest.raises(UntrustedRootError, match="doesn't lead to it"):
            offline(eve, file, root=made.root)
        # One that somebody made up, be it under that name.
        edit(
            file,
            base={**brought, "alice": brought["alice"].replace('"threshold":2', '"threshold":1')},
        )
        lowered = file.read_bytes()
        with pytest.raises(UntrustedRootError, match="doesn't lead to it"):
            offline(eve, file, root=made.root)
        assert file.read_bytes() == lowered
        file.write_bytes(before)
        ring = KeyRing(eve.keys, Passphrases(environ=publisher_process.PASSPHRASES))
        seen = examine_file(file, ring, home=eve.home, root=made.root)
        (standing,) = seen.proposal.standings(seen.current)
        assert (standing.delegator, standing.threshold) == ("alice", 2)
        assert {standing.holders[key] for key in standing.keys} == {"Bob", "Eve"}
        told = offline(eve, file, root=made.root)
        assert [line.split(" sha256")[0] for line in told] == ["qa: sign a1-rc", told[-1]]
        # What it brought is still with it, for a third one.
        assert json.loads(file.read_bytes())["base"] == brought
        done = await ann.publisher.proposals.publish_file(file)
        assert done.versions == {"qa": 1}
        assert await ann.digest(gun, "a1-rc") == digest("1").hex


async def test_what_a_role_said_before_is_told_apart_from_what_it_says_now(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        made = await ann.publisher.init(gun)
        anns, bobs = key_of(ann, "ann"), key_of(bob, "bob")
        await ann.publisher.add_signer(gun, "qa", [anns.key, bobs.key], threshold=2)
        for number in ("1", "2"):
            half = await ann.publisher.sign(gun, number, digest(number), 1, role="qa")
            file = half.incomplete
            assert file is not None
            text = file.read_text()
            told = offline(bob, file, root=made.root)
            assert [line.split(" sha256")[0] for line in told] == [f"qa: sign {number}", told[-1]]
            await ann.publisher.proposals.publish_file(file)
        # Left out, all of it is told; of another version, it's refused.
        third = await ann.publisher.sign(gun, "3", digest("3"), 1, role="qa")
        file = third.incomplete
        assert file is not None
        base = json.loads(file.read_bytes())["base"]
        older = json.loads(text)["base"]
        edit(file, base={"targets": base["targets"]})
        told = offline(bob, file, root=made.root)
        assert len(told) == 4
        edit(file, base={"targets": base["targets"], "qa": older["qa"]})
        before = file.read_bytes()
        with pytest.raises(UsageError, match="doesn't follow version 1"):
            offline(bob, file, root=made.root)
        assert file.read_bytes() == before


async def test_a_delegation_older_than_what_the_machine_saw_is_refused(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        made = await ann.publisher.init(gun)
        anns, bobs, other = key_of(ann, "ann"), key_of(bob, "bob"), key_of(ann, "other")
        await ann.publisher.add_signer(gun, "qa", [anns.key, bobs.key], threshold=2)
        half = await ann.publisher.sign(gun, "1", digest("1"), 1, role="qa")
        file = half.incomplete
        assert file is not None
        await ann.publisher.add_signer(gun, "late", [other.key])
        bob = await stack.enter_async_context(await with_root(server, bob, made.root))
        assert await bob.digest(gun, "0") is None  # bob's machine was on the network once
        before = file.read_bytes()
        with pytest.raises(UsageError, match="targets version 2, and version 3 was seen here"):
            offline(bob, file)
        assert file.read_bytes() == before


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_a_rotation_that_signs_roles_anew_is_signed_away_from_the_network(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        made = await ann.publisher.init(gun, dialect=dialect)
        keytype = "ecdsa" if dialect is NOTARY else "ed25519"
        bobs = public_key(bob, tmp_path, keytype=keytype)
        if dialect is NOTARY:
            bobs = certificate(bob, gun, tmp_path)
        proposals = ann.publisher.proposals
        await proposals.prepare_root(gun, added={"root": [bobs]})
        await ann.sign(gun, "1")
        half = await proposals.prepare_root(gun, thresholds={"root": 2})
        assert half.incomplete is not None
        offline(bob, half.incomplete, root=await served_root(ann, gun, 2))
        assert (await proposals.publish_file(half.incomplete)).versions["root"] == 3
        trusted = await served_root(ann, gun, 3)
        rotated = await ann.publisher.rotate(gun, "root", "targets")
        assert rotated.missing == {"root": 1}
        (stays,) = rotated.stay["root"]
        assert rotated.awaited["root"][0].startswith(stays[:16])
        assert rotated.incomplete is not None
        told = offline(bob, rotated.incomplete, root=trusted)
        assert any(line.startswith("root: targets loses key") for line in told)
        done = await proposals.publish_file(rotated.incomplete)
        assert done.versions["root"] == 4
        reader = await stack.enter_async_context(Person(server.url, tmp_path / "r", made.root))
        assert await reader.digest(gun, "1") == digest("1").hex


async def test_bins_of_two_holders_are_signed_away_from_the_network(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        bobs = public_key(bob, tmp_path, role="targets")
        public_key(ann, tmp_path, role="targets")
        anns = ann.keys.list()[0].keyid
        await ann.publisher.init(gun, targets_keys=[anns, bobs], targets_threshold=2, bins=4)
        await bob.publisher.proposals.cosign(gun)
        root = await served_root(ann, gun, 1)
        ann = await stack.enter_async_context(await with_root(server, ann, root))
        half = await ann.publisher.sign(gun, "1", digest("1"), 1)
        assert half.incomplete is not None
        told = offline(bob, half.incomplete, root=root)
        (role,) = half.missing
        assert [line.split(" sha256")[0] for line in told] == [f"{role}: sign 1", told[-1]]
        assert (await ann.publisher.proposals.publish_file(half.incomplete)).versions == {role: 2}
        # Spread anew, the bins are delegated to by the targets role that comes with them.
        wider = await ann.publisher.rebin(gun, 8)
        assert wider.incomplete is not None
        assert offline(bob, wider.incomplete, root=root)
        await ann.publisher.proposals.publish_file(wider.incomplete)
        assert await ann.digest(gun, "1") == digest("1").hex


async def test_holders_of_a_role_are_named_beside_its_keys_and_python_tuf_reads_on(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "ann") as ann:
        made = await ann.publisher.init(gun)
        one, two = key_of(ann, "one"), key_of(ann, "two")
        names = {one.keyid: "Ann", two.keyid: "Bob"}
        keys = [one.key, two.key]
        await ann.publisher.add_signer(gun, "qa", keys, threshold=2, holders=names)
        await ann.publisher.sign(gun, "1", digest("1"), 1, role="qa")
        status = await ann.publisher.status(gun)
        assert status.standing is not None
        (qa,) = (role for role in status.standing.roles if role.role == "qa")
        assert [key.holder for key in qa.keys] == ["Ann", "Bob"]
        (folder := tmp_path / "python-tuf").mkdir()

        def read() -> bytes:
            base = f"{server.url}/v2/{gun}/_trust/tuf/"
            updater = Updater(str(folder), base, bootstrap=made.root)
            found = updater.get_targetinfo("1")
            assert found is not None
            assert found.hashes["sha256"] == digest("1").hex
            return (folder / "targets.json").read_bytes()

        targets = Metadata[Targets].from_bytes(await asyncio.to_thread(read)).signed
        assert targets.unrecognized_fields[MEMBER] == names
        assert targets.delegations is not None
        # The keys themselves say nothing of people: their ids are over what is in them.
        for key in targets.delegations.keys.values():
            assert set(key.to_dict()) == {"keytype", "scheme", "keyval"}
        # A name alone can be changed; with the keys it goes.
        await ann.publisher.add_signer(gun, "qa", keys, threshold=2, holders={two.keyid: "Dan"})
        (signer,) = await ann.publisher.signers(gun)
        assert signer.holders == {one.keyid: "Ann", two.keyid: "Dan"}
        await ann.publisher.remove_signer(gun, "qa")
        data = await ann.publisher._api.metadata(gun, "4.targets.json", max_bytes=100_000)
        assert MEMBER.encode() not in data


async def test_a_notary_gun_has_no_place_for_names_of_holders(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "ann") as ann:
        await ann.publisher.init(gun, dialect=NOTARY)
        key = ann.keys.generate("signer", passphrase=SECRET, keytype="ecdsa", name="one")
        with pytest.raises(UsageError, match="no place for holders"):
            await ann.publisher.add_signer(gun, "alice", [key.key], holders={key.keyid: "Ann"})
        assert await ann.publisher.signers(gun) == []


async def test_who_holds_a_roles_key_only_asks_the_roots_holder_for_another(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        made = await ann.publisher.init(gun)
        bobs = public_key(bob, tmp_path, "targets")
        await ann.publisher.proposals.prepare_root(gun, added={"targets": [f"{bobs}=Bob"]})
        bob = await stack.enter_async_context(await with_root(server, bob, made.root))
        asked = await bob.publisher.rotate(gun, "targets")
        assert asked.missing == {"root": 1}
        assert (await served_root(ann, gun, 2)) == (
            await bob.publisher._reader.read(gun)
        ).trusted.root.data
        told: list[str] = []
        done = await ann.publisher.proposals.cosign(gun, show=told.extend)
        assert done.versions["root"] == 3
        assert sum("(Bob)" in line and "key" in line for line in told) == 2  # gets one, loses one
        await bob.sign(gun, "1")
        assert await ann.digest(gun, "1") == digest("1").hex


async def test_a_home_that_is_behind_follows_the_roots_that_a_file_brings(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob, eve = await people(stack, server, tmp_path, ["ann", "bob", "eve"])
        made = await ann.publisher.init(gun)
        await eve.publisher.init(f"{gun}/hers")
        bobs = public_key(bob, tmp_path, "targets")
        # By root 1 Ann's key is enough for targets, by root 3 Bob's is needed, too.
        await ann.publisher.proposals.prepare_root(gun, added={"targets": [f"{bobs}=Bob"]})
        two = await ann.publisher.proposals.prepare_root(gun, thresholds={"targets": 2})
        assert two.missing == {"targets": 1}
        bob = await stack.enter_async_context(await with_root(server, bob, made.root))
        await bob.publisher.proposals.cosign(gun)
        half = await ann.publisher.sign(gun, "1", digest("1"), 1)
        file = half.incomplete
        assert file is not None
        before = file.read_bytes()
        brought = json.loads(before)["roots"]
        assert len(brought) == 3
        # Without them this home would take it for complete: nothing is signed then, and it's told.
        edit(file, roots=[])
        alone = file.read_bytes()
        with pytest.raises(UsageError, match="enough have signed"):
            offline(away(server, bob, tmp_path), file, root=made.root)
        assert file.read_bytes() == alone
        # One that nobody's keys lead to.
        hers = (await served_root(eve, f"{gun}/hers", 1)).decode()
        edit(file, roots=[hers.replace('"version":1', '"version":2')])
        with pytest.raises(UntrustedRootError, match="doesn't lead to it"):
            offline(away(server, bob, tmp_path), file, root=made.root)
        file.write_bytes(before)
        told = offline(away(server, bob, tmp_path), file, root=made.root)
        assert told[0].startswith("targets: sign 1 ")
        done = await ann.publisher.proposals.publish_file(file)
        assert done.versions == {"targets": 3}
        # A root that is two ahead of the trusted one is signed, too.
        root = tmp_path / "next.json"
        await ann.publisher.proposals.prepare_root(
            gun, added={"root": [bobs]}, thresholds={"root": 2}, out=root
        )
        assert offline(away(server, bob, tmp_path), root, root=made.root)


def away(server: EmbeddedServer, person: Person, folder: Path) -> Person:
    """Give somebody's keys on a machine that has seen nothing of any GUN."""
    home = folder / "away"
    if not home.exists():
        shutil.copytree(person.home / "keys", home / "keys")
    return Person(server.url, home)


async def test_a_founding_proposal_is_signed_by_a_file(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        ann, bob = await people(stack, server, tmp_path, ["ann", "bob"])
        bobs = public_key(bob, tmp_path)
        public_key(ann, tmp_path)
        anns = ann.keys.list()[0].keyid
        made = await ann.publisher.init(gun, root_keys=[anns, bobs], root_threshold=2)
        assert len(made.fingerprints) == 2
        file = tmp_path / "first.json"
        seen = await ann.publisher.proposals.save(gun, "", file)
        assert "root: founds the GUN: nothing of it is trusted yet" in seen.words
        assert "root: root needs 2 of 2 keys" in offline(bob, file)
        done = await ann.publisher.proposals.publish_file(file)
        assert done.versions == {"root": 1, "targets": 1}
