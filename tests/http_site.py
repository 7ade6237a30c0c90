from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, FormData
from aiohttp.test_utils import TestClient
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Root, Targets
from yarl import URL

from forge import Forge
from tabellion_server.storage.sqlite import SqliteStore

GUN = "registry.example/team/app"


@dataclass
class Clock:
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Site:
    """A real server on loopback, and what a publisher and a reader do with it."""

    client: TestClient[Any, Any]
    store: SqliteStore
    clock: Clock
    gun: str = GUN

    def url(self, name: str) -> URL:
        return URL(str(self.client.make_url(f"/v2/{self.gun}/_trust/tuf/")) + name, encoded=True)

    def at(self, path: str) -> URL:
        """Give an address just as written, however odd."""
        return URL(str(self.client.make_url("/"))[:-1] + path, encoded=True)

    async def get(self, name: str, **headers: str) -> ClientResponse:
        return await self.client.session.get(self.url(name), headers=headers)

    async def body(self, name: str) -> bytes:
        response = await self.get(name)
        assert response.status == 200, await response.text()
        return await response.read()

    async def post(self, files: Mapping[str, bytes], **headers: str) -> ClientResponse:
        form = FormData(quote_fields=False)
        for role, data in files.items():
            form.add_field("files", BytesIO(data), filename=role)
        return await self.client.session.post(self.url(""), data=form, headers=headers)

    async def offer(self, files: Mapping[str, bytes], **headers: str) -> ClientResponse:
        """Offer a pending proposal, or signatures of one."""
        form = FormData(quote_fields=False)
        for role, data in files.items():
            form.add_field("files", BytesIO(data), filename=role)
        url = self.at(f"/v1/guns/{self.gun}/pending")
        return await self.client.session.post(url, data=form, headers=headers)

    async def key(self, role: str) -> Key:
        response = await self.get(f"{role}.key?dialect=tuf")
        assert response.status == 200
        fields = await response.json()
        return Key.from_dict(fields.pop("keyid"), fields)

    async def forge(self) -> Forge:
        """Make a publisher whose root names the server's online keys."""
        forge = Forge()
        root: Root = forge.root
        for role in ("snapshot", "timestamp"):
            root.revoke_key(root.roles[role].keyids[0], role)
            root.add_key(await self.key(role), role)
        return forge

    async def publish(self, forge: Forge, *roles: str) -> dict[str, Any]:
        response = await self.post(signed(forge, *roles))
        assert response.status == 200, await response.text()
        return dict(await response.json())

    async def everything(self) -> list[str]:
        """Give every row of the store."""
        return await asyncio.to_thread(dump, self.store._path)

    async def raw(self, request: bytes) -> tuple[int, str]:
        """Send bytes as they are; give the first answer, its status apart."""
        reader, writer = await asyncio.open_connection(self.client.host, self.client.port)
        try:
            writer.write(request)
            async with asyncio.timeout(20):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)^content-length: *([0-9]+)", head, re.MULTILINE)
                body = await reader.readexactly(int(length[1]) if length else 0)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        return int(head.split(" ", 2)[1]), head + body.decode("latin-1")


def dump(store: Path) -> list[str]:
    """Give every row of a store's file."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return list(connection.iterdump())


def signed(forge: Forge, *roles: str) -> dict[str, bytes]:
    return {role: forge.sign(role, payload(forge, role)) for role in roles}


def payload(forge: Forge, role: str) -> Root | Targets:
    if role == "root":
        return forge.root
    return forge.targets if role == "targets" else forge.delegated[role]


def new_signer() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


@contextlib.contextmanager
def raw_answer(answer: bytes) -> Iterator[int]:
    """Listen on loopback and give every request that one answer; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
