"""What of a PostgreSQL server's set-up the store's promises rest on; looked at when it's opened."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from tabellion_server.logs import log
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.postgres_link import Connection, Place

_MIN_SERVER: Final = 130_000
_LOSES: Final = {
    "fsync": "a crash of its machine may lose or damage what was acknowledged",
    "full_page_writes": "a crash of its machine may damage what was acknowledged",
    "synchronous_commit": "it would lose the newest second in a crash, so this store turns it on "
    "in each transaction of its own",
}
# A pooler has made up the number that came with the connection.
_PID: Final = "SELECT pg_backend_pid()"
_VERIFIED: Final = ("verify-ca", "verify-full")


async def check_server(connection: Connection, place: Place) -> None:
    """Refuse a server that can't do it; say in the log what it doesn't promise.

    Raises:
        StorageError: It's too old, or behind a pooler that mustn't be asked as it would be.
    """
    if place.prepares and connection.get_server_pid() != await connection.fetchval(_PID):
        raise StorageError(
            f"store {place.name} is behind a connection pooler, which may give the statements "
            "prepared here to somebody else",
            hint="set storage.prepared_statements = false",
        )
    version = int(await connection.fetchval("SHOW server_version_num"))
    if version < _MIN_SERVER:
        raise StorageError(
            f"store {place.name} is PostgreSQL {version // 10_000}; 13 or newer is needed",
            hint="upgrade its server",
        )
    for setting, loses in _LOSES.items():
        if await connection.fetchval("SELECT current_setting($1)", setting) == "off":
            log().warning(
                "store.durability",
                problem=f"acknowledged publications may be lost: store {place.name} has {setting} "
                f"off: {loses}",
                hint=f"set {setting} = on in its postgresql.conf",
            )
    if await connection.fetchval("SHOW default_transaction_read_only") == "on":
        log().warning(
            "store.read_only",
            problem=f"nothing can be published: store {place.name} has "
            "default_transaction_read_only on",
            hint="ALTER DATABASE ... RESET default_transaction_read_only",
        )
    if not _is_verified(place.url):
        log().warning(
            "store.link_not_verified",
            problem=f"whoever is between here and store {place.name} can read and change it",
            hint="add ?sslmode=verify-full&sslrootcert=FILE to storage.url",
        )


def _is_verified(url: str) -> bool:
    """Tell whether the way to the server can't be tampered with.

    What the URL leaves open is taken from the environment, as the driver does.
    """
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    named = parts.netloc.rpartition("@")[2] or options.get("host") or os.environ.get("PGHOST", "")
    if all(_is_near(place) for place in named.split(",")):
        return True
    mode = options.get("sslmode") or os.environ.get("PGSSLMODE")
    has_ca = "sslrootcert" in options or "PGSSLROOTCERT" in os.environ
    return mode in _VERIFIED or (mode == "require" and has_ca)  # which the driver then verifies by


def _is_near(place: str) -> bool:
    """Tell whether a host, with or without its port, is this machine, or a socket's folder."""
    host = re.sub(r"(?<!:):\d*$", "", unquote(place)).strip("[]")
    if host in {"", "localhost"} or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
