"""A Cluster with replicas whose master dies: nothing acknowledged is lost, and all goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from storage.test_valkey_faults import GUN, publish
from tabellion_server.storage.interface import Head, StorageError
from tabellion_server.storage.redis import RedisStore
from tabellion_server.storage.redis_address import parse_redis_url
from tabellion_server.storage.redis_keys import FeedKeys, GunKeys
from valkey_servers import ALWAYS, ValkeyCluster, ValkeyServer

_PREFIX = "tabellion"
GUNS = (GUN, *(f"busy/{number}" for number in range(8)))


class ReplicatedCluster(ValkeyCluster):
    """Three masters with a replica each, which take over soon."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        own = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1500")
        soon = ("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0")
        options = (*ALWAYS, *own, *soon, "--min-replicas-to-write", "1")
        self.nodes = [ValkeyServer(folder / str(number), *options) for number in range(3)]
        self.replicas = [ValkeyServer(folder / f"of{number}", *options) for number in range(3)]

    def start(self) -> ReplicatedCluster:
        super().start()
        for node, replica in zip(self.nodes, self.replicas, strict=True):
            replica.start()
            with redis.Redis(port=node.port) as client:
                name = client.execute_command("CLUSTER", "MYID").decode()
            replica.say("CLUSTER", "MEET", "127.0.0.1", node.port)
            until(lambda r=replica, n=name: r.say("CLUSTER", "REPLICATE", n) == "+OK")
        for node in self.nodes:
            until(lambda n=node: "state=online" in n.say("INFO", "replication"))
        for replica in self.replicas:  # so that all know whom they may vote for
            until(lambda r=replica: "cluster_known_nodes:6" in r.say("CLUSTER", "INFO"))
            until(lambda r=replica: "cluster_state:ok" in r.say("CLUSTER", "INFO"))
            until(lambda r=replica: "master_link_status:up" in r.say("INFO", "replication"))
        return self

    def master_of(self, key: bytes) -> int:
        """Give the number of the master that has a key's slot at first."""
        slot = int(self.nodes[0].say("CLUSTER", "KEYSLOT", key.decode())[1:])
        return next(n for n in range(3) if slot < 16384 * (n + 1) // 3)

    def kill(self) -> None:
        super().kill()
        for each in self.replicas:
            each.kill()


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it doesn't come about"
        time.sleep(0.05)


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[ReplicatedCluster]:
    cluster = ReplicatedCluster(tmp_path / "cluster")
    try:
        yield cluster.start()
    finally:
        cluster.kill()


class Busy:
    """Publishes to several GUNs as long as it's asked to, and notes what was acknowledged."""

    def __init__(self, store: RedisStore) -> None:
        self.acknowledged: dict[str, int] = {}
        self._store = store
        self._ends = False
        self._working = [asyncio.create_task(self._work(gun)) for gun in GUNS]

    async def _work(self, gun: str) -> None:
        while not self._ends:
            try:
                head = await publish(self._store, gun)
                self.acknowledged[gun] = head.files["timestamp"].version
            except StorageError:
                await asyncio.sleep(0.05)

    async def goes_on(self) -> None:
        """Wait till each GUN has been published twice more."""
        before = dict(self.acknowledged)
        async with asyncio.timeout(30):
            while any(self.acknowledged.get(gun, 0) < before.get(gun, 0) + 2 for gun in GUNS):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def end(self) -> None:
        self._ends = True
        await asyncio.gather(*self._working)


async def head_as_soon_as_possible(store: RedisStore) -> Head | None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.head(GUN)
            except StorageError:
                await asyncio.sleep(0.05)


async def verify_all(store: RedisStore, acknowledged: dict[str, int]) -> None:
    """See that nothing is lost, doubled or untold."""
    assert await store.missing_changes() == 0
    told = await store.changes(None, after=0, limit=100_000)
    assert [change.id for change in told] == sorted({change.id for change in told})
    assert set(acknowledged) == set(GUNS)
    for gun, version in acknowledged.items():
        head = await store.head(gun)
        assert head is not None
        found = head.files["timestamp"].version
        assert version <= found <= version + 1
        versions = [change.version for change in told if change.gun == gun]
        assert versions == list(range(1, found + 1))
        for each in versions:
            assert await store.read(gun, "timestamp", each) is not None


@pytest.mark.parametrize(
    ("key", "passed_over"),
    [(GunKeys(_PREFIX, GUN).head, 1024), (FeedKeys(_PREFIX).key("state"), 0)],
    ids=["of the GUN", "of the changefeed"],
)
async def test_after_a_fail_over_in_a_cluster_nothing_acknowledged_is_lost(
    replicated: ReplicatedCluster, tmp_path: Path, key: bytes, passed_over: int
) -> None:
    number = replicated.master_of(key)
    master, replica = replicated.nodes[number], replicated.replicas[number]
    address = replace(parse_redis_url(replicated.url), timeout_seconds=1.0)
    with capture_logs() as logs:
        store = await RedisStore.open(address, high_water=tmp_path / "mark.json", replicas=1)
    assert not [line for line in logs if line["event"] == "store.replicas"]
    try:
        before = await publish(store)
        busy = Busy(store)
        await asyncio.sleep(0.5)
        master.kill()
        await asyncio.to_thread(until, lambda: "role:master" in replica.say("INFO", "replication"))
        assert await head_as_soon_as_possible(store) is not None
        # The one that was killed comes back as the replica that acknowledging takes.
        await asyncio.to_thread(master.start)
        await busy.goes_on()
        await busy.end()
        await store.sweep(age_seconds=-1)
        await verify_all(store, busy.acknowledged)
        after = await store.head(GUN)
        assert after is not None
        commits = after.files["timestamp"].version - before.files["timestamp"].version
        # Once, and not with each write after it.
        assert after.revision - before.revision == commits + passed_over
    finally:
        await store.close()
