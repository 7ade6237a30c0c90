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
import weakref
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from tabellion_server.listening import BACKLOG, Listening
from tabellion_server.logs import log
from tabellion_server.settings import Settings

_TOLD_SECONDS: Final = 60.0  # from one warning to the next
_MILLISECONDS: Final = 1000


class Door:
    """Lets connections in, those too whose TLS handshake isn't done; closes what is too many."""

    def __init__(self, at_most: int) -> None:
        """Take how many are inside at most."""
        self._at_most = at_most
        self._inside: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._told_at = -_TOLD_SECONDS

    def let_in(self, taken: socket.socket) -> None:
        """Count an accepted connection until it's closed.

        Raises:
            ConnectionAbortedError: It's too many, and closed; asyncio then goes on.
        """
        if len(self._inside) < self._at_most:
            self._inside.add(taken)
            return
        taken.close()
        if time.monotonic() - self._told_at >= _TOLD_SECONDS:
            self._told_at = time.monotonic()
            log().warning(
                "connections.full",
                at_most=self._at_most,
                hint="raise server.connections and the limit of open files, or look who holds them",
            )
        raise ConnectionAbortedError

    def let_out(self, taken: socket.socket) -> None:
        """Count one no more."""
        self._inside.discard(taken)


async def open_door(
    settings: Settings,
    server: web.Server,
    sockets: Sequence[Listening],
    tls: ssl.SSLContext | None,
) -> list[asyncio.Server]:
    """Accept connections; closing what is given ends that."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    at_most = settings.client_connections
    if files != resource.RLIM_INFINITY:
        at_most = min(at_most, max(1, files * 3 // 4))  # the store needs some, too
    door = Door(at_most)
    loop = asyncio.get_running_loop()
    seconds = settings.client_seconds
    opened: list[asyncio.Server] = []
    for one in sockets:
        with contextlib.suppress(AttributeError):  # not on every system
            # Counts while nothing of what was sent is taken; accepted connections inherit it.
            option = socket.TCP_USER_TIMEOUT
            one.setsockopt(socket.IPPROTO_TCP, option, seconds * _MILLISECONDS)
        one.door = door
        opened.append(
            await loop.create_server(
                server,
                sock=one,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=seconds if tls else None,
            )
        )
    return opened
