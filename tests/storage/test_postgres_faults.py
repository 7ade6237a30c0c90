"""PostgreSQL that stops, dies, fills up or refuses: what was told is so, and all goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from postgres_proxy import Fault, PostgresProxy
from postgres_server import Database, PostgresServer
from storage.test_contract import AT, GUN, commit, made, online, whole_set
from storage.writer_process import publish_next
from tabellion_server.storage import postgres_link, postgres_water
from tabellion_server.storage.copying import copy_store
from tabellion_server.storage.interface import (
    Head,
    RestoredStoreError,
    StorageError,
    StoreCorruptionError,
    StoredFile,
)
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.postgres_link import Place, lock_of
from tabellion_server.storage.sqlite import SqliteStore


@pytest.fixture(scope="module")
def fragile() -> Iterator[Database]:
    """Give a database on a server that this module stops and kills; its disk keeps little."""
    with PostgresServer.running() as server:
        yield server.migrated_database()


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open(database.place)
    yield store
    await store.close()


@pytest.fixture
async def proxy(database: Database) -> AsyncIterator[PostgresProxy]:
    async with PostgresProxy.running(database.server.port) as running:
        yield running


@pytest.fixture
async def behind(database: Database, proxy: PostgresProxy) -> AsyncIterator[PostgresStore]:
    """Open a store behind the proxy."""
    url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
    store = await PostgresStore.open(Place(url, url))
    yield store
    proxy.is_down = False
    await store.close()


async def until_it_works(store: PostgresStore) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(StorageError):
                await store.check()
                return
            await asyncio.sleep(0.1)


async def until_longer(items: list[int]) -> None:
    count = len(items)
    async with asyncio.timeout(30):
        while len(items) < count + 5:  # noqa: ASYNC110  (the server's turn)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["lost-answer", "late-commit"])
async def test_a_commit_whose_answer_is_lost_is_told_as_done(
    behind: PostgresStore, store: PostgresStore, proxy: PostgresProxy, fault: Fault
) -> None:
    await commit(behind, whole_set(1), on=None)
    proxy.fault = fault
    head = await commit(behind, [made("targets", 2)], on=1)
    assert proxy.fault is None
    assert head == await store.head(GUN) == await behind.head(GUN)
    proxy.fault = fault
    assert await behind.add_online_key(GUN, online("k"))
    assert await store.online_keys(GUN, "timestamp") == [online("k")]
    assert len(await store.changes(None, after=0, limit=9)) == 1


async def test_a_commit_that_never_arrived_is_told_as_refused_and_can_be_done_again(
    behind: PostgresStore, store: PostgresStore, proxy: PostgresProxy, database: Database
) -> None:
    head = await commit(behind, whole_set(1), on=None)
    before = database.dump()
    proxy.fault = "lost-commit"
    with pytest.raises(StorageError, match="broke the connection"):
        await commit(behind, [made("targets", 2)], on=1)
    assert proxy.fault is None
    assert database.dump() == before
    assert await store.head(GUN) == await behind.head(GUN) == head
    assert (await commit(behind, [made("targets", 2)], on=1)).revision == 2


async def test_what_nobody_can_find_out_is_told_as_such(
    behind: PostgresStore,
    store: PostgresStore,
    proxy: PostgresProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_link, "DOUBT_SECONDS", 0.7)
    await commit(behind, whole_set(1), on=None)
    proxy.fault, proxy.is_down = "lost-answer", True
    with pytest.raises(StorageError, match="isn't known whether"):
        await commit(behind, [made("targets", 2)], on=1)
    proxy.is_down = False
    head = await behind.head(GUN)
    assert head is not None
    assert head == await store.head(GUN)
    assert head.revision == 2


async def test_receipts_do_not_pile_up(store: PostgresStore, database: Database) -> None:
    for number in range(20):
        await commit(store, whole_set(1), on=None, gun=str(number))
    assert database.sql("SELECT count(*) FROM tabellion.receipts")[0][0] < 3


async def test_a_restart_is_told_to_whoever_comes_meanwhile_and_survived(
    fragile: Database,
) -> None:
    fragile.empty()
    store = await PostgresStore.open(fragile.place)
    acknowledged: list[int] = []
    failures: list[StorageError] = []
    seen: list[int] = []
    ended = asyncio.Event()

    async def write() -> None:
        while not ended.is_set():
            try:
                acknowledged.append((await publish_next(store)).revision)
            except StorageError as error:
                failures.append(error)
                await asyncio.sleep(0.02)

    async def read() -> None:
        while not ended.is_set():
            with contextlib.suppress(StorageError):
                head = await store.head(GUN)
                seen.append(head.revision if head else 0)
            await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(write()), asyncio.create_task(read())]
    for number in (signal.SIGINT, signal.SIGQUIT):
        await until_longer(acknowledged)
        await asyncio.to_thread(fragile.server.stop, number)
        with pytest.raises(StorageError) as caught:
            await store.head(GUN)
        assert caught.value.hint
        assert "tabellion@" in caught.value.message
        await asyncio.to_thread(fragile.server.start)
        await until_it_works(store)
    await until_longer(acknowledged)
    ended.set()
    await asyncio.gather(*tasks)
    assert failures
    assert seen == sorted(seen)
    head = await store.head(GUN)
    assert head is not None
    # What was told is there, once; what wasn't told is only what nobody knows about.
    unknown = sum("isn't known" in failure.message for failure in failures)
    assert acknowledged == sorted(set(acknowledged))
    assert 0 <= head.revision - len(acknowledged) <= unknown
    ids = [change.id for change in await store.changes(None, after=0, limit=10_000)]
    assert ids == list(range(1, head.revision + 1))
    await store.close()


async def test_backends_killed_at_random_lose_nothing_that_was_told(fragile: Database) -> None:
    """Each kill -9 makes PostgreSQL throw all connections away and recover."""
    fragile.empty()
    chance = random.Random(5)  # noqa: S311  (moments to kill at)
    stores = [await PostgresStore.open(fragile.place) for _ in range(2)]
    told: dict[str, list[int]] = {}
    unknown: set[str] = set()
    ended = asyncio.Event()

    async def publish(gun: str, store: PostgresStore) -> None:
        told[gun] = []
        while not ended.is_set():
            try:
                head = await store.head(gun)
                on = head.revision if head else None
                files = [made(role, (on or 0) + 1, f"{gun} {on}") for role in ("root", "timestamp")]
                done = await commit(store, files, on=on, gun=gun)
                assert done.revision == (on or 0) + 1
                told[gun].append(done.revision)
            except StorageError as error:
                if "isn't known" in error.message:
                    unknown.add(gun)
                await asyncio.sleep(0.02)

    tasks = [
        asyncio.create_task(publish(f"gun/{number}", stores[number % 2])) for number in range(8)
    ]
    for _ in range(4):
        await asyncio.sleep(chance.uniform(0.2, 0.5))
        with contextlib.suppress(Exception):  # it may be recovering still
            rows = await asyncio.to_thread(
                fragile.sql,
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'tabellion'"
                " ORDER BY state = 'active' DESC",
            )
            if rows:
                os.kill(rows[0][0], signal.SIGKILL)
        await asyncio.sleep(0.1)
        await until_it_works(stores[0])
    await asyncio.sleep(0.3)
    ended.set()
    await asyncio.gather(*tasks)
    total = 0
    for gun, revisions in told.items():
        head = await stores[0].head(gun)
        assert head is not None
        total += head.revision
        assert revisions == sorted(set(revisions))
        assert set(revisions) <= set(range(1, head.revision + 1))
        if gun not in unknown:
            assert revisions == list(range(1, head.revision + 1))
    ids = [change.id for change in await stores[0].changes(None, after=0, limit=10_000)]
    assert ids == list(range(1, total + 1))
    for store in stores:
        await store.close()


async def test_a_read_only_database_is_read_and_refuses_in_words(database: Database) -> None:
    store = await PostgresStore.open(database.place)
    await commit(store, whole_set(1), on=None)
    await store.close()
    database.sql(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    before = database.dump()
    try:
        with capture_logs() as logs:
            store = await PostgresStore.open(database.place)
        assert [entry["event"] for entry in logs] == ["store.read_only"]
        with pytest.raises(StorageError, match="is read-only") as caught:
            await commit(store, [made("targets", 2)], on=1)
        assert "primary" in caught.value.hint
        assert await store.read(GUN, "targets") == made("targets", 1)
        await store.check()
    finally:
        database.sql(f"ALTER DATABASE {database.name} RESET default_transaction_read_only")
    assert database.dump() == before
    await store.close()


async def test_a_full_disk_refuses_what_does_not_fit_and_reads_go_on(
    fragile: Database, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["/bin/mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    server = fragile.server
    small = server.new_database(fragile.name)
    try:
        for folder in (disk, *list(disk.parents)[:-2]):
            folder.chmod(0o755)
        shutil.chown(disk, "postgres", "postgres")
        server.sql(f"CREATE TABLESPACE small LOCATION '{disk}'")
        server.sql(f"ALTER DATABASE {small.name} SET TABLESPACE small")
        store = await PostgresStore.open(small.place)
        large = [
            StoredFile.of("targets", version, os.urandom(3_000_000), stored_at=AT)
            for version in range(1, 20)
        ]
        done: list[Head] = []

        async def fill() -> None:
            for file in large:
                done.append(await commit(store, [file], on=len(done) or None))

        with pytest.raises(StorageError, match="no space left") as caught:
            await fill()
        assert "free some space" in caught.value.hint
        assert done
        assert await store.head(GUN) == done[-1]
        assert await store.read(GUN, "targets") == large[len(done) - 1]
        await store.close()
    finally:
        server.sql(f"DROP DATABASE {small.name} WITH (FORCE)")
        with contextlib.suppress(Exception):
            server.sql("DROP TABLESPACE small")
        subprocess.run(["/bin/umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("/db", "/none_"), ("doesn't exist", "createdb")),
        (("tabellion@", "guarded:wrong-pw@"), ("refuses the password", "password_file")),
        (("tabellion@", "nobody_@"), ("refuses this user", "pg_hba")),
        ((":{port}/", ":1/"), ("can't be reached", "runs there")),
        (("/db", "/db?sslmode=verify-full&was="), ("as storage.url says", "CA")),
        (("/db", "/db?sslmode=verify-full&sslrootcert=/none&was="), ("No such file", "sslroot")),
        (("/db", "/db?sslmode=require&application_name="), ("doesn't speak TLS", "ssl = on")),
    ],
)
async def test_what_keeps_a_store_from_being_opened_is_told_without_the_password(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str],
    told: tuple[str, str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no CA is kept there
    if "guarded" in change[1]:
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            database.sql("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    url = database.url.replace(change[0].format(port=database.server.port), change[1])
    assert url != database.url
    with pytest.raises(StorageError, match=told[0]) as caught:
        await PostgresStore.open(Place(url, "NAME"))
    assert told[1] in caught.value.hint
    assert "wrong-pw" not in caught.value.message
    assert "HINT" not in caught.value.message


async def test_the_password_comes_from_a_file_that_nobody_else_may_read(
    database: Database, tmp_path: Path
) -> None:
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        database.sql("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    database.sql("GRANT USAGE ON SCHEMA tabellion TO guarded")
    database.sql("GRANT ALL ON ALL TABLES IN SCHEMA tabellion TO guarded")
    file = tmp_path / "password"
    file.write_text("right\n")
    url = database.server.url(database.name, "guarded")
    place = Place(url, url, password_file=file)
    file.chmod(0o644)
    with pytest.raises(StorageError, match="others may read it"):
        await PostgresStore.open(place)
    file.chmod(0o600)
    store = await PostgresStore.open(place)
    await commit(store, whole_set(1), on=None, events=[])
    await store.close()


async def test_a_backup_that_finds_damage_leaves_nothing_behind(
    store: PostgresStore, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await commit(store, whole_set(1), on=None)
    database.sql("ALTER TABLE tabellion.metadata DISABLE TRIGGER ALL")
    database.sql("UPDATE tabellion.metadata SET data = '\\x00' WHERE role = 'targets'")
    target = await SqliteStore.open(tmp_path / "backup.db")
    with pytest.raises(StoreCorruptionError, match="SHA-256"):
        await copy_store(store, target, tell=lambda _: None)
    await target.close()
    gc.collect()
    await asyncio.sleep(0.1)
    assert not caplog.records


async def test_too_many_connections_are_told(fragile: Database) -> None:
    fragile.sql(f"ALTER DATABASE {fragile.name} CONNECTION LIMIT 1")
    try:
        fragile.sql("CREATE ROLE plain LOGIN")
        fragile.sql("GRANT USAGE ON SCHEMA tabellion TO plain")
        url = fragile.server.url(fragile.name, "plain")
        with pytest.raises(StorageError, match="doesn't give this user its rights"):
            await PostgresStore.open(Place(url, url))
        fragile.sql(f"ALTER DATABASE {fragile.name} CONNECTION LIMIT 0")
        with pytest.raises(StorageError, match="no connection left") as caught:
            await PostgresStore.open(Place(url, url))
        assert "storage.connections" in caught.value.hint
    finally:
        fragile.sql(f"ALTER DATABASE {fragile.name} CONNECTION LIMIT -1")


async def test_what_is_set_against_durability_is_told_and_turned_on_where_it_can_be(
    fragile: Database,
) -> None:
    fragile.empty()
    fragile.server.stop()
    fragile.server.start("fsync=off", "synchronous_commit=off")
    try:
        with capture_logs() as logs:
            store = await PostgresStore.open(fragile.place)
        told = [entry["problem"] for entry in logs if entry["event"] == "store.durability"]
        assert len(told) == 2
        assert all("acknowledged publications may be lost" in problem for problem in told)
        assert {"has fsync off" in told[0], "has synchronous_commit off" in told[1]} == {True}
        used = await store._link.transact(lambda held: held.fetchval("SHOW synchronous_commit"))
        assert used == "on"
        await store.close()
    finally:
        fragile.server.stop()
        fragile.server.start()
    with capture_logs() as logs:
        await (await PostgresStore.open(fragile.place)).close()
    assert logs == []


async def test_a_slow_server_is_told_and_holds_nobody_up_for_ever(
    store: PostgresStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "_BEGIN", "BEGIN; SET LOCAL lock_timeout = 300;")
    await commit(store, whole_set(1), on=None)
    with psycopg.connect(database.url) as holder:
        holder.execute("SELECT * FROM tabellion.counter FOR UPDATE")
        begun = time.monotonic()
        with pytest.raises(StorageError, match="stayed locked"):
            await commit(store, [made("targets", 2)], on=1)
        assert time.monotonic() - begun < 10
        assert await store.read(GUN, "targets") == made("targets", 1)
    assert (await commit(store, [made("targets", 2)], on=1)).revision == 2


async def test_a_paused_server_is_told_in_time_and_what_hung_is_never_done(
    fragile: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FETCH_SECONDS", "BEGIN_SECONDS", "CONNECT_SECONDS", "_RELEASE_SECONDS"):
        monkeypatch.setattr(postgres_link, name, 0.5)
    store = await PostgresStore.open(fragile.place)
    head = await commit(store, whole_set(1), on=None)
    with fragile.server.paused():
        for work in (
            lambda: store.head(GUN),
            lambda: commit(store, [made("targets", 2)], on=1),
            lambda: store.read(GUN, "targets", 1),
        ):
            begun = time.monotonic()
            with pytest.raises(StorageError, match="no answer in time"):
                await work()
            assert time.monotonic() - begun < 5
    await until_it_works(store)
    assert await store.head(GUN) == head
    assert (await commit(store, [made("targets", 2)], on=1)).revision == 2
    await store.close()


async def test_what_others_publish_meanwhile_is_never_taken_for_lost(
    database: Database, tmp_path: Path
) -> None:
    stores = [
        await PostgresStore.open(database.place, high_water=tmp_path / f"{number}" / "mark")
        for number in (0, 0, 1)
    ]
    ended = asyncio.Event()

    async def publish(number: int) -> None:
        for version in range(1, 40):
            await commit(
                stores[number % 3],
                [made("timestamp", version)],
                on=version - 1 or None,
                gun=f"gun/{number}",
            )

    async def look(store: PostgresStore) -> int:
        count = 0
        while not ended.is_set():
            assert await store.missing_changes() == 0
            await store.restoration(GUN)
            await store.head("gun/0")
            count += 1
        return count

    looks = [asyncio.create_task(look(store)) for store in stores for _ in range(3)]
    await asyncio.gather(*map(publish, range(9)))
    ended.set()
    assert min(await asyncio.gather(*looks)) > 5
    for store in stores:
        await store.close()
    assert database.sql("SELECT last, known FROM tabellion.counter") == [(9 * 39, 0)]


async def test_a_commit_that_failed_is_not_missed(
    behind: PostgresStore, proxy: PostgresProxy, tmp_path: Path
) -> None:
    place = behind._link
    store = await PostgresStore.open(Place(place.name, place.name), high_water=tmp_path / "mark")
    proxy.fault = "lost-commit"
    files = [made("timestamp", version) for version in range(1, 4)]
    with pytest.raises(StorageError, match="broke the connection"):
        await commit(store, files, on=None)
    assert await store.missing_changes() == 0
    await commit(store, files, on=None)
    await store.close()


async def test_a_node_that_has_seen_more_stops_all_others(
    database: Database, tmp_path: Path
) -> None:
    """A standby took over without the newest changes: only who saw them knows."""
    first = await PostgresStore.open(database.place, high_water=tmp_path / "1" / "mark")
    await commit(first, whole_set(1), on=None)
    backup = database.rows()
    await commit(first, [made("timestamp", 2)], on=1)
    database.replace(backup)
    other = await PostgresStore.open(database.place, high_water=tmp_path / "2" / "mark")
    assert await other.missing_changes() == 0
    with pytest.raises(RestoredStoreError) as caught:
        await commit(first, [made("timestamp", 2, "other")], on=1)
    assert caught.value.missing == 1
    assert await other.missing_changes() == 1
    with pytest.raises(RestoredStoreError):
        await commit(other, [made("timestamp", 2, "other")], on=1)
    with pytest.raises(RestoredStoreError):
        await other.restoration(GUN)
    assert await other.accept_restore(at=AT) == 1
    for store in (first, other):
        assert (await store.restoration(GUN)).skip == 1
    await commit(first, [made("timestamp", 3)], on=1)
    assert [change.id for change in await other.changes(GUN, after=0, limit=9)] == [1, 3]
    await first.close()
    await other.close()


async def test_an_idle_node_lets_others_know_what_is_lost(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_water, "_PAUSE_SECONDS", 0.05)
    idle = await PostgresStore.open(database.place, high_water=tmp_path / "1" / "mark")
    await commit(idle, whole_set(1), on=None)
    await asyncio.sleep(0.1)
    database.empty()
    async with asyncio.timeout(10):
        while database.sql("SELECT known FROM tabellion.counter") != [(1,)]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await idle.close()


async def test_a_standby_is_refused(fragile: Database) -> None:
    server = fragile.server
    server.stop()
    sign = server.data / "standby.signal"
    sign.touch()
    try:
        server.start()
        with pytest.raises(StorageError, match="is a standby") as caught:
            await PostgresStore.open(fragile.place)
        assert "primary" in caught.value.hint
    finally:
        server.stop()
        sign.unlink()
        server.start()
    await (await PostgresStore.open(fragile.place)).close()


async def test_a_gun_that_another_node_has_locked_holds_up_no_other(
    store: PostgresStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "_BEGIN", "BEGIN; SET LOCAL lock_timeout = 2000;")
    for gun in ("a", "b", "c"):
        await commit(store, whole_set(1), on=None, gun=gun)
    with psycopg.connect(database.url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (lock_of(b"b"),))
        begun = time.monotonic()
        others = [
            asyncio.create_task(commit(store, [made("targets", 2)], on=1, gun=gun))
            for gun in ("a", "b", "c")
        ]
        await asyncio.gather(others[0], others[2])
        assert (await commit(store, [made("targets", 3)], on=2, gun="a")).revision == 3
        assert time.monotonic() - begun < 1.5
        with pytest.raises(StorageError, match="stayed locked"):
            await others[1]
        waiting = asyncio.create_task(commit(store, [made("targets", 2)], on=1, gun="b"))
        await asyncio.sleep(0.2)
        holder.rollback()
        assert (await waiting).revision == 2


async def test_publications_to_a_gun_that_another_node_has_locked_wait_together(
    store: PostgresStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "_BEGIN", "BEGIN; SET LOCAL lock_timeout = 500;")
    await commit(store, whole_set(1), on=None, gun="b")
    with psycopg.connect(database.url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (lock_of(b"b"),))
        begun = time.monotonic()
        rivals = [commit(store, [made("targets", 2)], on=1, gun="b") for _ in range(9)]
        told = await asyncio.gather(*rivals, return_exceptions=True)
        assert all("stayed locked" in str(each) for each in told)
        assert time.monotonic() - begun < 2
