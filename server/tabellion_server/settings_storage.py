"""``storage.url``: which engine keeps the store, and where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from tabellion_server.storage.redis_address import parse_redis_url

SQLITE: Final = "sqlite:///"
POSTGRES: Final = frozenset({"postgresql", "postgres"})
REDIS: Final = re.compile(r"(redis|valkey)s?(\+(sentinel|cluster))?")
_EXAMPLES: Final = (
    f"{SQLITE}FILE",
    "postgresql://USER@HOST:PORT/DATABASE",
    "redis://HOST:PORT/0",
)
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:@\[\]]+)(:[0-9]{1,5})?")


def sqlite_file(url: str, folder: Path) -> Path | None:
    """Give the file that a store's URL names, relative to ``folder``; None for other engines.

    Raises:
        ValueError: No engine goes by that URL. It isn't repeated: it may hold a password.
    """
    if url.startswith(SQLITE):
        if url == SQLITE or "\0" in url:
            raise ValueError(f"give the file behind {SQLITE}")
        return folder / url.removeprefix(SQLITE)
    scheme = engine_of(url)
    if scheme in POSTGRES:
        _check_postgres(url)
        return None
    if REDIS.fullmatch(scheme):
        parse_redis_url(url)
        return None
    told = f"{scheme}:// is" if scheme.isalnum() else "it's"
    raise ValueError(f"{told} no engine's address; give {' or '.join(_EXAMPLES)}")


def engine_of(url: str) -> str:
    """Give a URL's scheme, empty if it has none."""
    return url.partition("://")[0] if "://" in url else ""


def shown_url(url: str) -> str:
    """Give a URL as it may be told and logged: without password, and options but the prefix."""
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    shown = f"{parts.scheme}://{name}{'@' if name else ''}{place}{parts.path}"
    prefix = dict(parse_qsl(parts.query)).get("prefix") if REDIS.fullmatch(parts.scheme) else None
    return f"{shown}?prefix={prefix}" if prefix else shown


def _check_postgres(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError("it isn't a URL") from error
    hosts = parts.netloc.rpartition("@")[2]
    is_readable = all(_HOST.fullmatch(host) for host in hosts.split(",")) or not hosts
    # A password with such a sign ends early, and its rest must not be taken for a name.
    if not is_readable or "@" in parts.path or parts.fragment or not url.isprintable():
        raise ValueError(
            f"it can't be read as {_EXAMPLES[1]}: write signs such as / @ : # ? of a user or "
            "password as %2F %40 %3A %23 %3F, or use storage.password_file"
        )
    if not parts.path.strip("/") or "/" in parts.path[1:]:
        raise ValueError(f"name one database: {_EXAMPLES[1]}")
