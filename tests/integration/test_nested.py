"""Delegations beneath delegations: each by whoever holds the key above it."""

from __future__ import annotations

from pathlib import Path

import pytest

import publisher_process
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY
from tabellion.core.names import Digest
from tabellion.errors import KeyStoreError, NotDelegatedError, UsageError
from tabellion.publish.key_notes import KeyInfo

SECRET = publisher_process.PASSPHRASES["TABELLION_SIGNER_PASSPHRASE"]


def key_of(person: Person, name: str) -> KeyInfo:
    return person.keys.generate("signer", passphrase=SECRET, name=name)


async def tree(person: Person, gun: str) -> dict[str, str]:
    return {signer.name: signer.under for signer in await person.publisher.signers(gun)}


async def test_a_signer_delegates_beneath_itself_and_only_it_can(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun)
        async with Person(server.url, tmp_path / "alice", made.root) as alice:
            hers, carols = key_of(alice, "alice"), key_of(owner, "carol")
            await owner.publisher.add_signer(gun, "alice", [hers.key], paths=["a*"])
            with pytest.raises(KeyStoreError):
                await owner.publisher.add_signer(gun, "carol", [carols.key], under="alice")
            assert await tree(owner, gun) == {"alice": "targets"}
            with pytest.raises(UsageError, match="nobody"):
                await alice.publisher.add_signer(gun, "carol", [carols.key], under="nobody")
            with pytest.raises(UsageError, match="itself"):
                await alice.publisher.add_signer(gun, "alice", [carols.key], under="alice")
            await alice.publisher.add_signer(
                gun, "carol", [carols.key], paths=["*-rc"], under="alice"
            )
            assert await tree(owner, gun) == {"alice": "targets", "carol": "alice"}
            # Carol signs what both patterns allow, and is found.
            await owner.publisher.sign(gun, "a1-rc", Digest.of(b"x"), 1, role="carol")
            found = await owner.trust.target(gun, "a1-rc")
            assert (found.role.role, found.delegated_by) == ("carol", "alice")
            for path in ("b1-rc", "a1"):
                with pytest.raises(NotDelegatedError):
                    await owner.publisher.sign(gun, path, Digest.of(b"x"), 1, role="carol")
            # One name, one delegator.
            with pytest.raises(UsageError, match="already"):
                await owner.publisher.add_signer(gun, "carol", [carols.key])
            # Who goes takes along what hangs on it, and that is said.
            gone = await owner.publisher.remove_signer(gun, "alice")
            assert gone.gone_too == ["carol"]
            assert await tree(owner, gun) == {}
            assert await owner.digest(gun, "a1-rc") is None


async def test_a_nested_signer_is_removed_alone_by_the_key_above_it(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun)
        key = key_of(owner, "all").key
        await owner.publisher.add_signer(gun, "r1", [key])
        for number in range(2, 9):
            await owner.publisher.add_signer(gun, f"r{number}", [key], under=f"r{number - 1}")
        with pytest.raises(UsageError, match="8 delegations away"):
            await owner.publisher.add_signer(gun, "r9", [key], under="r8")
        gone = await owner.publisher.remove_signer(gun, "r7")
        assert gone.gone_too == ["r8"]
        assert gone.versions.keys() == {"r6", "snapshot"} - {"snapshot"}
        assert (await tree(owner, gun)).keys() == {f"r{number}" for number in range(1, 7)}
        with pytest.raises(UsageError, match="no signer"):
            await owner.publisher.remove_signer(gun, "r7")


async def test_a_notary_gun_nests_by_name(server: EmbeddedServer, gun: str, tmp_path: Path) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun, dialect=NOTARY)
        key = key_of(owner, "all").key
        await owner.publisher.add_signer(gun, "a", [key], paths=["v*"])
        await owner.publisher.add_signer(gun, "targets/a/b", [key], paths=["v1*"])
        await owner.publisher.add_signer(gun, "c", [key], paths=["v1.2*"], under="targets/a/b")
        nested = {name: by for name, by in (await tree(owner, gun)).items() if by != "targets"}
        assert nested == {"targets/a/b": "targets/a", "targets/a/b/c": "targets/a/b"}
        await owner.publisher.sign(gun, "v1.2.3", Digest.of(b"x"), 1, role="targets/a/b/c")
        assert await owner.digest(gun, "v1.2.3") == Digest.of(b"x").hex
        with pytest.raises(NotDelegatedError):
            await owner.publisher.sign(gun, "v1.3", Digest.of(b"x"), 1, role="targets/a/b/c")
        with pytest.raises(UsageError):
            await owner.publisher.add_signer(gun, "targets/x/y", [key], paths=["*"], under="a")
        with pytest.raises(UsageError):
            await owner.publisher.add_signer(gun, "targets/nobody/y", [key], paths=["*"])
        gone = await owner.publisher.remove_signer(gun, "targets/a/b")
        assert gone.gone_too == ["targets/a/b/c"]
        assert await owner.digest(gun, "v1.2.3") is None


async def test_a_nested_notary_signer_that_comes_back_signs_after_its_own_past(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun, dialect=NOTARY)
        key, other = key_of(owner, "all").key, key_of(owner, "other").key
        await owner.publisher.add_signer(gun, "a", [key], paths=["v*"])
        await owner.publisher.add_signer(gun, "b", [key], paths=["v*"], under="a")
        await owner.publisher.sign(gun, "v1", Digest.of(b"x"), 1, role="targets/a/b")
        await owner.publisher.remove_signer(gun, "targets/a/b")
        assert await owner.digest(gun, "v1") is None
        back = await owner.publisher.add_signer(gun, "b", [other], paths=["v*"], under="a")
        assert back.versions["targets/a/b"] == 2
        await owner.publisher.sign(gun, "v2", Digest.of(b"y"), 1, role="targets/a/b")
        assert await owner.version(gun, "targets/a/b") == 3
        # What it signed before it went isn't back with it.
        assert await owner.digest(gun, "v1") is None
        assert await owner.digest(gun, "v2") == Digest.of(b"y").hex
