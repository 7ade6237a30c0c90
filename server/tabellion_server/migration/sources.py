"""Opening what ``--server-db`` and ``--signer-db`` name: PostgreSQL, MySQL or a dump's file.

A live database is read in one read-only transaction with one snapshot, so that the Notary server
may go on meanwhile. Passwords come from the address or, better, PGPASSWORD and MYSQL_PWD.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from tabellion.errors import ConfigurationError
from tabellion_server.migration.dump import spool_dump
from tabellion_server.migration.rows import Source
from tabellion_server.migration.sql_source import SqlSource

_POSTGRESQL: Final = frozenset({"postgresql", "postgres"})
_MYSQL: Final = frozenset({"mysql", "mariadb"})
_MYSQL_PORT: Final = 3306
_CONNECT_SECONDS: Final = 15
_MAX_REASON: Final = 300
_EXTRA: Final = "pip install '.[server,import]' in a clone of Tabellion"


def open_source(place: str, tables: Collection[str]) -> Source:
    """Open a database or read a dump; it blocks.

    Args:
        place: ``postgresql://...``, ``mysql://...`` or the path of a dump in plain SQL.
        tables: Tables of Notary that must be there.

    Raises:
        ConfigurationError: It can't be opened or isn't Notary's.
    """
    scheme = place.partition("://")[0].lower() if "://" in place else ""
    if scheme in _POSTGRESQL:
        return SqlSource(PostgresDatabase(place))
    if scheme in _MYSQL:
        return SqlSource(MysqlDatabase(place))
    if scheme:
        raise ConfigurationError(
            f"{scheme[:20]}:// is no database that can be imported from",
            hint="give postgresql://..., mysql://... or the path of a dump in plain SQL",
        )
    return SqlSource(spool_dump(Path(place), tables))


def shown(place: str) -> str:
    """Give an address without what may be secret in it."""
    if "://" not in place:
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        return f"{place.partition('://')[0]}://..."
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{at}{host}", parts.path, "", ""))


class PostgresDatabase:
    """A PostgreSQL connection; see ``Database``."""

    mark = "%s"
    binary = "{}"
    length = "octet_length"

    def __init__(self, url: str) -> None:
        try:
            import psycopg  # noqa: PLC0415  (an extra: only imports need it)
        except ImportError as error:
            raise _no_driver("psycopg") from error
        self._failure = psycopg.Error
        try:
            self._connection = psycopg.connect(url, connect_timeout=_CONNECT_SECONDS)
            self._connection.read_only = True
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        except psycopg.OperationalError as error:
            raise _unreachable(url, "PGPASSWORD", str(error)) from error
        except (psycopg.Error, ValueError) as error:
            raise _unreachable(url, "PGPASSWORD") from error

    def query(self, text: str, values: Sequence[object] = ()) -> list[Sequence[Any]]:
        """See ``Database.query``."""
        try:
            # Texts are ours alone; values are bound.
            return list(self._connection.execute(text.encode("ascii"), values).fetchall())
        except self._failure as error:
            raise _refused(error) from error

    def close(self) -> None:
        """See ``Database.close``."""
        self._connection.close()


class MysqlDatabase:
    """A MySQL or MariaDB connection; see ``Database``."""

    mark = "%s"
    binary = "CAST({} AS BINARY)"
    length = "octet_length"

    def __init__(self, url: str) -> None:
        try:
            import pymysql  # noqa: PLC0415  (an extra: only imports need it)
        except ImportError as error:
            raise _no_driver("pymysql") from error
        self._failure: type[Exception] = pymysql.MySQLError
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            if unknown := options.keys() - {"unix_socket", "ssl_ca"}:
                raise ConfigurationError(
                    f"the address has options that aren't known: {', '.join(sorted(unknown))}",
                    hint="unix_socket and ssl_ca are",
                )
            self._connection: Any = pymysql.connect(
                host=parts.hostname or "localhost",
                port=parts.port or _MYSQL_PORT,
                user=unquote(parts.username) if parts.username else None,
                password=unquote(parts.password or "") or os.environ.get("MYSQL_PWD", ""),
                database=unquote(parts.path.lstrip("/")),
                charset="utf8mb4",
                connect_timeout=_CONNECT_SECONDS,
                **options,
            )
            with self._connection.cursor() as cursor:
                cursor.execute("SET time_zone = '+00:00'")
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        except pymysql.OperationalError as error:
            raise _unreachable(url, "MYSQL_PWD", str(error.args[-1])) from error
        except (pymysql.MySQLError, ValueError, OSError) as error:
            raise _unreachable(url, "MYSQL_PWD") from error

    def query(self, text: str, values: Sequence[object] = ()) -> list[Sequence[Any]]:
        """See ``Database.query``."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(text, tuple(values))
                return list(cursor.fetchall())
        except self._failure as error:
            raise _refused(error) from error

    def close(self) -> None:
        """See ``Database.close``."""
        self._connection.close()


def _no_driver(name: str) -> ConfigurationError:
    return ConfigurationError(f"the driver {name} isn't installed", hint=f"install it: {_EXTRA}")


def _unreachable(url: str, variable: str, said: str = "") -> ConfigurationError:
    """Make the error of a connection that failed.

    Args:
        url: The address.
        variable: Where the password may come from.
        said: What the server, or the way to it, answered. A driver's complaint about the address
            itself isn't taken: it may quote it, password and all.
    """
    reason = _without_secrets(url, variable, said)
    return ConfigurationError(
        f"can't connect to {shown(url)}" + (f": {reason}" if reason else ""),
        hint=f"check host, database, user, and the password in {variable}",
    )


def _without_secrets(url: str, variable: str, said: str) -> str:
    """Give a driver's first sentence in one line, or "" if a password is in it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = "".join(char if char.isprintable() else " " for char in "".join(lines[:1]))
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""  # whatever is secret in it can't be told
    secrets = {parts.password, os.environ.get(variable)}
    secrets |= {value for name, value in parse_qsl(parts.query) if name.startswith("pass")}
    spelled = {text for secret in secrets if secret for text in (secret, unquote(secret))}
    return "" if any(text in reason for text in spelled) else reason[:_MAX_REASON]


def _refused(error: Exception) -> ConfigurationError:
    lines = str(error).splitlines() or [""]
    return ConfigurationError(
        f"the database refused to be read: {lines[0][:200]}",
        hint="give notary-server's database as --server-db, notary-signer's as --signer-db, and "
        "a user who may SELECT",
    )
