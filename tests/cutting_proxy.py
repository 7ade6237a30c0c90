"""A TCP proxy before a real server that loses answers, or lets something happen before them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

Hook = Callable[[], Awaitable[object]]


class CuttingProxy:
    """Passes everything on, but for publications (POST) does as it is told.

    Attributes:
        url: Its address.
        cuts: How many answers to publications to lose from now on.
        delay_seconds: How long it holds each answer to a publication back.
        before: Awaited once, before the next publication is passed on.
        after: Awaited once, after the next publication was answered, before that is lost.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self.url = ""
        self.cuts = 0
        self.delay_seconds = 0.0
        self.before: Hook | None = None
        self.after: Hook | None = None
        self._posting: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, upstream, writer))
                group.create_task(self._answer(upstream_reader, writer, upstream))
        except* OSError:
            pass
        finally:
            self._posting.discard(writer)
            for end in (writer, upstream):
                end.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, client: object
    ) -> None:
        while data := await reader.read(65_536):
            if data.startswith(b"POST "):
                hook, self.before = self.before, None
                if hook is not None:
                    await hook()
                assert isinstance(client, asyncio.StreamWriter)
                self._posting.add(client)
            upstream.write(data)
            await upstream.drain()
        upstream.close()

    async def _answer(
        self,
        upstream_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: asyncio.StreamWriter,
    ) -> None:
        while data := await upstream_reader.read(65_536):
            if writer in self._posting:
                self._posting.discard(writer)
                await asyncio.sleep(self.delay_seconds)
                if self.cuts > 0:
                    self.cuts -= 1
                    hook, self.after = self.after, None
                    if hook is not None:
                        await hook()
                    break
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
        upstream.transport.abort()


@contextlib.asynccontextmanager
async def cutting_proxy(url: str) -> AsyncIterator[CuttingProxy]:
    """Run a proxy in this loop."""
    proxy = CuttingProxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
