"""A trust server under the attacker's control: a whole repository in memory, over raw HTTP.

Raw, so that a test may answer a request with anything that can stand on a wire.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import ssl
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner, Signer

from forge import Forge, target
from tabellion.core.dialect import TUF

GUN = "registry.example/team/app"
IMAGE = f"{GUN}:1.2"
_LENGTH = re.compile(rb"(?i)content-length: *([0-9]+)")
Answer = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


def version_of(data: bytes) -> int:
    version: int = json.loads(data)["signed"]["version"]
    return version


class Simulator:
    """Signs with a forge and serves ``files``, whatever the folder; the verbs publish.

    Attributes:
        forge: Keys and payloads of the repository.
        files: File name to bytes.
        answers: File name to what is written instead of a proper answer.
        requests: Names of the files asked for, in order.
        url: Base URL of the server.
    """

    def __init__(self, forge: Forge | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.forge = forge or Forge()
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.url = ""
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        # The name is in test certificates; without TLS the address needs no resolver.
        self.url = f"https://localhost:{port}" if self._tls else f"http://127.0.0.1:{port}"
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

    async def until_asked(self, name: str) -> None:
        """Wait for a request."""
        while name not in self.requests:  # noqa: ASYNC110  (a test's patience, not a design)
            await asyncio.sleep(0.01)

    def publish(self, **expiries: datetime) -> dict[str, bytes]:
        """Sign the payloads, at the versions that they have, and serve them."""
        self.forge.release(**expiries)
        return self.serve()

    def serve(self) -> dict[str, bytes]:
        """Serve what is signed beside what is served already; give the new files by name."""
        new = {"timestamp.json": self.forge.files["timestamp"]}
        for role, data in self.forge.files.items():
            name = f"{version_of(data)}.{quote(role, safe='')}.json"
            if role == "root":
                # Served once: signing again would lose the signatures of the root before.
                new[name] = self.files.get(name, data)
            elif role != "timestamp":
                new[name] = data
        self.files |= new
        return new

    def publish_root(self, *also: Signer) -> bytes:
        """Serve the next root, signed by its own keys and ``also``."""
        self.forge.root.version += 1
        data = TUF.sign(self.forge.root, [*also, *self.forge.signers["root"]])
        self.files[f"{self.forge.root.version}.root.json"] = self.forge.files["root"] = data
        return data

    def rotate_keys(self, role: str) -> CryptoSigner:
        """Replace a top-level role's keys in a next root that the old root keys sign too."""
        old_root, old = self.forge.signers["root"], self.forge.signers[role]
        new = CryptoSigner.generate_ed25519()
        for signer in old:
            self.forge.root.revoke_key(signer.public_key.keyid, role)
        self.forge.root.add_key(new.public_key, role)
        self.forge.signers[role] = [new]
        self.publish_root(*(old_root if role == "root" else ()))
        return new

    def publish_target(self, content: bytes, path: str = "1.2", role: str = "targets") -> None:
        """Release a role's next version that signs ``content``."""
        payload = self.forge.targets if role == "targets" else self.forge.delegated[role]
        payload.version += 1
        payload.targets[path] = target(content, path)
        self.publish()

    def add_delegation(self, name: str, paths: list[str], *, terminating: bool = False) -> None:
        """Release targets that delegate to a new role, and that role, empty."""
        self.forge.delegate(name, paths, terminating=terminating)
        self.forge.targets.version += 1
        self.publish()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            while (first := await reader.read(1)).isalpha():  # anything else, TLS, is hung up on
                request = first + await reader.readuntil(b"\r\n\r\n")
                name = request.split(b" ")[1].decode().rpartition("/")[2]
                self.requests.append(name)
                if length := _LENGTH.search(request):
                    await reader.readexactly(int(length[1]))
                data = self.files.get(name)
                if name in self.answers:
                    await self.answers[name](writer, data or b"")
                    break
                writer.write(NOT_FOUND if data is None else proper_head(len(data)) + data)
                await writer.drain()
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._busy.discard(task)
            writer.close()


def proper_head(length: int, *fields: str) -> bytes:
    return head(200, f"Content-Length: {length}", *fields)


def head(code: int, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {code} X", *fields, "", ""]).encode()


NOT_FOUND = head(404, "Content-Length: 0")


async def stall(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Announce more than is sent, then send nothing more."""
    writer.write(proper_head(len(data) + 1000) + data[: len(data) // 2])
    await writer.drain()
    await asyncio.sleep(60)


async def silence(_: asyncio.StreamWriter, __: bytes) -> None:
    """Take the request and never answer."""
    await asyncio.sleep(60)


async def trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte now and then."""
    writer.write(proper_head(max(len(data), 1000)))
    for byte in data or b" " * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)


async def truncate(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Announce more than is sent, then hang up."""
    writer.write(proper_head(len(data) + 1000) + data[: len(data) // 2])


async def endless(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Send without end and without announcing a length."""
    writer.write(head(200, "Connection: close"))
    while True:
        writer.write(b" " * 65536)
        await writer.drain()


async def unannounced(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a file without its length; the end of the connection ends it."""
    writer.write(head(200, "Connection: close") + data)


async def announce_too_much(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Announce a terabyte."""
    writer.write(proper_head(1 << 40))
    await writer.drain()
    await asyncio.sleep(60)


async def compressed(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Claim to have compressed the body."""
    writer.write(proper_head(len(data), "Content-Encoding: gzip") + data)


async def bomb(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Send 64 KiB that unfold to 64 MiB."""
    data = gzip.compress(bytes(1 << 26))
    writer.write(proper_head(len(data), "Content-Encoding: gzip") + data)


async def header_flood(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Send header fields without end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(1 << 20):
        writer.write(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        await writer.drain()


async def early_hints(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Send interim answers without end."""
    while True:
        writer.write(head(103, "Link: </x>"))
        await writer.drain()
        await asyncio.sleep(0)


async def garbage(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Send no HTTP at all."""
    writer.write(b"\x00\xff\x00 not HTTP\r\n\r\n")


async def hang_up(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Close without a word."""
    writer.close()


async def html(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Answer as a hotel's network does."""
    writer.write(proper_head(20, "Content-Type: text/html") + b"<html>welcome</html>")


async def unknown_gun(writer: asyncio.StreamWriter, _: bytes) -> None:
    """Answer as a Tabellion server that holds nothing of the GUN."""
    problem = b'{"type": "urn:tabellion:problem:unknown-gun", "status": 404}'
    fields = f"Content-Length: {len(problem)}", "Content-Type: application/problem+json"
    writer.write(head(404, *fields) + problem)


def status(code: int, *fields: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        length = () if code in {204, 304} or code < 200 else ("Content-Length: 0",)
        writer.write(head(code, *length, "Connection: close", *fields))

    return answer


def redirect(location: str) -> Answer:
    return status(302, f"Location: {location}")
