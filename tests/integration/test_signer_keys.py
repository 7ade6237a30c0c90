"""Signers that get other keys, go, and come back: readers always find a file they can verify."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.names import Digest, Gun
from tabellion.errors import KeyStoreError, MalformedMetadataError, TabellionError, UsageError
from tabellion.publish.enrolment import SignerRequest, is_by_present_holders, read_request

PASSPHRASE = "signer passphrase"


@pytest.mark.parametrize("snapshot", ["server", "local"])
async def test_removed_signer_comes_back_with_new_keys_and_an_empty_file(
    server: EmbeddedServer, gun: str, tmp_path: Path, snapshot: str
) -> None:
    assert snapshot in {"server", "local"}
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(
            gun, snapshot="local" if snapshot == "local" else "server"
        )
        async with Person(server.url, tmp_path / "reader", made.root) as reader:
            old = owner.keys.generate("signer", passphrase=PASSPHRASE, name="old").key
            new = owner.keys.generate("signer", passphrase=PASSPHRASE, name="new").key
            await owner.publisher.add_signer(gun, "alice", [old])
            await owner.publisher.sign(gun, "evil", Digest.of(b"evil"), 1, role="alice")
            await owner.publisher.remove_signer(gun, "alice")
            assert await reader.signed(gun) == {}
            await owner.sign(gun, "1")  # the snapshot goes on listing the file left behind
            assert set(await reader.signed(gun)) == {"1"}
            added = await owner.publisher.add_signer(gun, "alice", [new])
            assert added.versions["alice"] == 2
            assert set(await reader.signed(gun)) == {"1"}
            await owner.publisher.sign(gun, "2", Digest.of(b"2"), 1, role="alice")
            assert set(await reader.signed(gun)) == {"1", "2"}


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_a_removed_signer_does_not_come_back_with_what_was_withdrawn(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun, dialect=dialect)
        kind = "ecdsa" if dialect is NOTARY else "ed25519"
        key, other = (
            owner.keys.generate("signer", passphrase=PASSPHRASE, name=name, keytype=kind).key
            for name in ("alice", "other")
        )
        await owner.publisher.add_signer(gun, "alice", [key])
        await owner.publisher.sign(gun, "1", Digest.of(b"1"), 1, role="alice")
        await owner.publisher.remove_signer(gun, "alice")
        with pytest.raises(UsageError, match="would come back with what was withdrawn: 1"):
            await owner.publisher.add_signer(gun, "alice", [key])
        assert set(await owner.signed(gun)) == set()
        await owner.publisher.add_signer(gun, "alice", [other])
        assert set(await owner.signed(gun)) == set()


async def test_signer_with_new_keys_and_paths_keeps_what_it_still_may_sign(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun)
        old, new = (
            owner.keys.generate("signer", passphrase=PASSPHRASE, name=name).key
            for name in ("old", "new")
        )
        await owner.publisher.add_signer(gun, "alice", [old])
        for target in ("a-1", "b-1"):
            await owner.publisher.sign(gun, target, Digest.of(b"x"), 1, role="alice")
        added = await owner.publisher.add_signer(gun, "alice", [new], paths=["a-*"])
        assert added.versions == {"targets": 3, "alice": 3}
        assert set(await owner.signed(gun)) == {"a-1"}


async def test_delegation_withdrawn_after_signing_shows_no_shadow(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun)
        key = owner.keys.generate("signer", passphrase=PASSPHRASE, name="alice").key
        await owner.publisher.add_signer(gun, "alice", [key])
        digest = Digest.of(b"1")
        await owner.publisher.sign(gun, "1", digest, 1, role="alice", publish=False)
        await owner.publisher.remove_signer(gun, "alice", publish=False)
        done = await owner.publisher.publish(gun)
        assert (done.versions, done.shadowed) == ({"targets": 3}, {})
        assert await owner.signed(gun) == {}


@pytest.mark.parametrize("is_removed", [False, True])
async def test_new_key_held_elsewhere_cosigns_before_anything_is_published(
    server: EmbeddedServer,
    gun: str,
    tmp_path: Path,
    is_removed: bool,  # noqa: FBT001
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun)
        people = [Person(server.url, tmp_path / name, made.root) for name in ("ann", "bob")]
        async with people[0] as ann, people[1] as bob:
            hers, his = (
                person.keys.generate("signer", passphrase=PASSPHRASE).key for person in people
            )
            await owner.publisher.add_signer(gun, "qa", [hers])
            await ann.publisher.sign(gun, "1", Digest.of(b"1"), 1)
            if is_removed:
                await owner.publisher.remove_signer(gun, "qa")
            before = (await owner.signed(gun), await owner.version(gun))
            half = await owner.publisher.add_signer(gun, "qa", [his])
            assert half.missing == {"qa": 1}
            assert half.incomplete is not None
            assert (await owner.signed(gun), await owner.version(gun)) == before
            with pytest.raises((KeyStoreError, UsageError)):
                await ann.publisher.cosign(half.incomplete)
            done = await bob.publisher.cosign(half.incomplete)
            assert done.versions == {"targets": before[1] + 1, "qa": 2}
            assert set(await owner.signed(gun)) == (set() if is_removed else {"1"})
            await bob.publisher.sign(gun, "2", Digest.of(b"2"), 1)
            assert "2" in await owner.signed(gun)
            with pytest.raises(KeyStoreError):
                await ann.publisher.sign(gun, "3", Digest.of(b"3"), 1)


async def test_cosigner_trusts_a_delegation_only_once_its_delegator_has_signed(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    """A stranger's file can't make somebody sign as a role that nobody gave them."""
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun)
        async with Person(server.url, tmp_path / "bob", made.root) as bob:
            key = bob.keys.generate("signer", passphrase=PASSPHRASE).key
            old = owner.keys.generate("signer", passphrase=PASSPHRASE).key
            await owner.publisher.add_signer(gun, "qa", [old])
            await owner.publisher.sign(gun, "1", Digest.of(b"1"), 1, role="qa")
            await owner.publisher.remove_signer(gun, "qa")
            half = await owner.publisher.add_signer(gun, "qa", [key])
            assert half.incomplete is not None
            document = json.loads(half.incomplete.read_text())
            targets = json.loads(document["files"]["targets"])
            targets["signatures"][0]["sig"] = "0" * 128
            cases: list[tuple[list[object], type[TabellionError], str]] = [
                (targets["signatures"], MalformedMetadataError, "was changed after"),
                ([], UsageError, "no role 'qa'"),
            ]
            for signatures, error, words in cases:
                document["files"]["targets"] = json.dumps(targets | {"signatures": signatures})
                half.incomplete.write_text(json.dumps(document))
                before = half.incomplete.read_bytes()
                with pytest.raises(error, match=words):
                    await bob.publisher.cosign(half.incomplete)
                assert half.incomplete.read_bytes() == before
            assert set(await owner.signed(gun)) == set()


async def test_a_file_that_a_signer_published_asks_for_no_other_keys(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    bob, eve, new = (CryptoSigner.generate_ed25519() for _ in range(3))
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)
    first = SignerRequest.make(Gun(gun), "bob", [bob], expires_at=expires_at)
    honest = SignerRequest.make(Gun(gun), "bob", [new], expires_at=expires_at, replaced=[bob])
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun)
        await owner.publisher.add_signer(gun, "bob", list(first.keys), file=first.file)

        async def comes_from(request: SignerRequest, where: str = gun) -> bool:
            read = read_request(request.to_bytes(), what="it")
            (present,) = await owner.publisher.signers(where)
            return is_by_present_holders(
                *(read.file, where, "bob"),
                wanted=read.keys,
                present=present.keys,
                threshold=present.threshold,
            )

        # Everybody has it, with Bob's signature; Eve adds hers and her key.
        served = await owner.publisher._api.metadata(gun, "1.bob.json", max_bytes=100_000)
        for theft in (served, honest.file):
            eves = SignerRequest(
                Gun(gun), "bob", (eve.public_key,), TUF.add_signature(theft, [eve])
            )
            assert await comes_from(eves) is False
            both = SignerRequest(
                Gun(gun),
                "bob",
                (new.public_key, eve.public_key),
                TUF.add_signature(theft, [eve, new]),
            )
            assert await comes_from(both) is False
        # Nor is what Bob asked for in one GUN asked for in another, where he has the same key.
        other = f"{gun}-other"
        await owner.publisher.init(other)
        await owner.publisher.add_signer(other, "bob", list(first.keys), file=first.file)
        assert await comes_from(honest, other) is False
        assert await comes_from(honest) is True
