"""Who may hold a connection: so many at once, and none for doing nothing.

A client has ``server.client_seconds`` for a TLS handshake and for each request's head, also for
the next one of a connection that is kept; who takes nothing of an answer for as long is cut off,
by the kernel where it can. The body of a publication has a bound of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from tabellion_server.listening import BACKLOG
from tabellion_server.logs import log
from tabellion_server.settings import Settings

_TOLD_SECONDS: Final = 60.0  # from one warning to the next
_MILLISECONDS: Final = 1000


class Door:
    """Makes what answers a connection, or closes one that is too many."""

    def __init__(self, server: web.Server, *, at_most: int) -> None:
        self._server = server
        self._at_most = at_most
        self._told_at = -_TOLD_SECONDS

    def __call__(self) -> asyncio.Protocol:
        """Give the protocol of a new connection."""
        if len(self._server.connections) < self._at_most:
            return self._server()
        if time.monotonic() - self._told_at >= _TOLD_SECONDS:
            self._told_at = time.monotonic()
            log().warning(
                "connections.full",
                at_most=self._at_most,
                hint="raise server.connections and the limit of open files, or look who holds them",
            )
        return _TooMany()


class _TooMany(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def open_door(
    settings: Settings,
    server: web.Server,
    sockets: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
) -> list[asyncio.Server]:
    """Accept connections; closing what is given ends that."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    at_most = settings.client_connections
    if files != resource.RLIM_INFINITY:
        at_most = min(at_most, max(1, files * 3 // 4))  # the store needs some, too
    door = Door(server, at_most=at_most)
    loop = asyncio.get_running_loop()
    seconds = settings.client_seconds
    opened: list[asyncio.Server] = []
    for one in sockets:
        with contextlib.suppress(AttributeError):  # not on every system
            # Counts while nothing of what was sent is taken; accepted connections inherit it.
            option = socket.TCP_USER_TIMEOUT
            one.setsockopt(socket.IPPROTO_TCP, option, seconds * _MILLISECONDS)
        opened.append(
            await loop.create_server(
                door,
                sock=one,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=seconds if tls else None,
            )
        )
    return opened
