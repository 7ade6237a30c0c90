"""A real HTTP server on loopback that serves metadata, honestly or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from forge import Forge

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Mirror:
    """Files by name under one GUN; ``faults`` answer in a file's place.

    Attributes:
        files: File name to bytes, such as ``3.snapshot.json``.
        faults: File name to a handler that misbehaves.
        requests: Names asked, in order.
        url: Base URL of the server.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def publish(self, forge: Forge) -> None:
        """Serve what the forge signed last, beside all before."""
        forge.release()
        versions = {
            "root": forge.root.version,
            "targets": forge.targets.version,
            **{role: item.version for role, item in forge.delegated.items()},
        }
        snapshots = sum(name.endswith(".snapshot.json") for name in self.files)
        versions["snapshot"] = snapshots + 1
        for role, version in versions.items():
            self.files[f"{version}.{role}.json"] = forge.files[role]
        self.files["timestamp.json"] = forge.files["timestamp"]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        self.requests.append(name)
        if name in self.faults:
            return await self.faults[name](request)
        if name not in self.files:
            raise web.HTTPNotFound
        return web.Response(body=self.files[name])


@asynccontextmanager
async def serving(mirror: Mirror) -> AsyncIterator[Mirror]:
    app = web.Application()
    app.router.add_get("/{tail:.*}", mirror.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    mirror.url = f"http://127.0.0.1:{port}"
    try:
        yield mirror
    finally:
        await runner.cleanup()


async def stall(request: web.Request) -> web.StreamResponse:
    """Begin an answer and never end it."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"{")
    await asyncio.sleep(30)
    return response


async def cut_short(request: web.Request) -> web.StreamResponse:
    """Announce more than is sent, then hang up."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"signed"')
    assert request.transport is not None
    request.transport.close()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    """Send without end, as far as the reader takes it."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for _ in range(2000):
        await response.write(b" " * 65_536)
    return response


async def compressed(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})


async def elsewhere(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://localhost:1/other")


async def broken(_: web.Request) -> web.StreamResponse:
    raise web.HTTPInternalServerError


async def unknown_gun(_: web.Request) -> web.StreamResponse:
    """Answer as a Tabellion server that holds nothing of the GUN."""
    problem = {"type": "urn:tabellion:problem:unknown-gun", "code": "unknown-gun", "status": 404}
    return web.json_response(problem, status=404, content_type="application/problem+json")


async def html(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>welcome to the hotel network</html>", content_type="text/html")
