"""``storage.url``: which engine keeps the store, and where."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
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
_POSTGRES, _REDIS = "PostgreSQL", "Redis or Valkey"
# What a key of [storage] is for; one that isn't here is for all engines.
_ONLY_FOR: Final[Mapping[str, frozenset[str]]] = {
    "password_file": frozenset({_POSTGRES, _REDIS}),
    "connections": frozenset({_POSTGRES, _REDIS}),
    "prepared_statements": frozenset({_POSTGRES}),
    "sentinel_password_file": frozenset({_REDIS}),
    "ca_file": frozenset({_REDIS}),
    "durability": frozenset({_REDIS}),
    "replicas": frozenset({_REDIS}),
}
# What asyncpg takes; it would send any other to the database as a setting of the session.
_POSTGRES_OPTIONS: Final = frozenset(
    {
        *("host", "port", "dbname", "database", "user", "password", "passfile", "service"),
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl"),
        *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("target_session_attrs", "krbsrvname", "gsslib"),
    }
)
_TLS: Final = frozenset({"rediss", "valkeys"})
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
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


def misplaced(url: str, key: str) -> str | None:
    """Say why a key of ``[storage]`` means nothing to the engine of a URL; None if it does.

    Args:
        url: An engine's address.
        key: The key, without its section.
    """
    scheme = engine_of(url)
    redis = REDIS.fullmatch(scheme)
    engine = _REDIS if redis else _POSTGRES if scheme in POSTGRES else "SQLite"
    wanted = _ONLY_FOR.get(key, {engine})
    if engine not in wanted:
        return f"it's for {', '.join(sorted(wanted))}, but storage.url is {scheme}://; mend one"
    if key == "ca_file" and scheme.partition("+")[0] not in _TLS:
        return "it's for TLS: write rediss:// in storage.url, or leave it out"
    if key == "sentinel_password_file" and not scheme.endswith("+sentinel"):
        return "it's for redis+sentinel:// in storage.url; leave it out"
    return None


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
    _check_options(parts.query)


def _check_options(query: str) -> None:
    try:
        options = dict(parse_qsl(query, strict_parsing=True)) if query else {}
    except ValueError:
        raise ValueError("write its options as ?NAME=VALUE&NAME=VALUE") from None
    unknown = sorted(options.keys() - _POSTGRES_OPTIONS)
    if unknown:
        near = difflib.get_close_matches(unknown[0], _POSTGRES_OPTIONS, n=1)
        meant = f"; is it {near[0]}?" if near else ""
        raise ValueError(
            f"there's no option {unknown[0][:40]!r}{meant} (settings of the database's own are "
            "made there: ALTER ROLE ... SET)"
        )
    mode = options.get("sslmode")
    if mode is not None and mode not in _SSL_MODES:
        raise ValueError(f"sslmode is one of {', '.join(_SSL_MODES)}")
