"""Reading a dump of Notary's tables: pg_dump's plain SQL and mysqldump's.

The file is read once, line by line, and Notary's rows go into a temporary SQLite file that only
this user can read: rows of one GUN are strewn all over a dump. Other tables are skipped.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from tabellion.errors import ConfigurationError
from tabellion_server.migration.dump_values import (
    Row,
    UnfinishedError,
    Value,
    binary_of,
    copy_row,
    insert_rows,
)
from tabellion_server.migration.rows import COLUMNS

_MAX_LINE: Final = 256 * 1024 * 1024  # mysqldump writes many rows in one; hex doubles them
_MAX_GOING_ON: Final = 1000  # lines of one statement
_NAME: Final = rb"(?:[`\"]?\w+[`\"]?\.)?([`\"]?)(\w+)[`\"]?"
_COPY: Final = re.compile(rb"COPY " + _NAME + rb" \(([^)]*)\) FROM stdin;\s*")
_CREATE: Final = re.compile(rb"CREATE TABLE (?:IF NOT EXISTS )?" + _NAME + rb" \(\s*")
_COLUMN: Final = re.compile(rb"\s+`(\w+)` ")
_PLAIN_COLUMN: Final = re.compile(rb"\s+\"?(\w+)\"? ")
_INSERT: Final = re.compile(rb"INSERT INTO " + _NAME + rb" (?:\(([^)]*)\) )?VALUES\s*")
_NO_COLUMNS: Final = frozenset({b"CONSTRAINT", b"PRIMARY", b"UNIQUE", b"KEY", b"CHECK"})
_BINARY: Final = frozenset({"data", "private"})
_NUMBERS: Final = frozenset({"id", "version"})
_CUSTOM_FORMAT: Final = b"PGDMP"
_GZIP: Final = b"\x1f\x8b"


class SpooledDump:
    """The rows of a dump in a temporary SQLite file; see ``Database``."""

    mark = "?"
    binary = "{}"
    length = "length"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tabellion-import-")
        self._connection = sqlite3.connect(
            Path(self._folder.name) / "dump.db", isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("BEGIN")
        for table, columns in COLUMNS.items():
            self._connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")

    def add(self, table: str, names: Sequence[str], row: Row) -> None:
        """Keep a row's known columns.

        Raises:
            ValueError: It has more or fewer values than columns.
        """
        found: dict[str, Value] = dict(zip(names, row, strict=True))
        values = [_column(name, found.get(name)) for name in COLUMNS[table]]
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO {table} VALUES ({marks})", values)  # noqa: S608

    def finish(self) -> None:
        """Make it fit to be asked."""
        self._connection.execute("CREATE INDEX files_by_gun ON tuf_files (gun, role, version)")
        self._connection.execute("CREATE INDEX changes_by_gun ON changefeed (gun, id)")
        self._connection.execute("COMMIT")

    def query(self, text: str, values: Sequence[object] = ()) -> list[Sequence[Any]]:
        """See ``Database.query``."""
        return self._connection.execute(text, tuple(values)).fetchall()

    def close(self) -> None:
        """See ``Database.close``."""
        self._connection.close()
        self._folder.cleanup()


def spool_dump(path: Path, tables: Collection[str]) -> SpooledDump:
    """Read a dump; it blocks, and takes as much of the temporary folder as the rows need.

    Args:
        path: The file.
        tables: Tables that it must hold.

    Raises:
        ConfigurationError: It can't be read, is damaged or of another format, or lacks a table.
    """
    spool = SpooledDump()
    try:
        with path.open("rb") as file:
            _refuse_other_formats(path, file)
            seen = _Reader(path, file, spool).read()
        _refuse_missing(path, set(tables) - seen)
        spool.finish()
    except OSError as error:
        spool.close()
        raise ConfigurationError(
            f"dump {path} can't be read: {error.strerror or error}",
            hint="give the path of a dump, or postgresql://... or mysql://...",
        ) from error
    except sqlite3.Error as error:
        spool.close()
        raise ConfigurationError(
            f"the rows of dump {path} can't be kept: {error}", hint="set TMPDIR to a larger disk"
        ) from error
    except ConfigurationError:
        spool.close()
        raise
    return spool


class _Reader:
    def __init__(self, path: Path, file: BinaryIO, spool: SpooledDump) -> None:
        self._path = path
        self._file = file
        self._spool = spool
        self._number = 0
        self._columns: dict[str, list[str]] = {}
        self._seen: set[str] = set()

    def read(self) -> set[str]:
        for line in self._lines():
            if match := _COPY.match(line):
                self._read_copy(match[2].decode(), _names(match[3]))
            elif match := _CREATE.match(line):
                self._read_columns(match[2].decode(), is_mysql=match[1] == b"`")
            elif (match := _INSERT.match(line)) and (table := match[2].decode()) in COLUMNS:
                names = _names(match[3]) if match[3] else self._columns.get(table, [])
                self._read_insert(table, names, line[match.end() :], is_mysql=match[1] == b"`")
        return self._seen

    def _lines(self) -> Iterator[bytes]:
        while line := self._file.readline(_MAX_LINE + 1):
            self._number += 1
            if len(line) > _MAX_LINE:
                raise self._damaged(f"is longer than {_MAX_LINE} bytes")
            yield line

    def _read_copy(self, table: str, names: list[str]) -> None:
        self._seen.add(table)
        for line in self._lines():
            text = line.rstrip(b"\r\n")
            if text == b"\\.":
                return
            if table in COLUMNS:
                self._add(table, names, copy_row(text))
        raise self._damaged("is the last, within the rows of a table")

    def _read_columns(self, table: str, *, is_mysql: bool) -> None:
        self._seen.add(table)
        names = self._columns[table] = []
        pattern = _COLUMN if is_mysql else _PLAIN_COLUMN
        for line in self._lines():
            if line.startswith(b")"):
                return
            match = pattern.match(line)
            if match and match[1] not in _NO_COLUMNS:
                names.append(match[1].decode())

    def _read_insert(self, table: str, names: list[str], text: bytes, *, is_mysql: bool) -> None:
        self._seen.add(table)
        lines = [text]
        rows: list[Row] | None = None
        while rows is None:
            try:
                rows = list(insert_rows(b"".join(lines), mysql=is_mysql))
            except UnfinishedError as error:
                following = next(self._lines(), b"")
                lines.append(following)
                if not following or len(lines) > _MAX_GOING_ON or sum(map(len, lines)) > _MAX_LINE:
                    raise self._damaged("belongs to a statement without an end") from error
            except ValueError as error:
                raise self._damaged(f"can't be read: {error}") from error
        for row in rows:
            self._add(table, names, row)

    def _add(self, table: str, names: list[str], row: Row) -> None:
        try:
            self._spool.add(table, names, row)
        except (ValueError, OverflowError) as error:
            raise self._damaged(f"holds no row of {table}: {str(error)[:80]}") from error

    def _damaged(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"dump {self._path}: line {self._number} {what}",
            hint="make it anew: pg_dump --format=plain, or mysqldump --hex-blob",
        )


def _refuse_missing(path: Path, tables: Collection[str]) -> None:
    if tables:
        raise ConfigurationError(
            f"dump {path} has no table {' or '.join(sorted(tables))}",
            hint="dump notary-server's database for --server-db, notary-signer's for --signer-db",
        )


def _refuse_other_formats(path: Path, file: BinaryIO) -> None:
    start = file.read(len(_CUSTOM_FORMAT))
    if start == _CUSTOM_FORMAT or start.startswith(_GZIP):
        raise ConfigurationError(
            f"{path} is no dump in plain SQL",
            hint="make it with pg_dump --format=plain, or unpack it with gunzip",
        )
    file.seek(0)


def _names(text: bytes) -> list[str]:
    return [name.strip(b' `"').decode() for name in text.split(b",")]


def _column(name: str, value: Value) -> Value | str:
    if value is None:
        return None
    if name in _BINARY:
        return binary_of(value)
    if name in _NUMBERS:
        return int(value)
    return value.decode() if isinstance(value, bytes) else value
