"""A GUN's ten years: three root holders, two signers, loss, theft, rotation of everything.

After each step three clients are asked: ours with nothing but the very first root, ours that has
followed all the time, and python-tuf's own with the first root.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from tuf.api.metadata import Timestamp
from tuf.ngclient import Updater

import publisher_process
from http_site import Clock
from person import Person
from tabellion.core.dialect import TUF
from tabellion.core.names import Digest
from tabellion.errors import ExpiredMetadataError, RollbackError, TabellionError
from tabellion.publish.offline import sign_file
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.public_keys import load_public_key
from tabellion.publish.signing import KeyRing
from tabellion.transport.fetcher import HttpFetcher
from tabellion.verify.client import TrustClient
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore

GUN = "registry.example/team/app"
YEAR = timedelta(days=365)
SECRETS = publisher_process.PASSPHRASES


class Thief:
    """Somebody between a reader and the server who has both of the server's keys.

    Attributes:
        shown: Beginning of a file's name to what is shown in its place.
    """

    def __init__(self, shown: Mapping[str, bytes]) -> None:
        self.shown = shown
        self.inner = HttpFetcher()

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        name = url.rpartition("/")[2]
        for beginning, data in self.shown.items():
            if name.startswith(beginning):
                return data
        return await self.inner.fetch(url, max_bytes=max_bytes)

    async def show(self, world: World, name: str) -> None:
        """Let somebody read it, and keep it for right."""
        home = world.folder / name
        root, clock = world.first_root, world.clock
        async with TrustClient(world.url, home=home, root=root, clock=clock, fetcher=self) as trust:
            snapshot = (await trust.refresh(GUN)).snapshot
            assert snapshot is not None
            assert snapshot.version == 2**31

    @classmethod
    async def fast_forward(cls, world: World) -> Thief:
        """Sign the snapshot and the timestamp that are served as version 2^31."""
        keys = OnlineKeys(world.store, world.master)
        shown: dict[str, bytes] = {}
        root = TUF.parse("root", await world.read("root"), max_bytes=10**6).signed
        for role in ("snapshot", "timestamp"):
            payload = TUF.parse(role, await world.read(role), max_bytes=10**6).signed
            payload.version = 2**31
            payload.expires = world.clock.now.replace(microsecond=0) + timedelta(days=1)
            if isinstance(payload, Timestamp):
                payload.snapshot_meta = TUF.meta(2**31, shown[f"{2**31}.snapshot"])
            signer = await keys.signer(GUN, role, root.roles[role].keyids[0])
            beginning = f"{2**31}.snapshot" if role == "snapshot" else "timestamp"
            shown[beginning] = TUF.sign(payload, [signer])
        return cls(shown)


class World:
    """The server on its disk, its clock, and everybody with a home folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.master = MasterKey.generate()
        self.first_root = b""
        self.url = ""
        self.expected: dict[str, str] = {}
        self._readers = 0

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        store = await SqliteStore.open(
            self.folder / "tabellion.db", high_water=self.folder / "high-water.json"
        )
        app = make_app(
            Settings(), store=store, online_keys=OnlineKeys(store, self.master), clock=self.clock
        )
        self.store = store
        async with TestServer(app) as server:
            self.url = str(server.make_url("")).rstrip("/")
            yield
        await store.close()

    async def accept_restore(self) -> None:
        store = await SqliteStore.open(
            self.folder / "tabellion.db", high_water=self.folder / "high-water.json"
        )
        await store.accept_restore(at=self.clock())
        await store.close()

    async def read(self, role: str) -> bytes:
        file = await self.store.read(GUN, role)
        assert file is not None
        return file.data

    def person(self, name: str) -> Person:
        return Person(self.url, self.folder / name, self.first_root or None, clock=self.clock)

    def public_key(self, name: str, role: str = "root") -> str:
        """Give a file with the public part of a new key of somebody."""
        keys = self.person(name).keys
        info = keys.generate(role, passphrase=SECRETS[f"TABELLION_{role.upper()}_PASSPHRASE"])
        path = self.folder / f"{name}-{info.keyid[:8]}.pub"
        path.write_bytes(keys.export(info.keyid))
        return str(path)

    async def sign(self, name: str, target: str, content: str, role: str | None = None) -> None:
        digest = Digest.of(content.encode())
        async with self.person(name) as person:
            await person.publisher.sign(GUN, target, digest, 1, role=role)
        self.expected[target] = digest.hex

    async def check(self) -> None:
        """Ask all three kinds of clients for everything, and for one that nobody signed."""
        self._readers += 1
        async with self.person(f"new{self._readers}") as new, self.person("warm") as warm:
            assert await new.signed(GUN) == self.expected
            assert await warm.signed(GUN) == self.expected
        assert await asyncio.to_thread(self._by_python_tuf) == {**self.expected, "nobody": None}

    def _by_python_tuf(self) -> Mapping[str, str | None]:
        folder = self.folder / f"python-tuf{self._readers}"
        folder.mkdir()
        base = f"{self.url}/v2/{GUN}/_trust/tuf/"
        updater = Updater(str(folder), base, bootstrap=self.first_root)
        updater.refresh()
        found = {path: updater.get_targetinfo(path) for path in (*self.expected, "nobody")}
        return {path: info and info.hashes["sha256"] for path, info in found.items()}

    async def witness(self, name: str, role: str) -> None:
        """Have somebody sign a role anew as it is, before it expires."""
        async with self.person(name) as person:
            await person.publisher.witness(GUN, [role])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_ten_years_of_a_gun(world: World) -> None:
    async with world.served():
        await found(world)
        await signers_come(world)
        await a_root_holder_loses_the_key(world)
        await a_signer_is_robbed(world)
        await server_keys_are_robbed(world)
        await everything_expires_while_everybody_is_away(world)
        await all_keys_are_rotated(world)
    await an_old_backup_is_restored(world)


async def found(world: World) -> None:
    """Year 0: Ann, Bob and Eve found it; the root needs two of them."""
    bob, eve = (world.public_key(name) for name in ("bob", "eve"))
    async with world.person("ann") as ann:
        made = await ann.publisher.init(GUN)
        world.first_root = made.root
        await ann.publisher.proposals.prepare_root(
            GUN, added={"root": [f"{bob}=Bob", f"{eve}=Eve"]}, thresholds={"root": 2}
        )
    async with world.person("bob") as bobs:
        done = await bobs.publisher.proposals.cosign(GUN)
        assert done.versions == {"root": 2}
    await world.sign("ann", "1.0", "year 0")
    await world.check()


async def signers_come(world: World) -> None:
    """Year 1: Sue and Tim sign releases with keys of their own."""
    world.clock.now += YEAR / 2
    for name, pattern in (("sue", "sue-*"), ("tim", "tim-*")):
        path = Path(world.public_key(name, "signer"))
        async with world.person("ann") as ann:
            key = load_public_key(path.read_bytes())
            await ann.publisher.add_signer(GUN, name, [key], paths=[pattern])
    await world.sign("sue", "sue-1", "by sue")
    await world.sign("tim", "tim-1", "by tim")
    await world.check()


async def a_root_holder_loses_the_key(world: World) -> None:
    """Year 2: Eve's laptop is gone. Ann and Bob put Dan in her place, Bob without a network."""
    world.clock.now += YEAR / 2
    await world.witness("ann", "targets")
    async with world.person("ann") as ann:
        eve = next(
            key
            for key in (await ann.trust.refresh(GUN)).root.signed.roles["root"].keyids
            if key == world.person("eve").keys.list()[0].keyid
        )
        dan = world.public_key("dan")
        file = world.folder / "ceremony.json"
        out = await ann.publisher.proposals.prepare_root(
            GUN, added={"root": [f"{dan}=Dan"]}, removed=[eve], out=file
        )
        assert out.missing == {"root": 1}
    async with world.person("bob") as bob:
        await bob.trust.refresh(GUN)
        ring = KeyRing(bob.keys, Passphrases(environ=SECRETS))
        await asyncio.to_thread(
            sign_file, file, ring, home=bob.home, root=None, out=file, show=lambda _: None
        )
    async with world.person("ann") as ann:
        done = await ann.publisher.proposals.publish_file(file)
        assert done.versions["root"] == 3
    await world.check()


async def a_signer_is_robbed(world: World) -> None:
    """Year 3: Tim's key is stolen; what he signed before stays, by Ann's word."""
    world.clock.now += YEAR / 3
    await world.witness("sue", "sue")
    since = world.clock()
    world.clock.now += timedelta(hours=1)
    await world.sign("tim", "tim-1", "evil")
    await world.sign("tim", "tim-2", "evil too")
    await world.check()
    async with world.person("ann") as ann:
        doubts = await ann.publisher.signed_since(GUN, "tim", since)
        assert {doubt.target: doubt.since for doubt in doubts} == {
            "tim-1": "changed",
            "tim-2": "added",
        }
        await ann.publisher.take_over(GUN, "tim", doubts, [])
    world.expected["tim-1"] = Digest.of(b"by tim").hex
    del world.expected["tim-2"]
    await world.check()
    with pytest.raises(TabellionError):
        await world.sign("tim", "tim-1", "evil")
    await world.check()


async def server_keys_are_robbed(world: World) -> None:
    """Year 4: somebody had the server's disk; both its keys are replaced by one root.

    Before that, a reader was shown versions that the server won't reach in a thousand years.
    """
    world.clock.now += YEAR / 2
    thief = await Thief.fast_forward(world)
    await thief.show(world, "warm")
    async with world.person("warm") as warm:
        with pytest.raises(RollbackError):
            await warm.signed(GUN)
    async with world.person("ann") as ann:
        before = (await ann.trust.refresh(GUN)).root.signed
    # Those who have to make it right were shown them as well.
    for name in ("ann", "dan"):
        await thief.show(world, name)
    async with world.person("ann") as ann:
        with pytest.raises(RollbackError):
            await ann.publisher.rotate(GUN, "snapshot", server=True)
        told = await ann.publisher.rotate(GUN, "snapshot", "timestamp", server=True)
        assert str(2**31) in told.overruled
    async with world.person("dan") as dan:
        words: list[str] = []
        await dan.publisher.proposals.cosign(GUN, show=words.extend)
        assert any(str(2**31) in line for line in words)
        after = (await dan.trust.refresh(GUN)).root.signed
    await thief.inner.close()
    for role in ("snapshot", "timestamp"):
        assert not set(before.roles[role].keyids) & set(after.roles[role].keyids)
    await world.check()


async def everything_expires_while_everybody_is_away(world: World) -> None:
    """Year 8: the company slept. Root and targets have expired; the holders come back."""
    world.clock.now += 6 * YEAR
    async with world.person("warm") as warm:
        with pytest.raises(ExpiredMetadataError):
            await warm.signed(GUN)
    async with world.person("ann") as ann:
        await ann.publisher.proposals.prepare_root(GUN)
    async with world.person("bob") as bob:
        await bob.publisher.proposals.cosign(GUN)
    async with world.person("warm") as warm:
        with pytest.raises(ExpiredMetadataError):
            await warm.signed(GUN)
    await world.witness("ann", "targets")
    await world.witness("sue", "sue")
    await world.check()


async def all_keys_are_rotated(world: World) -> None:
    """Year 9: every key is changed once more."""
    for role in ("targets", "snapshot", "timestamp"):
        async with world.person("ann") as ann:
            await ann.publisher.rotate(GUN, role, server=role == "snapshot")
        async with world.person("bob") as bob:
            await bob.publisher.proposals.cosign(GUN)
        await world.check()
    await world.sign("ann", "2.0", "year 9")
    await world.check()


async def an_old_backup_is_restored(world: World) -> None:
    """Year 10: the disk dies, and the backup is a week old."""
    await asyncio.to_thread(shutil.copy, world.folder / "tabellion.db", world.folder / "backup")
    async with world.served():
        world.clock.now += timedelta(days=7)
        await world.sign("sue", "sue-2", "of this week")
        await world.sign("ann", "2.1", "of this week")
        await world.check()
    await asyncio.to_thread(shutil.copy, world.folder / "backup", world.folder / "tabellion.db")
    async with world.served(), world.person("warm") as warm:
        with pytest.raises(RollbackError):
            await warm.signed(GUN)
    await world.accept_restore()
    async with world.served():
        for name in ("sue", "ann"):
            async with world.person(name) as person:
                await person.publisher.bring_back(GUN)
        await world.check()
        await world.sign("ann", "3.0", "year 10")
        await world.check()
