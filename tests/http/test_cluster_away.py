"""A Cluster of which no node answers: readers get what is known, writers are told to wait."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from forge import Forge, target
from http_site import signed
from server_process import Server, forge_for, post, server, verified, write_master_key
from valkey_servers import ValkeyCluster

_SERVE_KNOWN_SECONDS = 5
_READERS = 8


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ValkeyCluster]:
    started = ValkeyCluster(tmp_path / "cluster")
    try:
        yield started.start()
    finally:
        started.kill()


@pytest.fixture
async def running(cluster: ValkeyCluster, tmp_path: Path) -> AsyncIterator[Server]:
    write_master_key(tmp_path)
    config = f"""
[server]
listen = "127.0.0.1:0"
[storage]
url = "{cluster.url}?timeout=0.5"
serve_known = "{_SERVE_KNOWN_SECONDS}s"
"""
    async with server(tmp_path, config) as one:
        yield one


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def stop(cluster: ValkeyCluster) -> None:
    for node in cluster.nodes:
        node.signal(signal.SIGSTOP)


def go_on(cluster: ValkeyCluster) -> None:
    for node in cluster.nodes:
        node.signal(signal.SIGCONT)


def start(cluster: ValkeyCluster) -> None:
    for node in cluster.nodes:
        node.start()


async def refused(session: aiohttp.ClientSession, base: str, forge: Forge) -> None:
    """See that a publication is told to wait, and that soon."""
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("files", signed(forge, "targets")["targets"], filename="targets")
    async with asyncio.timeout(6), session.post(base, data=form) as answer:
        assert answer.status == 503, await answer.text()
        assert answer.headers["Retry-After"]


async def unknown(session: aiohttp.ClientSession, base: str) -> None:
    """See that a reader of what isn't known here is told to wait, and that soon."""
    async with asyncio.timeout(6), session.get(base + "timestamp.json") as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"]


async def comes_back(session: aiohttp.ClientSession, base: str, forge: Forge) -> None:
    """Publish as soon as that's possible again."""
    async with asyncio.timeout(30):
        while True:
            status = await post(session, base, signed(forge, "targets"))
            if status == 200:
                return
            assert status == 503
            await asyncio.sleep(0.2)


async def is_read(session: aiohttp.ClientSession, base: str) -> None:
    """Wait till readers are answered again: a second after the last failure at the latest."""
    async with asyncio.timeout(5):
        while True:
            async with session.get(base + "timestamp.json") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("away", "back"), [(stop, go_on), (ValkeyCluster.kill, start)], ids=["stopped", "killed"]
)
async def test_readers_get_what_is_known_for_a_while_and_all_goes_on_afterwards(
    cluster: ValkeyCluster,
    running: Server,
    session: aiohttp.ClientSession,
    away: Callable[[ValkeyCluster], None],
    back: Callable[[ValkeyCluster], None],
) -> None:
    forge = await forge_for(session, running.base)
    forge.targets.targets["1"] = target(b"x", "1")
    assert await post(session, running.base, signed(forge, "root", "targets")) == 200
    assert await verified(session, running.base, forge) == {"1"}
    statuses: list[int] = []
    slowest = 0.0

    async def read() -> None:
        nonlocal slowest
        begun = time.monotonic()
        while time.monotonic() - begun < _SERVE_KNOWN_SECONDS - 3:
            asked = time.monotonic()
            async with session.get(running.base + "timestamp.json") as answer:
                await answer.read()
                statuses.append(answer.status)
            slowest = max(slowest, time.monotonic() - asked)
            await asyncio.sleep(0.02)

    await asyncio.to_thread(away, cluster)
    forge.targets.version = 2
    forge.targets.targets["2"] = target(b"x", "2")
    async with asyncio.TaskGroup() as group:
        for _ in range(_READERS):
            group.create_task(read())
        group.create_task(refused(session, running.base, forge))
        for number in range(_READERS):
            group.create_task(unknown(session, f"{running.url}/v2/gun/{number}/_trust/tuf/"))
    assert len(statuses) > _READERS
    assert set(statuses) == {200}
    assert slowest < 4
    async with session.get(f"{running.url}/readyz") as answer:
        assert answer.status == 503
    async with session.get(f"{running.url}/healthz") as answer:
        assert answer.status == 200
    await asyncio.sleep(_SERVE_KNOWN_SECONDS)
    async with session.get(running.base + "timestamp.json") as answer:
        assert answer.status == 503  # what is known is too old by now
        assert answer.headers["Retry-After"]
    await asyncio.to_thread(back, cluster)
    await comes_back(session, running.base, forge)
    await is_read(session, running.base)
    assert await verified(session, running.base, forge) == {"1", "2"}
    assert not [line for line in running.log if "Traceback" in line or "never retrieved" in line]
