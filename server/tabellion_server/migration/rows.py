"""Rows of Notary's tables as every source gives them, and the columns they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from tabellion.errors import ConfigurationError
from tabellion_server.migration.signer_rows import SignerRow
from tabellion_server.storage.interface import Change

# Table to the columns that are read; all are Notary's.
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "tuf_files": ("id", "created_at", "deleted_at", "gun", "role", "version", "data", "sha256"),
    "changefeed": ("id", "created_at", "gun", "version", "sha256", "category"),
    "private_keys": (
        *("id", "created_at", "deleted_at", "key_id", "algorithm", "passphrase_alias"),
        *("gun", "role", "private", "last_used"),
    ),
}
MAX_GUN_BYTES: Final = 1024**3  # of all of a GUN's files: it's imported in one transaction


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row of ``tuf_files``.

    Attributes:
        role: Role name.
        version: Version by the column; the file's own is judged elsewhere.
        sha256: Hex SHA-256 by the column, not recomputed.
        data: The bytes.
        created_at: When it was stored, aware UTC.
    """

    role: str
    version: int
    sha256: str
    data: bytes
    created_at: datetime


class Source(Protocol):
    """A Notary database at one moment. Every method blocks, and may raise ConfigurationError."""

    def guns(self) -> list[str]:
        """List all GUNs that have files, sorted."""

    def files(self, gun: str) -> list[FileRow]:
        """Give a GUN's files by role and version.

        Raises:
            MetadataTooLargeError: They are more than ``MAX_GUN_BYTES``.
        """

    def changes(self, gun: str) -> list[Change]:
        """Give a GUN's changefeed, oldest first."""

    def signer_keys(self) -> list[SignerRow]:
        """Give all keys that notary-signer holds, oldest first."""

    def close(self) -> None:
        """Let go of the database or the temporary file."""


def moment_of(value: object) -> datetime:
    """Read a database's moment; without a zone it's UTC, and an absent one is 1970.

    Raises:
        ConfigurationError: It's no moment.
    """
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if value is None or (isinstance(value, str) and value.startswith("0000-00-00")):
        return datetime(1970, 1, 1, tzinfo=UTC)
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"{str(value)[:40]!r} is no moment of a database") from error


def text_of(value: object) -> str:
    """Read a text column; padding of ``char(64)`` isn't part of it.

    Raises:
        ConfigurationError: It isn't UTF-8.
    """
    try:
        return value.decode() if isinstance(value, bytes) else str(value or "")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"a text of the database isn't UTF-8: {value!r:.80}") from error


def bytes_of(value: object) -> bytes:
    """Read a binary column, which may be declared as text.

    Raises:
        ConfigurationError: It's neither.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    raise ConfigurationError(f"a binary column holds {type(value).__name__}")
