"""A slot of a Cluster moves to another master while its GUN is published and read."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis

from forge import Forge, target
from http_site import signed
from server_process import GUN, Server, forge_for, post, server, write_master_key
from valkey_servers import ValkeyCluster

_VERSIONS = 30
_PREFIX = "resharding"


@pytest.fixture
async def running(valkey_cluster: ValkeyCluster, tmp_path: Path) -> AsyncIterator[Server]:
    write_master_key(tmp_path)
    config = f"""
[server]
listen = "127.0.0.1:0"
[storage]
url = "{valkey_cluster.url}?prefix={_PREFIX}"
"""
    async with server(tmp_path, config) as one:
        yield one


class Mover:
    """Moves one slot from master to master."""

    def __init__(self, cluster: ValkeyCluster, key: str) -> None:
        self._ports = [node.port for node in cluster.nodes]
        self._nodes = [redis.Redis(port=port) for port in self._ports]
        self._names = [self._say(number, "CLUSTER", "MYID").decode() for number in range(3)]
        self.slot = int(self._say(0, "CLUSTER", "KEYSLOT", key))
        self.at = self.slot * 3 // 16384
        self.moved: list[int] = []

    def _say(self, number: int, *words: str | int | bytes) -> Any:
        return self._nodes[number].execute_command(*words)

    def move(self, to: int, seconds: float) -> None:
        """Do so, so slowly that others come meanwhile; note how many keys it had."""
        own, name = ("CLUSTER", "SETSLOT", self.slot), self._names[to]
        self._say(to, *own, "IMPORTING", self._names[self.at])
        self._say(self.at, *own, "MIGRATING", name)
        moved = 0
        while keys := self._say(self.at, "CLUSTER", "GETKEYSINSLOT", self.slot, 1000):
            for key in keys:
                self._say(self.at, "MIGRATE", "127.0.0.1", self._ports[to], key, 0, 5000)
                time.sleep(seconds / len(keys))
            moved += len(keys)
        for number in (to, self.at, *range(3)):
            self._say(number, *own, "NODE", name)
        self.at = to
        self.moved.append(moved)

    async def move_round(self) -> None:
        """Move it to each, and home again."""
        for _ in range(3):
            await asyncio.to_thread(self.move, (self.at + 1) % 3, 0.7)
            await asyncio.sleep(0.3)

    def close(self) -> None:
        for node in self._nodes:
            node.close()


class Reader:
    """Reads the timestamp over and over, which never goes back."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base
        self.statuses: Counter[int] = Counter()
        self.ends = False

    async def read(self) -> None:
        seen = 0
        while not self.ends:
            async with self._session.get(self._base + "timestamp.json") as answer:
                self.statuses[answer.status] += 1
                version = json.loads(await answer.read())["signed"]["version"]
            assert version >= seen
            seen = version
            await asyncio.sleep(0.005)


async def publish(
    session: aiohttp.ClientSession, base: str, forge: Forge, version: int
) -> Counter[int]:
    """Publish a version, as often as it takes; give the answers."""
    statuses: Counter[int] = Counter()
    forge.targets.version = version
    forge.targets.targets[str(version)] = target(b"x", str(version))
    files = signed(forge, *(["root", "targets"] if version == 1 else ["targets"]))
    while not statuses[200]:
        statuses[await post(session, base, files)] += 1
        await asyncio.sleep(0.05)
    return statuses


async def check(config: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", "check", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, told.decode()


async def test_a_gun_whose_slot_moves_loses_and_doubles_nothing(
    valkey_cluster: ValkeyCluster, running: Server, tmp_path: Path
) -> None:
    async with aiohttp.ClientSession() as session:
        forge = await forge_for(session, running.base)
        statuses = await publish(session, running.base, forge, 1)
        mover = Mover(valkey_cluster, f"{_PREFIX}{{g:{GUN}}}:head")
        reader = Reader(session, running.base)
        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(reader.read())
                moving = group.create_task(mover.move_round())
                for version in range(2, _VERSIONS + 1):
                    statuses += await publish(session, running.base, forge, version)
                    await asyncio.sleep(0.05)
                await moving
                reader.ends = True
        finally:
            mover.close()
        assert len(mover.moved) == 3
        assert all(mover.moved)
        assert set(statuses) == {200, 503}
        assert set(reader.statuses) == {200}
        assert any("moves this GUN's slot" in line for line in running.log)
        for version in range(1, _VERSIONS + 1):
            async with session.get(f"{running.base}{version}.targets.json") as answer:
                assert answer.status == 200
        async with session.get(f"{running.url}/v1/changes?gun={GUN}&limit=1000") as answer:
            told = (await answer.json())["changes"]
        versions = [change["version"] for change in told]
        assert len(versions) == _VERSIONS
        assert versions == sorted(set(versions))
        ids = [change["id"] for change in told]
        assert ids == sorted(set(ids))
    await check(tmp_path / "server.toml")
    assert not [line for line in running.log if "Traceback" in line]
