"""A trust server under the attacker's control: raw HTTP over loopback, any answer to any file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self
from urllib.parse import quote, unquote

from forge import Forge

GUN = "registry.example/team/app"
Answer = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


def version_of(data: bytes) -> int:
    version: int = json.loads(data)["signed"]["version"]
    return version


class Simulator:
    """Serves ``files`` (by name, under one GUN); ``answers`` replaces single ones.

    Attributes:
        files: File name to bytes.
        answers: File name to what is written instead of a proper answer.
        requests: Names of the files asked for, in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.url = ""
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    def publish(self, forge: Forge) -> dict[str, bytes]:
        """Serve a forge's files beside those served already; gives them by name."""
        new = {"timestamp.json": forge.files["timestamp"]}
        for role, data in forge.files.items():
            if role != "timestamp":
                new[f"{version_of(data)}.{quote(role, safe='')}.json"] = data
        self.files |= new
        return new

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            gun, _, name = path.removeprefix("/v2/").partition("/_trust/tuf/")
            self.requests.append(name)
            data = self.files.get(name) if unquote(gun) == GUN else None
            if name in self.answers:
                await self.answers[name](writer, data or b"")
            elif data is None:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            else:
                writer.write(proper_head(len(data)) + data)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._busy.discard(task)
            writer.close()


def proper_head(length: int, *fields: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {length}", "Connection: close", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


async def stall(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send half, then nothing more."""
    writer.write(proper_head(len(data)) + data[: len(data) // 2])
    await writer.drain()
    await asyncio.sleep(60)


async def trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte now and then."""
    writer.write(proper_head(len(data)))
    for position in range(len(data)):
        writer.write(data[position : position + 1])
        await writer.drain()
        await asyncio.sleep(0.05)


async def truncate(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Announce all, send half, close."""
    writer.write(proper_head(len(data)) + data[: len(data) // 2])


async def endless(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Send without end and without announcing a length."""
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(b" " * 65536)
        await writer.drain()


async def announce_too_much(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Announce a terabyte."""
    writer.write(proper_head(1 << 40))
    await writer.drain()
    await asyncio.sleep(60)


async def compressed(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Claim to have compressed the body."""
    writer.write(proper_head(len(data), "Content-Encoding: gzip") + data)


async def garbage(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Send no HTTP at all."""
    writer.write(b"\x00\xff\x00 not HTTP\r\n\r\n")


async def hang_up(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Close without a word."""
    writer.close()


def status(code: int, *fields: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        lines = [f"HTTP/1.1 {code} X", "Content-Length: 0", "Connection: close", *fields]
        writer.write("\r\n".join([*lines, "", ""]).encode())

    return answer
