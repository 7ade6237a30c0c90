"""The addresses that requests come to."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final, Protocol

from tabellion.errors import ConfigurationError
from tabellion_server.logs import log
from tabellion_server.settings import Settings

BACKLOG: Final = 1024
"""How many connections may wait to be accepted."""


class Door(Protocol):
    """Who says whether an accepted connection may stay, and is told when it's closed."""

    def let_in(self, taken: socket.socket) -> None:
        """Raise ConnectionAbortedError if it may not; it's closed then."""

    def let_out(self, taken: socket.socket) -> None:
        """Be told that it's closed."""


class _Taken(socket.socket):
    """A connection that says when it's closed."""

    door: Door | None = None

    def close(self) -> None:
        if self.door is not None:
            self.door.let_out(self)
        super().close()


class Listening(socket.socket):
    """A socket that listens; connections come through its door, if it has one.

    Only here a connection is known from its first to its last moment: asyncio makes its protocol
    before a TLS handshake, and tells nobody if there is none.
    """

    door: Door | None = None

    def accept(self) -> tuple[socket.socket, object]:
        """Accept a connection.

        Raises:
            ConnectionAbortedError: It may not stay; asyncio then goes on.
        """
        plain, address = super().accept()
        taken = _Taken(plain.family, plain.type, plain.proto, fileno=plain.detach())
        if self.door is not None:
            self.door.let_in(taken)
            taken.door = self.door
        return taken, address


def listen(settings: Settings) -> list[Listening]:
    """Listen on all addresses of the settings. Blocks.

    Raises:
        ConfigurationError: One can't be listened on.
    """
    made: list[Listening] = []
    for address in settings.listen:
        try:
            found = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # A name may have an address twice.
            for family, place in dict.fromkeys((item[0], item[4]) for item in found):
                one = socket.create_server(place[:2], family=family, backlog=BACKLOG)
                made.append(Listening(one.family, one.type, one.proto, fileno=one.detach()))
        except OSError as error:
            for each in made:
                each.close()
            raise ConfigurationError(
                f"can't listen on {address.host}:{address.port}: {error.strerror or error}",
                hint="end what listens there, or change server.listen",
            ) from error
    return made


def tell_listening(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """Log where requests are answered, and what is worth a warning about it."""
    scheme = "http" if settings.certificate is None else "https"
    if settings.certificate is None and not settings.is_loopback_only:
        log().warning("no_tls", hint="put a TLS proxy in front, or set server.tls")
    if settings.is_open and not settings.is_loopback_only:
        log().warning(
            "open_to_all",
            problem="whoever reaches this server may publish, rotate its keys and delete GUNs",
            hint="let only publishers reach it, or set server.write_token_file or a token service",
        )
    for one in sockets:
        host, port = one.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log().info("listening", url=f"{scheme}://{shown}:{port}")
