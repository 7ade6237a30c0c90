"""A TCP proxy before a real PostgreSQL that loses or holds a COMMIT, or the answer to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

Fault = Literal["lost-commit", "lost-answer", "late-commit", "held-commit", "held-answer"]
_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
_LATE_SECONDS = 1.0


class PostgresProxy:
    """Passes everything on, but for the next COMMIT, with which it does as it is told.

    Attributes:
        port: Where it listens.
        fault: What becomes of the next COMMIT: it or its answer is lost; or the client's
            connection is cut, and the server gets the COMMIT a second later; or it or its answer
            is held until ``release``.
        is_held: Whether something is.
        release: Whether what is held goes on.
        is_down: Whether whoever comes is turned away.
        commits: How many were passed on.
    """

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.fault: Fault | None = None
        self.is_held = asyncio.Event()
        self.release = asyncio.Event()
        self.is_down = False
        self.commits = 0
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, upstream: int) -> AsyncIterator[PostgresProxy]:
        proxy = cls(upstream)
        tasks: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(proxy._serve(reader, writer))
            tasks.add(task)

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        proxy.port = listener.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            listener.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> None:
        """End all connections; others may come."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_down:
            writer.transport.abort()
            return
        server_reader, server = await asyncio.open_connection("127.0.0.1", self._upstream)
        back = asyncio.create_task(_pump(server_reader, writer))
        self._writers |= {writer, server}
        try:
            while data := await reader.read(65_536):
                if data == _COMMIT and self.fault is not None:
                    fault, self.fault = self.fault, None
                    back.cancel()
                    await asyncio.wait([back])
                    if fault in {"held-commit", "held-answer"}:
                        answer = b""
                        if fault == "held-answer":
                            server.write(data)
                            answer = await server_reader.read(65_536)
                        self.is_held.set()
                        await self.release.wait()
                        writer.write(answer)
                        back = asyncio.create_task(_pump(server_reader, writer))
                        if fault == "held-commit":
                            server.write(data)
                        continue
                    if fault == "late-commit":
                        writer.transport.abort()
                        await asyncio.sleep(_LATE_SECONDS)
                    if fault != "lost-commit":
                        server.write(data)
                        await server_reader.read(1)
                    break
                self.commits += data == _COMMIT
                server.write(data)
        except OSError:
            pass
        finally:
            self._writers -= {writer, server}
            back.cancel()
            writer.transport.abort()
            server.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()
