"""The Redis and Valkey store under faults: what was acknowledged stays, what failed is told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from nodes import Link
from storage.test_contract import commit, made, signed, whole_set
from storage.writer_process import publish_next
from tabellion_server.storage.interface import (
    Head,
    RestoredStoreError,
    StaleHeadError,
    StorageError,
)
from tabellion_server.storage.redis import RedisStore
from tabellion_server.storage.redis_address import parse_redis_url
from tabellion_server.storage.redis_durability import Durability
from tabellion_server.storage.redis_link import RedisLink, Script
from valkey_servers import ALWAYS, ValkeyCluster, ValkeySentinels, ValkeyServer, free_port

GUN = "registry.example/app"
AT = datetime(2026, 3, 1, tzinfo=UTC)
SETTLING_SECONDS = 1.5  # three times the time-out of these stores
Open = Callable[..., Awaitable[RedisStore]]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server of this test's own, to be killed, stopped and filled."""
    server = ValkeyServer(tmp_path / "valkey", *ALWAYS).start()
    yield server
    server.kill()


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    stores: list[RedisStore] = []

    async def open_one(
        url: str,
        *,
        high_water: Path | None = None,
        durability: Durability | None = None,
        replicas: int = 0,
    ) -> RedisStore:
        address = replace(parse_redis_url(url), timeout_seconds=0.5)
        stores.append(
            await RedisStore.open(
                address, high_water=high_water, durability=durability, replicas=replicas
            )
        )
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()


async def publish(store: RedisStore, gun: str = GUN) -> Head:
    """Publish the next version, as often as it takes; a failure is the caller's.

    After a restart it waits until nodes that know of something lost could have said so.
    """
    while True:
        head = await store.head(gun)
        version = head.files["timestamp"].version + 1 if head else 1
        try:
            return await commit(
                store, whole_set(version), on=head.revision if head else None, gun=gun
            )
        except StaleHeadError:
            continue
        except StorageError as error:
            if "was started anew" not in error.message:
                raise
            await asyncio.sleep(0.05)


class TestCrash:
    async def test_what_was_acknowledged_is_there_after_kill_9(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        store = await opened(own.url)
        acknowledged: dict[str, int] = {}
        is_over = False

        async def work(gun: str) -> None:
            while not is_over:
                try:
                    acknowledged[gun] = (await publish(store, gun)).files["timestamp"].version
                except StorageError:
                    await asyncio.sleep(0.01)

        working = [asyncio.create_task(work(f"gun/{number}")) for number in range(8)]
        for _ in range(3):
            await asyncio.sleep(0.25)
            own.kill()
            await asyncio.to_thread(own.start)
            await asyncio.sleep(SETTLING_SECONDS)
        await asyncio.sleep(0.25)
        is_over = True
        await asyncio.gather(*working)
        await store.sweep(age_seconds=-1)
        assert len(acknowledged) == 8
        told = await store.changes(None, after=0, limit=100_000)
        assert [change.id for change in told] == sorted({change.id for change in told})
        for gun, version in acknowledged.items():
            head = await store.head(gun)
            assert head is not None
            found = head.files["timestamp"].version
            # One more may have been done whose answer was lost.
            assert version <= found <= version + 1
            versions = [change.version for change in told if change.gun == gun]
            assert versions == list(range(1, found + 1))

    async def test_after_a_restart_versions_are_passed_over_once(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        store = await opened(own.url)
        before = await publish(store)
        own.kill()
        await asyncio.to_thread(own.start)
        skip = (await store.restoration(GUN)).skip
        assert skip > 1000
        assert not (await store.restoration(GUN)).may_lack
        await asyncio.sleep(SETTLING_SECONDS)
        with pytest.raises(StaleHeadError) as caught:
            await commit(store, [made("timestamp", 2)], on=before.revision)
        assert caught.value.head is not None
        assert caught.value.head.files == before.files
        await publish(store)
        assert (await store.restoration(GUN)).skip == 0

    async def test_a_lost_newest_second_is_noticed_and_nothing_signed_until_accepted(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        store = await opened(own.url)
        await publish(store)
        own.stop()
        saved = {path: path.read_bytes() for path in own.folder.rglob("*") if path.is_file()}
        await asyncio.to_thread(own.start)
        await publish(store)
        lost = await publish(store)
        own.kill()
        for path, data in saved.items():
            path.write_bytes(data)
        await asyncio.to_thread(own.start)
        head = await store.head(GUN)
        assert head is not None
        assert head.files["timestamp"].version < lost.files["timestamp"].version
        with pytest.raises(RestoredStoreError):
            await publish(store)
        with pytest.raises(RestoredStoreError):
            await store.restoration(GUN)
        other = await opened(own.url)  # a node that has known of nothing
        with pytest.raises(RestoredStoreError):
            await publish(other)
        still = await store.head(GUN)
        assert still is not None
        assert still.files == head.files
        assert await store.missing_changes() > 0
        await store.accept_restore(at=AT)
        restoration = await store.restoration(GUN)
        assert restoration.skip >= 2
        assert restoration.may_lack
        await publish(store)

    async def test_a_store_emptied_under_its_nodes_takes_nothing_before_they_could_say_so(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        store, other = await opened(own.url), await opened(own.url)
        await publish(store)
        assert own.say("FLUSHALL") == "+OK"
        with pytest.raises(StorageError, match="was started anew"):
            await commit(other, whole_set(1), on=None)
        with pytest.raises(RestoredStoreError):
            await publish(other)


class TestThreeSteps:
    async def test_who_dies_after_the_second_step_leaves_what_another_tells(
        self, valkey_server: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await opened(f"{valkey_server.url}?prefix=steps")
        run = RedisLink.run

        async def cut(self: RedisLink, script: Script, *given: object, **more: object) -> object:
            if script.name == "settle":
                raise StorageError("cut off")
            return await run(self, script, *given, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(RedisLink, "run", cut)
        await publish(store)
        assert await store.changes(None, after=0, limit=9) == []
        monkeypatch.undo()
        other = await opened(f"{valkey_server.url}?prefix=steps")
        assert await other.sweep(age_seconds=-1) == 1
        assert [change.version for change in await store.changes(None, after=0, limit=9)] == [1]
        assert await other.sweep(age_seconds=-1) == 0
        await publish(store)
        assert [change.version for change in await store.changes(GUN, after=0, limit=9)] == [1, 2]

    async def test_what_could_not_be_told_is_known_all_the_same_and_missed_if_it_is_lost(
        self, own: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await opened(own.url)
        run = RedisLink.run

        async def cut(self: RedisLink, script: Script, *given: object, **more: object) -> object:
            if script.name == "settle":
                raise StorageError("cut off")
            return await run(self, script, *given, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(RedisLink, "run", cut)
        await publish(store)
        assert await store.missing_changes() == 0
        own.say("FLUSHALL")
        assert await store.missing_changes() == 1

    async def test_who_is_given_up_on_after_the_first_step_writes_nothing_with_it(
        self, valkey_server: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await opened(f"{valkey_server.url}?prefix=fenced")
        run, tokens = RedisLink.run, []

        async def slow(
            self: RedisLink, script: Script, keys: object, values: object, **more: object
        ) -> object:
            if script.name == "commit":
                tokens.append(next(iter(values)))  # type: ignore[call-overload]
                if len(tokens) == 1:
                    assert await store.sweep(age_seconds=-1) == 1
                    assert await store.guns() == []
            return await run(self, script, keys, values, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(RedisLink, "run", slow)
        head = await publish(store)
        assert len(tokens) == 2
        assert tokens[1] > tokens[0]
        assert await store.guns() == [head]
        assert len(await store.changes(None, after=0, limit=9)) == 1

    async def test_a_publication_whose_answer_was_lost_is_done_once(
        self, valkey_server: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await opened(f"{valkey_server.url}?prefix=twice")
        execute, lost = RedisLink._execute, []

        async def lose(self: RedisLink, command: tuple[object, ...]) -> object:
            answer = await execute(self, command)  # type: ignore[arg-type]
            if any(b":outbox" in word for word in command if isinstance(word, bytes)) and not lost:
                lost.append(command)
                raise ConnectionResetError("lost")
            return answer

        monkeypatch.setattr(RedisLink, "_execute", lose)
        head = await commit(store, whole_set(1), on=None, events=[signed("1")])
        assert lost
        assert head.revision == 1
        assert len(await store.events(GUN)) == 1
        assert len(await store.changes(None, after=0, limit=9)) == 1


class TestRefusals:
    async def test_a_replica_takes_no_writes(self, own: ValkeyServer, opened: Open) -> None:
        store = await opened(own.url)
        await publish(store)
        own.say("REPLICAOF", "127.0.0.1", own.port + 1)
        with pytest.raises(StorageError, match="replica"):
            await publish(store)
        with pytest.raises(StorageError, match="replica"):
            await opened(own.url)
        assert await store.head(GUN) is not None

    async def test_a_full_memory_changes_nothing(self, own: ValkeyServer, opened: Open) -> None:
        store = await opened(own.url)
        before = await publish(store)
        assert own.say("CONFIG", "SET", "maxmemory", "1mb") == "+OK"
        with pytest.raises(StorageError, match="no memory left") as caught:
            await publish(store)
        assert "maxmemory" in caught.value.hint
        assert await store.head(GUN) == before
        assert await store.read(GUN, "targets", 2) is None
        own.say("CONFIG", "SET", "maxmemory", "0")
        await publish(store)

    async def test_a_stopped_server_is_told_in_time(self, own: ValkeyServer, opened: Open) -> None:
        store = await opened(own.url)
        await publish(store)
        own.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(5):
                with pytest.raises(StorageError, match="in time"):
                    await store.head(GUN)
                with pytest.raises(StorageError, match="in time"):
                    await store.check()
        finally:
            own.signal(signal.SIGCONT)
        await publish(store)

    async def test_a_server_that_is_not_there_is_told(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        own.kill()
        with pytest.raises(StorageError, match="can't be reached"):
            await opened(own.url)

    async def test_a_single_server_is_no_cluster(self, own: ValkeyServer, opened: Open) -> None:
        url = own.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        with pytest.raises(StorageError, match="is no Cluster") as caught:
            await opened(url)
        assert "redis://" in caught.value.hint
        own.kill()
        with pytest.raises(StorageError, match="none of its nodes"):
            await opened(url)

    async def test_sentinels_that_are_not_there_are_told_in_words(self, opened: Open) -> None:
        with pytest.raises(StorageError, match="none of its Sentinels") as caught:
            await opened(f"redis+sentinel://127.0.0.1:{free_port()}/trust/0")
        assert "<" not in caught.value.message

    async def test_what_is_no_sentinel_is_told(self, own: ValkeyServer, opened: Open) -> None:
        with pytest.raises(StorageError, match="what is there is no Sentinel") as caught:
            await opened(f"redis+sentinel://127.0.0.1:{own.port}/tabellion")
        assert "redis:// for one server" in caught.value.hint

    async def test_a_database_that_is_not_there_is_told(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        with pytest.raises(StorageError, match="has no database 99") as caught:
            await opened(f"redis://127.0.0.1:{own.port}/99")
        assert "storage.url" in caught.value.hint

    async def test_no_store_is_begun_without_the_replicas_it_has_to_have(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        own.say("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(
            StorageError, match=r"is no store in .* and none can be begun"
        ) as caught:
            await opened(own.url, replicas=1)
        assert "fewer replicas" in caught.value.message
        assert "connect its replicas" in caught.value.hint
        assert own.say("DBSIZE") == ":0"

    async def test_replicas_that_are_not_there_are_told_at_the_start(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        await opened(own.url)
        own.say("CONFIG", "SET", "min-replicas-to-write", "1")
        with capture_logs() as logs:
            await opened(own.url, replicas=1)
        (found,) = [line for line in logs if line["event"] == "store.replicas"]
        assert "0 of the 1 replicas" in found["problem"]

    async def test_a_password_is_wanted_and_never_told(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        own.say("CONFIG", "SET", "requirepass", "correct-horse")
        with pytest.raises(StorageError, match="password") as caught:
            await opened(own.url)
        wrong = own.url.replace("redis://", "redis://:battery-staple@")
        with pytest.raises(StorageError, match="password") as other:
            await opened(wrong)
        for told in (caught.value, other.value):
            assert "correct-horse" not in f"{told} {told.hint}"
            assert "battery-staple" not in f"{told} {told.hint}"
        await publish(await opened(own.url.replace("redis://", "redis://:correct-horse@")))

    @pytest.mark.parametrize(
        ("setting", "value", "promises"),
        [("appendfsync", "everysec", "everysec"), ("appendonly", "no", "none")],
    )
    async def test_a_server_that_promises_less_than_is_stated_is_refused(
        self, own: ValkeyServer, opened: Open, setting: str, value: str, promises: Durability
    ) -> None:
        await opened(own.url, durability="always")
        own.say("CONFIG", "SET", setting, value)
        with pytest.raises(StorageError, match="promises less"):
            await opened(own.url, durability="always")
        await opened(own.url, durability=promises)
        await opened(own.url)

    async def test_a_server_that_drops_keys_is_refused(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        own.say("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(StorageError, match="drops keys"):
            await opened(own.url)

    async def test_where_config_is_forbidden_it_has_to_be_stated(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        rights = ("+@all", "-@dangerous", "+info", "+role")
        own.say("ACL", "SETUSER", "tabellion", "on", ">pw", "~tabellion*", *rights)
        url = own.url.replace("redis://", "redis://tabellion:pw@")
        with pytest.raises(StorageError, match="doesn't tell") as caught:
            await opened(url)
        assert "storage.durability" in caught.value.hint
        await publish(await opened(url, durability="always"))

    async def test_a_write_that_no_replica_has_is_not_acknowledged(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        await opened(own.url)
        own.say("CONFIG", "SET", "min-replicas-to-write", "1")
        store = await opened(own.url, replicas=1)
        with pytest.raises(StorageError, match="fewer replicas than min-replicas-to-write"):
            await publish(store)
        assert await store.head(GUN) is None
        own.say("CONFIG", "SET", "min-replicas-to-write", "0")
        with pytest.raises(StorageError, match="only 0 of its replicas"):
            await publish(store)
        assert await store.head(GUN) is not None
        with pytest.raises(StorageError, match="only 0 of its replicas"):
            await store.confirm(GUN)

    async def test_masters_that_take_writes_without_the_replicas_asked_for_are_refused(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        own.say("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(StorageError, match="min-replicas-to-write 1, less than") as caught:
            await opened(own.url, replicas=2)
        assert "CONFIG SET min-replicas-to-write 2" in caught.value.hint

    async def test_replicas_asked_for_of_masters_that_tell_nothing_are_warned_of_once(
        self, own: ValkeyServer, opened: Open
    ) -> None:
        rights = ("+@all", "-@dangerous", "+info", "+role")
        own.say("ACL", "SETUSER", "tabellion", "on", ">pw", "~tabellion*", *rights)
        url = own.url.replace("redis://", "redis://tabellion:pw@")
        with capture_logs() as logs:
            await opened(url, durability="always", replicas=1)
        told = [line["problem"] for line in logs if line["event"] == "store.replicas"]
        assert sum("min-replicas-to-write 1" in problem for problem in told) == 1


async def test_after_a_fail_over_nothing_acknowledged_is_lost(tmp_path: Path, opened: Open) -> None:
    sentinels = ValkeySentinels(tmp_path / "sentinels", *ALWAYS, "--min-replicas-to-write", "1")
    try:
        await asyncio.to_thread(sentinels.start)
        store = await opened(sentinels.url, high_water=tmp_path / "mark.json", replicas=1)
        for number in range(3):
            await publish(store, f"gun/{number}")
        before = await publish(store)
        acknowledged: dict[str, int] = {}

        async def work(gun: str) -> None:
            while True:
                done = await publish(store, gun)
                acknowledged[gun] = done.files["timestamp"].version

        working = [asyncio.create_task(work(f"busy/{number}")) for number in range(8)]
        await asyncio.sleep(0.3)
        sentinels.master.kill()
        await asyncio.wait(working)
        assert all(isinstance(each.exception(), StorageError) for each in working)
        await asyncio.to_thread(sentinels.until_promoted)
        # No second replica: what nobody else has isn't acknowledged any more.
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await store.head(GUN) == before
                    break
                except StorageError:
                    await asyncio.sleep(0.1)
        sentinels.replica.say("CONFIG", "SET", "min-replicas-to-write", "0")
        assert await store.missing_changes() == 0
        again = await opened(sentinels.url)
        await again.sweep(age_seconds=-1)
        assert len(acknowledged) == 8
        for gun, version in acknowledged.items():
            head = await again.head(gun)
            assert head is not None
            assert head.files["timestamp"].version >= version
        assert (await again.restoration(GUN)).skip > 1000
        after = await publish(again)
        assert after.revision > before.revision + 1000
        listed = {head.gun for head in await again.guns()}
        assert listed == {GUN, "gun/0", "gun/1", "gun/2", *acknowledged}
        told = await again.changes(None, after=0, limit=100_000)
        assert [change.id for change in told] == sorted({change.id for change in told})
        for gun in listed:
            head = await again.head(gun)
            versions = [change.version for change in told if change.gun == gun]
            assert head is not None
            assert versions == list(range(1, head.files["timestamp"].version + 1))
    finally:
        sentinels.kill()


async def test_a_master_that_was_a_replica_meanwhile_gives_out_no_number_again(
    tmp_path: Path, own: ValkeyServer, opened: Open
) -> None:
    """It's the same process, which may have forgotten what it did in its first reign."""
    soon = ("--repl-diskless-sync-delay", "0")
    own.say("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    other = ValkeyServer(tmp_path / "other", *ALWAYS, *soon).start()

    async def follow(follower: ValkeyServer, master: ValkeyServer) -> None:
        follower.say("REPLICAOF", "127.0.0.1", master.port)
        async with asyncio.timeout(20):
            while "master_link_status:up" not in follower.say("INFO", "replication"):  # noqa: ASYNC110  (a server's turn)
                await asyncio.sleep(0.02)

    try:
        await follow(other, own)
        store = await opened(own.url)
        await publish(store)
        assert own.say("WAIT", 1, 10_000) == ":1"
        other.say("REPLICAOF", "NO", "ONE")
        lost = await publish(store)
        await store.close()  # nobody is left who knows of it
        await follow(own, other)
        own.say("REPLICAOF", "NO", "ONE")
        store = await opened(own.url)
        assert (await store.restoration(GUN)).skip > 1000
        after = await publish(store)
        assert after.revision > lost.revision + 1000
        assert await store.missing_changes() == 0
    finally:
        other.kill()


async def test_a_conclusion_that_was_lost_is_told_though_the_server_restarted_twice_since(
    own: ValkeyServer, opened: Open
) -> None:
    """The token is known, the write may not be; the node that knows was cut off all the time."""
    link = Link(own.port)
    await link.start()
    try:
        knows = await opened(f"redis://127.0.0.1:{link.port}/0")
        await publish(knows)
        link.cut()
        other = await opened(own.url)
        assert own.say("HINCRBY", "tabellion{feed}:state", "settled", "-1") == ":0"
        for _ in range(2):
            own.kill()
            await asyncio.to_thread(own.start)
            assert await other.missing_changes() == 0
        link.heal()
        assert await knows.missing_changes() == 1
        assert await other.missing_changes() == 1
        with pytest.raises(RestoredStoreError):
            await publish(other)
        await other.accept_restore(at=AT)
        assert await knows.missing_changes() == 0
    finally:
        await knows.close()
        await link.stop()


async def test_a_gun_that_went_back_alone_is_refused_until_that_is_accepted(
    valkey_server: ValkeyServer, opened: Open
) -> None:
    """As in a Cluster, where one of several masters lost its newest moments."""
    store = await opened(f"{valkey_server.url}?prefix=alone")
    await publish(store)
    kept = "alone{g:" + GUN + "}:kept"
    assert valkey_server.say("HSET", kept, "seq", "0").startswith(":")
    before = await store.head(GUN)
    for _ in range(2):
        with pytest.raises(RestoredStoreError):
            await publish(store)
    assert await store.head(GUN) == before
    await publish(store, "gun/other")
    assert await store.missing_changes() == 1
    assert await store.accept_restore(at=AT) == 1
    assert await store.missing_changes() == 0
    with pytest.raises(StaleHeadError) as caught:
        await commit(store, [made("timestamp", 2)], on=1, at=AT)
    assert caught.value.head is not None
    restored = await store.restoration(GUN)
    assert (restored.skip > 1000, restored.may_lack) == (True, True)
    await commit(store, [made("timestamp", 2000)], on=caught.value.head.revision, at=AT)
    assert (await store.restoration(GUN)).skip == 0
    assert [change.version for change in await store.changes(GUN, after=0, limit=9)] == [1, 2000]


async def test_large_publications_of_many_nodes_lose_nothing(
    valkey_cluster: ValkeyCluster, opened: Open
) -> None:
    stores = [await opened(f"{valkey_cluster.url}?prefix=large") for _ in range(2)]
    heads = await asyncio.gather(*(publish_next(stores[number % 2]) for number in range(12)))
    assert sorted(head.revision for head in heads) == list(range(1, 13))
    assert len(await stores[0].changes(None, after=0, limit=99)) == 12
