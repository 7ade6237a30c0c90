"""A GUN mirrored from another server is taken over by its owner, in one new root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import publisher_process
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import ExpiredMetadataError, RefusedPublicationError, UsageError
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.publisher import Publisher
from tabellion.transport.fetcher import HttpFetcher
from tabellion.verify.client import TrustClient
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.migration.importing import Status, Target
from tabellion_server.migration.mirror import Mirror
from tabellion_server.migration.mirror_site import NotarySite
from tabellion_server.storage.sqlite import SqliteStore


async def mirror(url: str, gun: str, folder: Path) -> None:
    """Mirror a GUN into the store of a server that isn't running."""
    folder.mkdir()
    store = await SqliteStore.open(folder / "tabellion.db")
    master = MasterKey.load_or_create(folder / "master.key", create=True)
    try:
        async with HttpFetcher() as fetcher:
            site = NotarySite(url, fetcher, rate=10_000, concurrency=4)
            target = Target(store, OnlineKeys(store, master))
            made = Mirror(site, target, clock=lambda: datetime.now(UTC))
            (outcome,), _ = await made.run([gun], concurrency=1, tell=lambda _: None)
        assert outcome.status is Status.IMPORTED
    finally:
        await store.close()


@asynccontextmanager
async def mirrored(
    server: EmbeddedServer, gun: str, folder: Path
) -> AsyncIterator[tuple[EmbeddedServer, Person, Person]]:
    """Give a mirror of a GUN with the target ``1``, its owner and a reader of before."""
    async with Person(server.url, folder / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=NOTARY)
        await owner.sign(gun, "1")
        async with Person(server.url, folder / "reader", made.root) as reader:
            assert await reader.digest(gun, "1")
    await mirror(server.url, gun, folder / "mirror")
    with EmbeddedServer(folder / "mirror") as there:
        async with (
            Person(there.url, folder / "owner") as owner,
            Person(there.url, folder / "reader") as reader,
        ):
            yield there, owner, reader


async def test_a_mirrored_gun_is_taken_over_by_rotating_both_roles_of_the_old_server(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with mirrored(server, gun, tmp_path) as (_, owner, reader):
        before = await owner.publisher.status(gun)
        attempts = (("timestamp",), False), (("snapshot",), True)
        for roles, online in attempts:
            with pytest.raises(RefusedPublicationError, match="it is a mirror of the GUN") as got:
                await owner.publisher.rotate(gun, *roles, server=online)
            assert "tabellion rotate" in got.value.hint
        with pytest.raises(
            RefusedPublicationError, match="that sign snapshot and timestamp"
        ) as got:
            await owner.sign(gun, "2")
        assert got.value.hint.endswith(
            f"tabellion rotate {gun} snapshot timestamp --server-managed"
        )
        assert dict((await owner.publisher.status(gun)).versions) == dict(before.versions)

        await owner.publisher.rotate(gun, "snapshot", "timestamp", server=True)
        await owner.sign(gun, "2")
        assert set(await reader.signed(gun)) == {"1", "2"}


async def test_a_mirror_whose_timestamp_expired_is_taken_over_and_trusted_by_nobody_before(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with mirrored(server, gun, tmp_path) as (there, owner, _):

        def later() -> datetime:
            return datetime.now(UTC) + timedelta(days=15)

        home = tmp_path / "owner"
        async with TrustClient(there.url, home=home, clock=later) as trust:
            publisher = Publisher(
                there.url,
                home=home,
                trust=trust,
                passphrases=Passphrases(environ=publisher_process.PASSPHRASES),
            )
            async with publisher:
                with pytest.raises(ExpiredMetadataError):
                    await trust.refresh(gun)
                with pytest.raises(ExpiredMetadataError):
                    await publisher.rotate(gun, "targets")
                await publisher.rotate(gun, "snapshot", "timestamp", server=True)
        await owner.sign(gun, "2")
        assert set(await owner.signed(gun)) == {"1", "2"}


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_several_roles_get_new_keys_in_one_root(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=dialect)
        await owner.sign(gun, "1")
        async with Person(server.url, tmp_path / "reader", made.root) as reader:
            before = (await reader.trust.refresh(gun)).root.signed
            await owner.publisher.rotate(gun, "targets", "snapshot", "timestamp")
            await owner.publisher.rotate(gun, "timestamp", "snapshot", server=True)
            await owner.publisher.rotate(gun, "root", "targets")
            after = (await reader.trust.refresh(gun)).root.signed
            assert after.version == before.version + 3
            for role in ("root", "targets", "snapshot", "timestamp"):
                assert not set(before.roles[role].keyids) & set(after.roles[role].keyids)
            await owner.sign(gun, "2")
            assert set(await reader.signed(gun)) == {"1", "2"}
        for roles in ((), ("targets", "targets"), ("targets", "releases")):
            with pytest.raises(UsageError):
                await owner.publisher.rotate(gun, *roles)
        with pytest.raises(UsageError):
            await owner.publisher.rotate(gun, "root", "targets", keys=["some"])
        assert await owner.version(gun, "root") == after.version
