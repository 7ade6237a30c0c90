"""Each engine under each fault of its own: readers are served, writers are told to wait.

What isn't shown here is shown in the test module that is named:

============= ============ ================= ============= ============= =============
fault         SQLite       PostgreSQL        Valkey        Sentinel      Cluster
============= ============ ================= ============= ============= =============
restart       process      here              here          here          here
fail-over     none         postgres_failover none          here          resharding
read-only     store_away   here              here          here          here
full          full_disk    here              here          here          here
slow          here         here              here          here          here
unreachable   sqlite_file  here              here          here          here
newest second restored     here              here          as Valkey     valkey_faults
============= ============ ================= ============= ============= =============
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from aiohttp.test_utils import TestClient, TestServer

from forge import Forge, target
from http_site import Clock, Site, signed
from postgres_server import Database, PostgresServer
from risked import DONE, Watcher, assert_told_once
from storage.conftest import PostgresWorld, ValkeyWorld, World
from storage.writer_process import open_place
from tabellion.verify.client import TrustClient
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage import postgres_link, sqlite_file
from valkey_servers import ALWAYS, ValkeyCluster, ValkeySentinels, ValkeyServer

HEADERS = {"Accept": "application/problem+json"}
Fault = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """Have what is left be collected here, not in another's test."""
    yield
    gc.collect()


@asynccontextmanager
async def node(place: str, master: MasterKey, mark: Path) -> AsyncIterator[Site]:
    store = await open_place(place, mark)
    app = make_app(Settings(), store=store, online_keys=OnlineKeys(store, master), clock=Clock())
    try:
        async with TestClient(TestServer(app), headers=HEADERS) as client:
            yield Site(client, cast("Any", store), Clock())
    finally:
        await store.close()


async def read(site: Site, home: Path) -> set[str]:
    root = await site.body("1.root.json") if not home.exists() else None
    url = str(site.client.make_url("/"))[:-1]
    async with TrustClient(url, home=home, root=root) as client:
        return {match.path for match in await client.targets(site.gun)}


def grown(forge: Forge, path: str, *, ballast: int = 0) -> dict[str, bytes]:
    forge.targets.version += 1
    forge.targets.targets[path] = target(b"x", path)
    if ballast:
        forge.targets.unrecognized_fields["x-weight"] = os.urandom(ballast).hex()
    return signed(forge, "targets")


async def is_refused_for_now(site: Site, files: dict[str, bytes]) -> bool:
    async with asyncio.timeout(15):
        answer = await site.post(files)
    if answer.status == 503:
        assert answer.headers["Retry-After"]
        return True
    assert answer.status in DONE, await answer.text()
    return False


async def survives(
    place: str, folder: Path, fault: Fault, *, ballast: int = 0, heals: float = 20
) -> None:
    """Have a node live through a fault, and another one on the same store see what came of it."""
    master, watcher, home = MasterKey.generate(), Watcher(), folder / "home"
    async with node(place, master, folder / "mark.json") as site:
        forge = await site.forge()
        forge.targets.targets["1"] = target(b"x", "1")
        await site.publish(forge, "root", "targets")
        assert await read(site, home) == await watcher.look(site) == {"1"}
        files = grown(forge, "2", ballast=ballast)
        async with fault():
            assert await read(site, home) == {"1"}
            assert await is_refused_for_now(site, files)
            assert await read(site, home) == {"1"}
        async with asyncio.timeout(heals):
            while await is_refused_for_now(site, files):  # noqa: ASYNC110  (a store's turn)
                await asyncio.sleep(0.1)
        async with node(place, master, folder / "other.json") as other:
            assert await watcher.look(other) == {"1", "2"}
            await other.publish(forge_next(forge), "targets")
            assert await watcher.look(other) == {"1", "2", "3"}
            async with asyncio.timeout(5):
                while await read(site, home) != {"1", "2", "3"}:  # noqa: ASYNC110  (once it asks again)
                    await asyncio.sleep(0.1)
            assert await watcher.look(site) == {"1", "2", "3"}
            await assert_told_once(other)


def forge_next(forge: Forge) -> Forge:
    forge.targets.unrecognized_fields.pop("x-weight", None)
    grown(forge, "3")
    return forge


async def test_a_file_that_another_program_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.5)
    path = tmp_path / "tabellion.db"

    @asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        with contextlib.closing(sqlite3.connect(path)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            yield

    await survives(str(path), tmp_path, locked)


@pytest.fixture(scope="module")
def fragile() -> Iterator[PostgresServer]:
    """Give a server that this module stops and kills."""
    with PostgresServer.running() as running:
        yield running


class TestPostgres:
    @pytest.fixture
    def own(self, fragile: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Database:
        for name in ("FETCH", "BEGIN", "CONNECT", "COMMIT", "DOUBT", "_RELEASE"):
            monkeypatch.setattr(postgres_link, f"{name}_SECONDS", 0.7)
        return fragile.migrated_database()

    @pytest.mark.parametrize("name", ["restart", "read_only", "slow", "unreachable"])
    async def test_it_survives(self, own: Database, tmp_path: Path, name: str) -> None:
        await survives(own.url, tmp_path, lambda: getattr(self, name)(own))

    @asynccontextmanager
    async def restart(self, own: Database) -> AsyncIterator[None]:
        await asyncio.to_thread(own.server.stop, signal.SIGQUIT)
        try:
            yield
        finally:
            await asyncio.to_thread(own.server.start)

    @asynccontextmanager
    async def read_only(self, own: Database) -> AsyncIterator[None]:
        """As a primary that was demoted: who is connected is sent away."""
        own.sql(f"ALTER DATABASE {own.name} SET default_transaction_read_only = on")
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        cut += f" WHERE datname = '{own.name}' AND application_name = 'tabellion'"
        own.server.sql(cut)
        try:
            yield
        finally:
            own.sql(f"ALTER DATABASE {own.name} RESET default_transaction_read_only")
            own.server.sql(cut)

    @asynccontextmanager
    async def slow(self, own: Database) -> AsyncIterator[None]:
        with psycopg.connect(own.url) as holder:
            holder.execute("LOCK TABLE tabellion.receipts IN ACCESS EXCLUSIVE MODE")
            yield

    @asynccontextmanager
    async def unreachable(self, own: Database) -> AsyncIterator[None]:
        with own.server.paused():
            yield

    async def test_it_survives_a_full_disk(self, own: Database, disk: Path, tmp_path: Path) -> None:
        shutil.chown(disk, "postgres", "postgres")
        for folder in (disk, *list(disk.parents)[:-2]):
            folder.chmod(0o755)
        own.server.sql(f"CREATE TABLESPACE small LOCATION '{disk}'")
        own.server.sql(f"ALTER DATABASE {own.name} SET TABLESPACE small")
        try:
            await survives(own.url, tmp_path, lambda: filled(disk), ballast=400_000)
        finally:
            own.server.sql(f"DROP DATABASE {own.name} WITH (FORCE)")
            own.server.sql("DROP TABLESPACE small")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a disk of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["/usr/bin/mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield place
    subprocess.run(["/usr/bin/umount", "--lazy", str(place)], check=True)


@asynccontextmanager
async def filled(disk: Path) -> AsyncIterator[None]:
    """Leave nothing free on a disk."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    try:
        yield
    finally:
        ballast.unlink()


class Masters:
    """Masters of a topology, and the faults they share."""

    def __init__(
        self, url: str, masters: Sequence[ValkeyServer], others: Sequence[ValkeyServer]
    ) -> None:
        join = "&" if "?" in url else "?"
        self.url = f"{url}{join}timeout=0.5"
        self.masters = masters
        self.others = others

    @asynccontextmanager
    async def restart(self) -> AsyncIterator[None]:
        for each in self.masters:
            each.kill()
        try:
            yield
        finally:
            for each in self.masters:
                await asyncio.to_thread(each.start)

    @asynccontextmanager
    async def read_only(self) -> AsyncIterator[None]:
        async with self._set("min-replicas-to-write", "9", "0"):
            yield

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        async with self._set("maxmemory", "1mb", "0"):
            yield

    @asynccontextmanager
    async def slow(self) -> AsyncIterator[None]:
        for each in self.masters:
            assert each.say("CLIENT", "PAUSE", 60_000, "WRITE") == "+OK"
        try:
            yield
        finally:
            for each in self.masters:
                assert each.say("CLIENT", "UNPAUSE") == "+OK"

    @asynccontextmanager
    async def unreachable(self) -> AsyncIterator[None]:
        for each in (*self.others, *self.masters):
            each.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for each in (*self.masters, *self.others):
                each.signal(signal.SIGCONT)

    @asynccontextmanager
    async def _set(self, name: str, value: str, before: str) -> AsyncIterator[None]:
        for each in self.masters:
            assert each.say("CONFIG", "SET", name, value) == "+OK"
        try:
            yield
        finally:
            for each in self.masters:
                assert each.say("CONFIG", "SET", name, before) == "+OK"


FAULTS = ["restart", "read_only", "full", "slow", "unreachable"]


class TestValkey:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[ValkeyServer]:
        server = ValkeyServer(tmp_path / "valkey", *ALWAYS).start()
        yield server
        server.kill()

    @pytest.mark.parametrize("name", FAULTS)
    async def test_it_survives(self, own: ValkeyServer, tmp_path: Path, name: str) -> None:
        masters = Masters(own.url, [own], [])
        await survives(masters.url, tmp_path, getattr(masters, name))

    async def test_it_survives_being_a_replica(self, own: ValkeyServer, tmp_path: Path) -> None:
        @asynccontextmanager
        async def demoted() -> AsyncIterator[None]:
            own.say("REPLICAOF", "127.0.0.1", own.port + 1)
            try:
                yield
            finally:
                own.say("REPLICAOF", "NO", "ONE")

        await survives(Masters(own.url, [own], []).url, tmp_path, demoted)

    @pytest.mark.parametrize("fsync", ["always", "everysec"])
    async def test_it_survives_a_full_disk(self, disk: Path, tmp_path: Path, fsync: str) -> None:
        own = ValkeyServer(disk / "valkey", "--appendonly", "yes", "--appendfsync", fsync).start()

        @asynccontextmanager
        async def full() -> AsyncIterator[None]:
            async with filled(disk):
                if fsync == "everysec":  # it notices a second later, and says so from then on
                    own.say("SET", "unrelated", "x" * 10_000)
                    async with asyncio.timeout(10):
                        while "MISCONF" not in own.say("SET", "unrelated", "x"):  # noqa: ASYNC110
                            await asyncio.sleep(0.1)
                yield
            if own.say("PING") != "+PONG":  # with "always" it ends rather than forget
                assert fsync == "always"
                own.kill()
                await asyncio.to_thread(own.start)

        try:
            await survives(f"{own.url}?timeout=0.5", tmp_path, full, ballast=400_000)
        finally:
            own.kill()


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeySentinels]:
    """Give what no test here makes fail over."""
    found = ValkeySentinels(tmp_path_factory.mktemp("sentinels"))
    try:
        yield found.start()
    finally:
        found.kill()


class TestSentinel:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[ValkeySentinels]:
        found = ValkeySentinels(tmp_path / "sentinels")
        try:
            yield found.start()
        finally:
            found.kill()

    @pytest.mark.parametrize("name", ["read_only", "full", "slow"])
    async def test_it_survives(self, sentinels: ValkeySentinels, tmp_path: Path, name: str) -> None:
        masters = Masters(f"{sentinels.url}?prefix={name}", [sentinels.master], [])
        await survives(masters.url, tmp_path, getattr(masters, name))

    @pytest.mark.parametrize("name", ["restart", "unreachable"])
    async def test_it_survives_what_may_end_in_a_fail_over(
        self, own: ValkeySentinels, tmp_path: Path, name: str
    ) -> None:
        masters = Masters(own.url, [own.master], [*own.sentinels, own.replica])

        @asynccontextmanager
        async def fault() -> AsyncIterator[None]:
            async with getattr(masters, name)():
                yield
            # What a master takes that is about to be replaced is lost, without storage.replicas.
            await asyncio.to_thread(own.until_settled)

        await survives(masters.url, tmp_path, fault)

    async def test_it_survives_a_fail_over(self, own: ValkeySentinels, tmp_path: Path) -> None:
        @asynccontextmanager
        async def dead() -> AsyncIterator[None]:
            async with asyncio.timeout(10):
                while own.offset(own.master) != own.offset(own.replica):  # noqa: ASYNC110  (theirs)
                    await asyncio.sleep(0.02)
            own.master.kill()
            yield
            await asyncio.to_thread(own.until_promoted)

        await survives(Masters(own.url, [], []).url, tmp_path, dead)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """Give a Cluster that this module stops and kills."""
    found = ValkeyCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield found.start()
    finally:
        found.kill()


class TestCluster:
    @pytest.mark.parametrize("name", FAULTS)
    async def test_it_survives(self, cluster: ValkeyCluster, tmp_path: Path, name: str) -> None:
        masters = Masters(f"{cluster.url}?prefix={name}", cluster.nodes, [])
        await survives(masters.url, tmp_path, getattr(masters, name))


@pytest.mark.parametrize("engine", ["postgres", "valkey"])
async def test_what_lost_its_newest_moments_takes_nothing_until_that_is_accepted(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    world: World = (
        PostgresWorld(request.getfixturevalue("database"))
        if engine == "postgres"
        else ValkeyWorld(request.getfixturevalue("valkey_server"))
    )
    master, watcher = MasterKey.generate(), Watcher()
    async with node(world.place, master, tmp_path / "mark.json") as site:
        forge = await site.forge()
        forge.targets.targets["1"] = target(b"x", "1")
        await site.publish(forge, "root", "targets")
        old = await watcher.look(site)
        backup = world.backup()
        for path in ("2", "3"):
            assert (await site.post(grown(forge, path))).status == 200
        assert await watcher.look(site) == {"1", "2", "3"}
        world.restore(backup)
        # The same numbers with other content, at a node that knows of nothing, too.
        other_forge = forge
        other_forge.targets.version = 1
        other_forge.targets.targets = {"1": target(b"x", "1"), "other": target(b"y", "other")}
        files = signed(forge_at(other_forge, 2), "targets")
        assert await is_refused_for_now(site, files)
        async with node(world.place, master, tmp_path / "other.json") as other:
            assert await is_refused_for_now(other, files)
            assert await watcher.look(other) == old
            await other.store.accept_restore(at=site.clock())
            assert not await is_refused_for_now(other, signed(forge_at(other_forge, 4), "targets"))
            assert await watcher.look(other) == {"1", "other"}
            assert await watcher.look(site) == {"1", "other"}


def forge_at(forge: Forge, version: int) -> Forge:
    forge.targets.version = version
    return forge
