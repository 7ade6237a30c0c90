"""A Valkey with ``everysec`` that lost its newest publication: no number gets other content."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from forge import Forge, target
from http_site import signed
from person import Person
from server_process import GUN, Server, forge_for, ground_of, post, server, verified
from valkey_servers import ValkeyServer

CONFIG = """
[server]
listen = "127.0.0.1:0"
[storage]
url = "{url}?timeout=1"
[keys]
master_key_file = "../master.key"
"""
SETTLING_SECONDS = 3.0  # three times the time-out
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"
HEADERS = {"Accept": "application/problem+json"}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyServer]:
    options = ("--appendonly", "yes", "--appendfsync", "everysec")
    started = ValkeyServer(tmp_path / "valkey", *options).start()
    yield started
    started.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ground_of(tmp_path)


def log_of(own: ValkeyServer) -> Path:
    (found,) = (own.folder / "appendonlydir").glob("*.incr.aof")
    return found


async def lose_the_newest(
    own: ValkeyServer,
    session: aiohttp.ClientSession,
    one: Server,
    forge: Forge,
    *,
    steps: int = 0,
) -> None:
    """Publish a version, acknowledged, of which so many steps are left when the server is back."""
    kept = log_of(own).stat().st_size
    forge.targets.version = 2
    forge.targets.targets["2"] = target(b"x", "lost")
    assert await post(session, one.base, signed(forge, "targets")) == 200
    own.kill()
    with log_of(own).open("r+b") as file:
        file.seek(kept)
        parts = file.read().split(_EXEC)
        assert len(parts) > 2
        file.truncate(kept + sum(len(part) + len(_EXEC) for part in parts[:steps]))


@pytest.mark.parametrize("steps", [0, 1], ids=["whole", "meant but not done"])
async def test_while_one_node_alone_knows_what_was_lost_no_other_publishes_in_its_place(
    own: ValkeyServer, folder: Path, steps: int
) -> None:
    config = CONFIG.format(url=own.url)
    async with (
        aiohttp.ClientSession(headers=HEADERS) as session,
        server(folder / "one", config) as one,
        server(folder / "two", config) as two,
    ):
        forge = await forge_for(session, one.base)
        assert await post(session, one.base, signed(forge, "root", "targets")) == 200
        before = await verified(session, two.base, forge)
        await lose_the_newest(own, session, one, forge, steps=steps)
        one.process.send_signal(signal.SIGSTOP)  # so that the other comes first
        await asyncio.to_thread(own.start)
        forge.targets.targets = {"2": target(b"x", "other")}
        other = signed(forge, "targets")
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < SETTLING_SECONDS + 1:
            assert await post(session, two.base, other) == 503, elapsed
            assert await verified(session, two.base, forge) == before
            one.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.05)
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("files", other["targets"], filename="targets")
        async with session.post(two.base, data=form) as answer:
            assert (await answer.json())["code"] == "store-restored"
        assert any("store.restored" in line for line in one.log)


async def test_where_no_node_knows_of_anything_publishing_goes_on_after_the_wait(
    own: ValkeyServer, folder: Path
) -> None:
    config = CONFIG.format(url=own.url)
    async with aiohttp.ClientSession() as session, server(folder / "two", config) as two:
        async with server(folder / "one", config) as one:
            forge = await forge_for(session, one.base)
            assert await post(session, one.base, signed(forge, "root", "targets")) == 200
            await lose_the_newest(own, session, one, forge)
        began = time.monotonic()
        await asyncio.to_thread(own.start)
        answers = [await post(session, two.base, signed(forge, "targets"))]
        while answers[-1] != 200:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.05)
            answers.append(await post(session, two.base, signed(forge, "targets")))
        assert set(answers) == {503, 200}
        assert time.monotonic() - began >= SETTLING_SECONDS
        # It's over for all who write then.
        forge.targets.version = 3
        assert await post(session, two.base, signed(forge, "targets")) == 200


async def test_our_client_waits_for_a_store_that_is_started_anew(
    own: ValkeyServer, folder: Path, tmp_path: Path
) -> None:
    async with (
        server(folder / "one", CONFIG.format(url=own.url)) as running,
        Person(running.url, tmp_path / "home") as owner,
    ):
        await owner.publisher.init(GUN)
        own.stop()
        signing = asyncio.create_task(owner.sign(GUN, "1"))
        await asyncio.sleep(1)
        await asyncio.to_thread(own.start)
        await signing
        assert set(await owner.signed(GUN)) == {"1"}
