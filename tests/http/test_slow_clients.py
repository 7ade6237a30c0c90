"""Who sends or takes nothing holds no connection for long, and not all of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from certificates import Authority
from forge import target
from http_site import signed
from server_process import CONFIG, GUN, Server, forge_for, post, server

SECONDS = 2
SLOW = CONFIG.replace(
    "[server]", f'[server]\nclient_seconds = {SECONDS}\nconnections = 8\nlog_level = "debug"'
)
FILE = f"GET /v2/{GUN}/_trust/tuf/1.targets.json HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Server]:
    """Give a server that has a targets file of a megabyte or so."""
    async with server(tmp_path, SLOW) as running:
        async with aiohttp.ClientSession() as session:
            forge = await forge_for(session, running.base)
            for number in range(5000):
                name = f"{number:04}-{'x' * 40}"
                forge.targets.targets[name] = target(b"x", name)
            assert await post(session, running.base, signed(forge, "root", "targets")) == 200
        yield running


def sockets_of(running: Server) -> int:
    """Count the sockets that the process holds."""
    links = Path(f"/proc/{running.process.pid}/fd").iterdir()
    found = 0
    for link in links:
        with contextlib.suppress(OSError):
            found += str(link.readlink()).startswith("socket:")
    return found


async def at_rest(running: Server) -> int:
    """Count them once nothing of before is left."""
    await asyncio.sleep(0.3)
    return sockets_of(running)


async def seconds_until_closed(reader: asyncio.StreamReader, started: float) -> float:
    async with asyncio.timeout(SECONDS * 5):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
    return time.monotonic() - started


async def opened(running: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(running.url)
    return await asyncio.open_connection(place.hostname, place.port)


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_head_that_comes_byte_by_byte_ends_the_connection(
    running: Server, before: bytes
) -> None:
    reader, writer = await opened(running)
    writer.write(before)
    if before:
        await reader.readuntil(b"\r\n\r\n")

    async def dribble() -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-More: ")
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.1)

    dribbling = asyncio.create_task(dribble())
    try:
        assert SECONDS / 2 < await seconds_until_closed(reader, time.monotonic()) < SECONDS * 2
    finally:
        writer.close()
        await dribbling


async def test_who_never_reads_the_answers_is_cut_off(running: Server) -> None:
    held = await at_rest(running)
    place = urlsplit(running.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((place.hostname, place.port))
        client.sendall(FILE * 12)
        await asyncio.sleep(SECONDS / 2)
        assert sockets_of(running) == held + 1
        async with asyncio.timeout(SECONDS * 6):
            while sockets_of(running) > held:  # noqa: ASYNC110  (another process's)
                await asyncio.sleep(0.1)


async def test_who_reads_slowly_gets_it_all(running: Server) -> None:
    place = urlsplit(running.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect((place.hostname, place.port))
        client.setblocking(False)  # noqa: FBT003  (the library's)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, FILE)
        started, data = time.monotonic(), b""
        async with asyncio.timeout(60):
            while not data.endswith(b"}"):
                got = await loop.sock_recv(client, 60_000)
                assert got
                data += got
                await asyncio.sleep(0.2)
        head, _, body = data.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert time.monotonic() - started > SECONDS


async def test_more_connections_than_allowed_are_closed_at_once_and_told(running: Server) -> None:
    await at_rest(running)
    idle = [await opened(running) for _ in range(8)]
    await asyncio.sleep(0.2)
    started = time.monotonic()
    reader, writer = await opened(running)
    assert await seconds_until_closed(reader, started) < 1
    writer.close()
    for one, _ in idle:  # whoever sends nothing makes room
        assert await seconds_until_closed(one, started) < SECONDS * 2
    async with aiohttp.ClientSession() as session, session.get(f"{running.url}/readyz") as answer:
        assert answer.status == 200
    for _, one in idle:
        one.close()
    assert sum("connections.full" in line for line in running.log) == 1


async def test_what_readers_look_for_in_vain_is_told_quietly(running: Server) -> None:
    async with aiohttp.ClientSession() as session:
        for url in (f"{running.base}2.root.json", f"{running.url}/v2/none/_trust/tuf/root.json"):
            async with session.get(url) as answer:
                assert answer.status == 404
        async with session.delete(f"{running.url}/v2/none/_trust/tuf/?x") as answer:
            await answer.read()
        assert await post(session, running.base, {"targets": b"{}"}) == 400
    await asyncio.sleep(0.2)
    refused = [line for line in running.log if "request.refused" in line]
    assert len([line for line in refused if "[debug" in line and "status=404" in line]) == 2
    assert len([line for line in refused if "[info" in line and "status=400" in line]) == 1
    assert sum("request.answered" in line and "status=404" in line for line in running.log) == 2


async def test_connections_that_begin_no_tls_count_and_make_room_when_they_end(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.issue("server", alternative="IP:127.0.0.1")
    text = f'{SLOW}\n[server.tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    context = ssl.create_default_context(cafile=str(authority.certificate))
    async with server(tmp_path, text) as running:
        before = await at_rest(running)
        for ends_by_itself in (False, True):
            idle = [await opened(running) for _ in range(30)]
            await asyncio.sleep(0.3)
            assert sockets_of(running) - before == 8
            started = time.monotonic()
            for one, _ in idle if ends_by_itself else ():
                assert await seconds_until_closed(one, started) < SECONDS * 2
            for _, one in idle:
                one.close()
            assert await at_rest(running) == before
            ready = f"{running.url}/readyz"
            async with aiohttp.ClientSession() as session, session.get(ready, ssl=context) as one:
                assert one.status == 200
        assert sum("connections.full" in line for line in running.log) == 1
