"""Rotation in either dialect: readers follow, warm and new ones, and an expired root is no end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

import publisher_process
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import ExpiredMetadataError, KeyStoreError, UsageError
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.publisher import Publisher
from tabellion.publish.signing import Expiries

DIALECTS = pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])


@DIALECTS
async def test_readers_follow_the_rotation_of_every_role(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=dialect)
        await owner.sign(gun, "1")
        warm = Person(server.url, tmp_path / "warm", made.root)
        async with warm:
            assert await warm.digest(gun, "1")
            for number, role in enumerate(("targets", "root", "timestamp", "snapshot")):
                before = (await warm.trust.refresh(gun)).root.signed
                online = role == "snapshot"
                await owner.publisher.rotate(gun, role, server=online)
                after = (await warm.trust.refresh(gun)).root.signed
                assert after.version == before.version + 1
                assert not set(before.roles[role].keyids) & set(after.roles[role].keyids)
                for other in {"root", "targets", "timestamp", "snapshot"} - {role}:
                    assert before.roles[other].keyids == after.roles[other].keyids
                async with Person(server.url, tmp_path / f"new{number}", made.root) as new:
                    assert await new.digest(gun, "1") == await warm.digest(gun, "1")
            await owner.sign(gun, "2")
            assert set(await warm.signed(gun)) == {"1", "2"}


@DIALECTS
async def test_an_expired_root_is_followed_by_its_owner_and_by_nobody_trusted_meanwhile(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    home = tmp_path / "owner"
    async with Person(server.url, home) as owner:
        brief = Publisher(
            server.url,
            home=home,
            trust=owner.trust,
            passphrases=Passphrases(environ=publisher_process.PASSPHRASES),
            expiries=Expiries(root=timedelta(seconds=3)),
        )
        async with brief:
            made = await brief.init(gun, dialect=dialect)
        await owner.sign(gun, "1")
        async with Person(server.url, tmp_path / "reader", made.root) as reader:
            assert await reader.digest(gun, "1")
            await asyncio.sleep(3.2)
            with pytest.raises(ExpiredMetadataError):
                await reader.digest(gun, "1")
            with pytest.raises(ExpiredMetadataError):
                await owner.publisher.rotate(gun, "targets")
            await owner.publisher.rotate(gun, "root")
            assert await reader.digest(gun, "1")


async def test_a_rotation_that_cannot_be_changes_nothing(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun)
        held = made.targets_keys[0].keyid
        before = dict((await owner.publisher.status(gun)).versions)
        for role, keys, online in (
            ("targets", [held], False),  # it has that key
            ("targets", [], True),  # never the server's
            ("timestamp", [held], False),  # always the server's
            ("releases", [], False),
        ):
            with pytest.raises(UsageError):
                await owner.publisher.rotate(gun, role, keys=keys, server=online)
        async with Person(server.url, tmp_path / "stranger", made.root) as stranger:
            with pytest.raises(KeyStoreError):
                await stranger.publisher.rotate(gun, "targets")
        assert dict((await owner.publisher.status(gun)).versions) == before
