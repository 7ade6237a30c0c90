"""Publishers at work against the real server: alone, together, and forty at once."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

import publisher_process
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.names import Digest
from tabellion.errors import (
    KeyStoreError,
    NotDelegatedError,
    NotSignedError,
    UnreachableError,
    UntrustedRootError,
    UsageError,
)
from tabellion.publish.outcome import Initialized
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.public_keys import load_public_key
from tabellion.publish.publisher import Publisher


def digest(text: str) -> Digest:
    return Digest.of(text.encode())


async def test_sign_then_verify_then_revoke(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun)
        assert [info.role for info in made.made] == ["root", "targets"]
        published = await owner.publisher.sign(gun, "1.2", digest("a"), 1, custom={"note": "ü"})
        assert published is not None
        assert published.versions == {"targets": 2}
        again = await owner.publisher.sign(gun, "1.2", digest("a"), 1, custom={"note": "ü"})
        assert again is not None
        assert again.versions == {}
        async with Person(server.url, tmp_path / "reader", made.root) as reader:
            image = await reader.trust.verify(f"{gun}:1.2")
            assert image.digest == digest("a")
            assert image.custom == {"note": "ü"}
            await owner.publisher.revoke(gun, "1.2")
            with pytest.raises(NotSignedError):
                await reader.trust.verify(f"{gun}:1.2")
        entries = await owner.publisher.history(gun, target="1.2")
        assert [entry.kind for entry in entries] == ["revoked", "signed"]
        with pytest.raises(NotSignedError):
            await owner.publisher.revoke(gun, "1.2")


async def test_init_of_an_existing_gun_is_refused_and_keeps_the_pinned_root(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with (
        Person(server.url, tmp_path / "one") as one,
        Person(server.url, tmp_path / "two") as two,
    ):
        await one.publisher.init(gun)
        with pytest.raises(UsageError, match="exists"):
            await one.publisher.init(gun)
        with pytest.raises(UsageError, match="exists"):
            await two.publisher.init(gun)
        assert two.keys.list() == []
        with pytest.raises(UntrustedRootError):
            await two.publisher.sign(gun, "1", digest("x"), 1)
        assert await one.publisher.sign(gun, "1", digest("x"), 1)


async def test_staged_changes_are_published_together_and_in_order(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun)
        await owner.publisher.sign(gun, "1", digest("1"), 1, publish=False)
        await owner.publisher.sign(gun, "2", digest("2"), 1, publish=False)
        await owner.publisher.revoke(gun, "1", publish=False)
        assert len((await owner.publisher.status(gun, online=False)).staged) == 3
        assert (await owner.publisher.publish(gun)).versions == {"targets": 2}
        assert await owner.digest(gun, "1") is None
        assert await owner.digest(gun, "2") == digest("2").hex
        status = await owner.publisher.status(gun)
        assert status.staged == ()
        assert status.versions["targets"] == 2
        assert set(status.can_sign) == {"root", "targets"}
        with pytest.raises(UsageError, match="nothing is staged"):
            await owner.publisher.publish(gun)


async def test_signer_publishes_without_root_and_targets_key(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun)
        async with Person(server.url, tmp_path / "alice", made.root) as alice:
            info = alice.keys.generate("signer", passphrase="signer passphrase", name="alice")
            key = load_public_key(alice.keys.export("alice"))
            with pytest.raises(KeyStoreError):
                await alice.publisher.sign(gun, "release-1", digest("r"), 1)
            await owner.publisher.add_signer(gun, "alice", [key], paths=["release-*"])
            published = await alice.publisher.sign(gun, "release-1", digest("r"), 1)
            assert published is not None
            assert published.versions == {"alice": 1}
            with pytest.raises(KeyStoreError, match="no key here may sign"):
                await alice.publisher.sign(gun, "other", digest("r"), 1)
            with pytest.raises(NotDelegatedError, match=r"may sign release-[*], not 'other'"):
                await alice.publisher.sign(gun, "other", digest("r"), 1, role="alice")
            (signer,) = await alice.publisher.signers(gun)
            assert (signer.name, signer.version, signer.held) == ("alice", 1, (info.keyid,))
            assert await owner.digest(gun, "release-1") == digest("r").hex
            await owner.publisher.remove_signer(gun, "alice")
            assert await owner.digest(gun, "release-1") is None
            with pytest.raises(KeyStoreError):
                await alice.publisher.sign(gun, "release-2", digest("r"), 1)


async def test_threshold_of_two_passes_a_file_from_hand_to_hand(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun)
        people = [Person(server.url, tmp_path / name, made.root) for name in ("ann", "bob")]
        async with people[0] as ann, people[1] as bob:
            keys = [
                person.keys.generate("signer", passphrase="signer passphrase").key
                for person in people
            ]
            await owner.publisher.add_signer(gun, "both", keys, threshold=2)
            half = await ann.publisher.sign(gun, "1", digest("1"), 1)
            assert half is not None
            assert half.incomplete is not None
            assert half.missing == {"both": 1}
            assert len(await owner.trust.targets(gun)) == 0
            with pytest.raises(KeyStoreError):
                await ann.publisher.cosign(half.incomplete)
            done = await bob.publisher.cosign(half.incomplete)
            assert done.versions == {"both": 1}
            assert not half.incomplete.exists()
            assert await owner.digest(gun, "1") == digest("1").hex


async def test_publisher_held_snapshot(server: EmbeddedServer, gun: str, tmp_path: Path) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun, snapshot="local")
        published = await owner.publisher.sign(gun, "1", digest("1"), 1)
        assert published is not None
        assert published.versions == {"targets": 2, "snapshot": 2}
        assert await owner.digest(gun, "1") == digest("1").hex


async def test_a_server_that_is_away_changes_nothing_and_init_goes_on_later(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        away = Publisher(
            "http://127.0.0.1:1",
            home=tmp_path,
            trust=owner.trust,
            passphrases=Passphrases(environ=publisher_process.PASSPHRASES),
        )
        async with away:
            with pytest.raises(UnreachableError):
                await away.init(gun)
        assert owner.keys.list() == []
        assert await owner.publisher.staged_guns() == []
        made = await owner.publisher.init(gun)
        assert len(made.made) == 2


async def test_forty_publishers_at_once_lose_nothing_and_a_reader_never_fails(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made: Initialized = await owner.publisher.init(gun)
        people = [Person(server.url, tmp_path / f"p{number}", made.root) for number in range(40)]
        for person in people:
            shutil.copytree(owner.keys.folder, person.keys.folder)
        done = asyncio.Event()
        seen: list[int] = []

        async def poll() -> None:
            async with Person(server.url, tmp_path / "reader", made.root) as reader:
                while not done.is_set():
                    seen.append(len(await reader.trust.targets(gun)))
                    await asyncio.sleep(0.05)

        reading = asyncio.create_task(poll())
        try:
            published = await asyncio.gather(
                *(
                    person.publisher.sign(gun, f"tag-{number}", digest(str(number)), number)
                    for number, person in enumerate(people)
                )
            )
        finally:
            done.set()
            await reading
            for person in people:
                await person.__aexit__()
        found = {
            match.path: match.target.hashes["sha256"] for match in await owner.trust.targets(gun)
        }
        assert found == {f"tag-{number}": digest(str(number)).hex for number in range(40)}
        versions = sorted(item.versions["targets"] for item in published if item is not None)
        assert versions == list(range(2, 42))
        assert seen == sorted(seen)
