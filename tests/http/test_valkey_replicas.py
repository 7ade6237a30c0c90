"""A publication that its replicas don't have isn't acknowledged, however it is asked for."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from forge import target
from http_site import signed
from person import Person
from server_process import GUN, forge_for, ground_of, post, server, verified
from tabellion.core.names import Digest
from tabellion.errors import ServerAnswerError
from valkey_servers import ALWAYS, ValkeyServer

CONFIG = """
[server]
listen = "127.0.0.1:0"
[storage]
url = "redis://127.0.0.1:{port}/0?timeout=1"
replicas = 1
[keys]
master_key_file = "../master.key"
"""


class Pair:
    """A master that takes writes with a replica only, and that replica."""

    def __init__(self, folder: Path) -> None:
        self.master = ValkeyServer(
            folder / "master",
            *(*ALWAYS, "--repl-diskless-sync-delay", "0"),
            # It takes writes though its replica is silent, as in the first seconds of a loss.
            *("--min-replicas-to-write", "1", "--min-replicas-max-lag", "600"),
        )
        self.replica = ValkeyServer(folder / "replica", *ALWAYS)

    def start(self) -> None:
        self.master.start()
        self.replica.start()
        self.replica.say("REPLICAOF", "127.0.0.1", self.master.port)
        end = time.monotonic() + 20
        while "it" not in self.replica.say("GET", "is"):
            assert time.monotonic() < end, "the replica doesn't follow"
            self.master.say("SET", "is", "it")
            time.sleep(0.05)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.master.kill()
        made.replica.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ground_of(tmp_path) / "one"


async def test_what_a_paused_replica_lacks_is_not_acknowledged_though_it_is_served(
    pair: Pair, folder: Path
) -> None:
    config = CONFIG.format(port=pair.master.port)
    async with aiohttp.ClientSession() as session, server(folder, config) as running:
        forge = await forge_for(session, running.base)
        assert await post(session, running.base, signed(forge, "root", "targets")) == 200
        old = signed(forge, "targets")
        forge.targets.version = 2
        forge.targets.targets["2"] = target(b"x", "2")
        files = signed(forge, "targets")
        pair.replica.signal(signal.SIGSTOP)
        for _ in range(2):
            assert await post(session, running.base, files) == 503
            assert await verified(session, running.base, forge) == {"2"}
        # Nor is anything said of it by a conflict.
        forge.targets.version = 1
        forge.targets.targets["1"] = target(b"x", "1")
        assert signed(forge, "targets") != old
        assert await post(session, running.base, signed(forge, "targets")) == 503
        pair.replica.signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            while (status := await post(session, running.base, files)) != 200:
                assert status == 503
        assert await post(session, running.base, old) == 409


async def test_our_client_says_published_only_once_the_server_does(
    pair: Pair, folder: Path, tmp_path: Path
) -> None:
    config = CONFIG.format(port=pair.master.port)
    async with (
        server(folder, config) as running,
        Person(running.url, tmp_path / "home") as owner,
    ):
        await owner.publisher.init(GUN)
        await owner.publisher.sign(GUN, "1", Digest.of(b"1"), 1, publish=False)
        pair.replica.signal(signal.SIGSTOP)
        # One run that is cut off while it tries, and one that finds all of it served.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(owner.publisher.publish(GUN), 1.5)
        with pytest.raises(ServerAnswerError) as caught:
            await owner.publisher.publish(GUN)
        assert caught.value.status == 503
        assert set(await owner.signed(GUN)) == {"1"}
        assert len((await owner.publisher.status(GUN, online=False)).staged) == 1
        signing = asyncio.create_task(owner.sign(GUN, "2"))
        await asyncio.sleep(1.2)  # until its first attempt has failed
        assert not signing.done()
        pair.replica.signal(signal.SIGCONT)
        assert await signing == {"targets": 3}
        assert set(await owner.signed(GUN)) == {"1", "2"}
        await owner.publisher.publish(GUN)
        assert (await owner.publisher.status(GUN)).staged == ()
