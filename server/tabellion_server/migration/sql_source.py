"""Reading Notary's tables by SQL: the same questions to PostgreSQL, MySQL and a spooled dump."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from tabellion.errors import MetadataTooLargeError
from tabellion_server.migration.rows import (
    COLUMNS,
    MAX_GUN_BYTES,
    FileRow,
    bytes_of,
    moment_of,
    text_of,
)
from tabellion_server.migration.signer_rows import SignerRow
from tabellion_server.storage.interface import Change

_MAX_KEYS: Final = 1_000_000


class Database(Protocol):
    """A connection in one read-only transaction.

    Attributes:
        mark: How it writes a parameter.
        binary: How it writes a text column so that case and accents count.
        length: Its function for the bytes of a value.
    """

    mark: str
    binary: str
    length: str

    def query(self, text: str, values: Sequence[object] = ()) -> list[Sequence[Any]]:
        """Run a query and give all its rows.

        Raises:
            ConfigurationError: The database refused it.
        """

    def close(self) -> None:
        """End the transaction and the connection."""


class SqlSource:
    """A ``Source`` over a ``Database``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        column = database.binary.format("gun")
        # Columns of MySQL take "A" and "a" for one text; the second half lets the index serve.
        self._of_gun = f"{column} = {database.mark} AND gun = {database.mark}"

    def guns(self) -> list[str]:
        """See ``Source.guns``."""
        rows = self._database.query(
            f"SELECT DISTINCT {self._database.binary.format('gun')} FROM tuf_files"  # noqa: S608
            " WHERE deleted_at IS NULL"
        )
        return sorted(text_of(gun) for (gun,) in rows)

    def files(self, gun: str) -> list[FileRow]:
        """See ``Source.files``."""
        where = f" FROM tuf_files WHERE {self._of_gun} AND deleted_at IS NULL"
        ((total,),) = self._database.query(
            f"SELECT coalesce(sum({self._database.length}(data)), 0){where}", self._named(gun)
        )
        if int(total) > MAX_GUN_BYTES:
            raise MetadataTooLargeError(
                f"its files have {total} bytes, more than {MAX_GUN_BYTES}",
                hint="delete old versions from tuf_files",
            )
        rows = self._database.query(
            f"SELECT role, version, sha256, data, created_at{where} ORDER BY role, version",
            self._named(gun),
        )
        return [
            FileRow(
                text_of(role),
                int(version),
                text_of(sha256).strip(),
                bytes_of(data),
                moment_of(created_at),
            )
            for role, version, sha256, data, created_at in rows
        ]

    def changes(self, gun: str) -> list[Change]:
        """See ``Source.changes``."""
        rows = self._database.query(
            "SELECT id, version, sha256, category, created_at FROM changefeed"  # noqa: S608
            f" WHERE {self._of_gun} ORDER BY id",
            self._named(gun),
        )
        return [
            Change(
                gun,
                int(version),
                text_of(sha256).strip(),
                "deletion" if text_of(category) == "deletion" else "update",
                moment_of(created_at),
                int(number),
            )
            for number, version, sha256, category, created_at in rows
        ]

    def signer_keys(self) -> list[SignerRow]:
        """See ``Source.signer_keys``."""
        names = [name for name in COLUMNS["private_keys"] if name not in {"id", "deleted_at"}]
        rows: Iterable[Sequence[Any]] = self._database.query(
            f"SELECT {', '.join(names)} FROM private_keys"  # noqa: S608
            f" WHERE deleted_at IS NULL ORDER BY id LIMIT {_MAX_KEYS}"
        )
        return [
            SignerRow(
                text_of(keyid),
                text_of(gun),
                text_of(role),
                text_of(algorithm),
                text_of(alias),
                bytes_of(private),
                moment_of(created_at),
                last_used is not None,
            )
            for created_at, keyid, algorithm, alias, gun, role, private, last_used in rows
        ]

    def close(self) -> None:
        """See ``Source.close``."""
        self._database.close()

    @staticmethod
    def _named(gun: str) -> tuple[object, ...]:
        return (gun, gun)
