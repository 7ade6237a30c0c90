"""Server processes on Valkey: published at one, read at the other; a store that doesn't answer."""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from forge import target
from http_site import signed
from server_process import forge_for, ground_of, post, publish_at_once, server, verified
from valkey_servers import ALWAYS, ValkeyCluster, ValkeyServer


def config_of(url: str, more: str = "") -> str:
    return f"""
[server]
listen = "127.0.0.1:0"
[storage]
url = "{url}"
{more}
[keys]
master_key_file = "../master.key"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ground_of(tmp_path)


@pytest.fixture
def config(valkey_server: ValkeyServer, folder: Path) -> str:
    assert folder.is_dir()
    return config_of(f"{valkey_server.url}?prefix={secrets.token_hex(6)}")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyServer]:
    started = ValkeyServer(tmp_path / "valkey", *ALWAYS).start()
    yield started
    started.kill()


async def test_what_is_published_is_read_at_once_at_the_other_node_and_after_a_restart(
    config: str, folder: Path
) -> None:
    async with aiohttp.ClientSession() as session:
        async with server(folder / "one", config) as one, server(folder / "two", config) as two:
            forge = await forge_for(session, one.base)
            forge.targets.targets["1"] = target(b"x", "1")
            assert await post(session, one.base, signed(forge, "root", "targets")) == 200
            assert await verified(session, two.base, forge) == {"1"}
            for version in range(2, 6):
                here, there = (one, two) if version % 2 else (two, one)
                forge.targets.version = version
                forge.targets.targets[str(version)] = target(b"x", str(version))
                assert await post(session, here.base, signed(forge, "targets")) == 200
                assert str(version) in await verified(session, there.base, forge)
            for running in (one, two):
                running.process.terminate()
                assert await running.process.wait() == 0
        async with server(folder / "two", config) as again:
            assert await verified(session, again.base, forge) == {"1", "2", "3", "4", "5"}


async def test_forty_publishers_at_two_nodes_of_a_cluster_lose_nothing(
    valkey_cluster: ValkeyCluster, folder: Path
) -> None:
    config = config_of(f"{valkey_cluster.url}?prefix={secrets.token_hex(6)}")
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        nodes = [
            await stack.enter_async_context(server(folder / name, config))
            for name in ("one", "two")
        ]
        await publish_at_once(session, nodes)


async def test_a_store_that_does_not_answer_is_told_to_writers_and_heals(
    own: ValkeyServer, folder: Path
) -> None:
    config = config_of(f"{own.url}?timeout=0.5")
    async with aiohttp.ClientSession() as session, server(folder / "one", config) as running:
        forge = await forge_for(session, running.base)
        assert await post(session, running.base, signed(forge, "root", "targets")) == 200
        before = await verified(session, running.base, forge)
        forge.targets.version = 2
        forge.targets.targets["2"] = target(b"x", "2")
        files = signed(forge, "targets")
        own.signal(signal.SIGSTOP)
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("files", files["targets"], filename="targets")
        async with asyncio.timeout(10), session.post(running.base, data=form) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
        async with session.get(f"{running.url}/readyz") as answer:
            assert answer.status == 503
        async with session.get(f"{running.url}/healthz") as answer:
            assert answer.status == 200
        own.signal(signal.SIGCONT)
        assert await verified(session, running.base, forge) == before
        forge.targets.version = 2
        forge.targets.targets["2"] = target(b"x", "2")
        assert await post(session, running.base, signed(forge, "targets")) == 200
        assert "2" in await verified(session, running.base, forge)


async def test_a_password_comes_from_a_file_and_is_never_logged(
    own: ValkeyServer, folder: Path
) -> None:
    own.say("CONFIG", "SET", "requirepass", "correct-horse")
    (folder / "password").write_text("correct-horse\n")
    (folder / "password").chmod(0o600)
    config = config_of(own.url, 'password_file = "../password"\ndurability = "always"')
    async with aiohttp.ClientSession() as session, server(folder / "one", config) as running:
        forge = await forge_for(session, running.base)
        assert await post(session, running.base, signed(forge, "root", "targets")) == 200
        assert not any("correct-horse" in line for line in running.log)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://h:1,i:2/0", "several hosts"),
        ("redis+sentinel://h:1", "service"),
        ("redis+cluster://h:1/3", "database 0"),
        ("redis://h:1/0?prefx=a", "no option"),
        ("redis://h:1/0?sentinel_user=a", "redis+sentinel://"),
        ("redis://h:1/0?timeout=0", "timeout"),
        ("redis://:secret@h:99999/0", "HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_is_told_without_repeating_it(
    tmp_path: Path, url: str, told: str
) -> None:
    path = tmp_path / "server.toml"
    path.write_text(f'[storage]\nurl = "{url}"\n')
    found = subprocess.run(
        [sys.executable, "-m", "tabellion_server", "check-config", "--config", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 2
    assert told in found.stderr
    assert "secret" not in found.stderr
