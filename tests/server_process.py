"""The server as a process on loopback, and a publisher and a reader beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from securesystemslib.signer import Key

from forge import Forge, target
from http_site import signed

GUN = "registry.example/app"
_PUBLISHERS = 40
CONFIG = """
[server]
listen = "127.0.0.1:0"
[storage]
url = "sqlite:///store/tabellion.db"
"""


def write_master_key(folder: Path) -> Path:
    """Write the key that all nodes of a shared store have; it's made by nobody."""
    key = folder / "master.key"
    key.write_text("A" * 43 + "=")
    key.chmod(0o600)
    return key


def ground_of(folder: Path) -> Path:
    """Make a folder for each of two nodes, and the master key that they share."""
    write_master_key(folder)
    for name in ("one", "two"):
        (folder / name).mkdir()
    return folder


class Server:
    """``python -m tabellion_server serve``, and where its GUN is."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url
        self.base = f"{url}/v2/{GUN}/_trust/tuf/"
        self.log: list[str] = []


@asynccontextmanager
async def server(folder: Path, text: str = CONFIG) -> AsyncIterator[Server]:
    config = folder / "server.toml"
    config.write_text(text)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", "serve", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    seen = b""
    while not (found := re.search(rb"listening\s+url=(\S+)", seen)):
        line = await asyncio.wait_for(process.stderr.readline(), 30)
        assert line, seen
        seen += line
    running = Server(process, found[1].decode())

    async def collect(stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            running.log.append(line.decode())

    reading = asyncio.create_task(collect(process.stderr))
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def forge_for(session: aiohttp.ClientSession, base: str) -> Forge:
    forge = Forge()
    for role in ("snapshot", "timestamp"):
        async with session.get(f"{base}{role}.key?dialect=tuf") as response:
            fields = await response.json()
        forge.root.revoke_key(forge.root.roles[role].keyids[0], role)
        forge.root.add_key(Key.from_dict(fields.pop("keyid"), fields), role)
    return forge


async def post(session: aiohttp.ClientSession, base: str, files: dict[str, bytes]) -> int:
    form = aiohttp.FormData(quote_fields=False)
    for role, data in files.items():
        form.add_field("files", data, filename=role)
    async with session.post(base, data=form) as response:
        await response.read()
        return response.status


async def verified(session: aiohttp.ClientSession, base: str, forge: Forge) -> set[str]:
    """Read the whole set as a client does; give the target paths."""

    async def get(name: str) -> bytes:
        async with session.get(base + name) as response:
            assert response.status == 200, name
            return await response.read()

    def named(by: str, role: str) -> str:
        meta = json.loads(forge.files[by])["signed"]["meta"]
        return f"{meta[f'{role}.json']['version']}.{role}.json"

    forge.files["timestamp"] = await get("timestamp.json")
    forge.files["snapshot"] = await get(named("timestamp", "snapshot"))
    forge.files["targets"] = await get(named("snapshot", "targets"))
    forge.files["root"] = await get("root.json")
    trusted = forge.trusted(now=datetime.now(UTC))
    role = trusted.role("targets", "root")
    assert role is not None
    return set(role.signed.targets)


async def publish_at_once(session: aiohttp.ClientSession, nodes: Sequence[Server]) -> None:
    """Have forty publishers at several nodes publish at once; all of it is there afterwards."""
    forge = await forge_for(session, nodes[0].base)
    assert await post(session, nodes[0].base, signed(forge, "root", "targets")) == 200
    published: set[str] = set()

    async def publish(number: int, node: Server) -> None:
        path = str(number)
        while True:
            # What is there is known here, so only the race itself can lose something.
            forge.targets.version = len(published) + 2
            forge.targets.targets = {name: target(b"x", name) for name in {*published, path}}
            status = await post(session, node.base, signed(forge, "targets"))
            if status == 200:
                published.add(path)
                return
            assert status in {409, 422}
            await asyncio.sleep(0.01)

    async with asyncio.timeout(120):
        await asyncio.gather(
            *[publish(number, nodes[number % len(nodes)]) for number in range(_PUBLISHERS)]
        )
    for node in nodes:
        assert await verified(session, node.base, forge) == set(map(str, range(_PUBLISHERS)))
