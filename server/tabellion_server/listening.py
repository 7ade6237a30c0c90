"""The addresses that requests come to."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from tabellion.errors import ConfigurationError
from tabellion_server.logs import log
from tabellion_server.settings import Settings

BACKLOG: Final = 1024
"""How many connections may wait to be accepted."""


def listen(settings: Settings) -> list[socket.socket]:
    """Listen on all addresses of the settings. Blocks.

    Raises:
        ConfigurationError: One can't be listened on.
    """
    made: list[socket.socket] = []
    for address in settings.listen:
        try:
            found = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # A name may have an address twice.
            for family, place in dict.fromkeys((item[0], item[4]) for item in found):
                made.append(socket.create_server(place[:2], family=family, backlog=BACKLOG))
        except OSError as error:
            for one in made:
                one.close()
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
