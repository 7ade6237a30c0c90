"""The demo's villains: a mirror on loopback that shows other files, and a thief of server keys."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer

from tabellion.errors import UnreachableError

# What whoever is root on the server's machine can do: the store and the master key lie there.
_THEFT = """
import asyncio, json, sys
from pathlib import Path
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.storage.sqlite import SqliteStore

async def main(folder, gun):
    store = await SqliteStore.open(folder / "tabellion.db")
    keys = OnlineKeys(store, MasterKey.load_or_create(folder / "master.key", create=False))
    stolen = {}
    for role in ("snapshot", "timestamp"):
        keyid = (await keys.public_key(gun, role)).keyid
        stolen[role] = (await keys.signer(gun, role, keyid)).private_bytes.decode()
    await store.close()
    print(json.dumps(stolen))

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


async def steal_online_keys(folder: Path, gun: str) -> dict[str, Signer]:
    """Take the server's snapshot and timestamp keys of a GUN from its folder.

    Raises:
        UnreachableError: They can't be read.
    """
    thief = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _THEFT, str(folder), gun, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await thief.communicate()
    if thief.returncode != 0:
        raise UnreachableError(f"the keys in {folder} can't be read")
    return {
        role: CryptoSigner(load_pem_private_key(pem.encode(), None))
        for role, pem in json.loads(output).items()
    }


class Mirror:
    """Stands between a client and the server, as a proxy, CDN or stolen DNS name would.

    Attributes:
        url: Where clients find it.
        replaced: File name (``timestamp.json``, ``2.targets.json``) to the bytes shown instead.
    """

    def __init__(self, server: str) -> None:
        self.url = ""
        self.replaced: dict[str, bytes] = {}
        self._server = server
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._session = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening; fine if it never did."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def saved(self, gun: str, file_name: str) -> bytes:
        """Fetch a file as the server shows it now, to be shown again later."""
        status, data = await self._fetch(f"/v2/{gun}/_trust/tuf/{file_name}")
        if status != web.HTTPOk.status_code:
            raise UnreachableError(f"the server answered {status} for {file_name}")
        return data

    async def offer(self, gun: str, role: str, data: bytes) -> tuple[int, str]:
        """Upload a file to the server, as anybody with write access could.

        Returns:
            The status, and what the server says about it.
        """
        form = aiohttp.FormData()
        form.add_field("files", data, filename=role, content_type="application/octet-stream")
        url = f"{self._server}/v2/{gun}/_trust/tuf/"
        async with self._opened().post(url, data=form) as response:
            problem = await response.json(content_type=None)
            return response.status, str(problem.get("detail") or problem)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("not started")
        return self._session

    async def _fetch(self, path: str) -> tuple[int, bytes]:
        async with self._opened().get(self._server + path) as response:
            return response.status, await response.read()

    async def _answer(self, request: web.Request) -> web.Response:
        replacement = self.replaced.get(request.path.rpartition("/")[2])
        if replacement is not None:
            return web.Response(body=replacement, content_type="application/json")
        status, data = await self._fetch(request.raw_path)
        return web.Response(status=status, body=data, content_type="application/json")
