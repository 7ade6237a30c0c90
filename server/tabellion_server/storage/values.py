"""Values and judgements that all engines share: moments, ranges, hashes, compare-and-set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from tabellion_server.storage.interface import (
    Head,
    StaleHeadError,
    StorageError,
    StoreCorruptionError,
    StoredFile,
)

MAX_INTEGER: Final = 2**63 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def ticks(moment: datetime) -> int:
    """Count the microseconds since 1970.

    Raises:
        StorageError: It has no time zone.
    """
    if moment.tzinfo is None:
        raise StorageError(f"moment {moment} has no time zone", hint="give moments in UTC")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment_of(microseconds: int) -> datetime:
    """Give the moment, aware UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def below(before: int | None) -> int:
    """Give the id that a page's ids are below, within what engines can hold."""
    return MAX_INTEGER if before is None else max(min(before, MAX_INTEGER), 0)


def check_hashes(gun: str, files: Iterable[StoredFile]) -> None:
    """Refuse files that don't have their SHA-256.

    Raises:
        StoreCorruptionError: One hasn't.
    """
    for file in files:
        if hashlib.sha256(file.data).hexdigest() != file.sha256:
            raise StoreCorruptionError(
                f"{gun}: {file.role} version {file.version} doesn't have its SHA-256"
            )


def check_head(gun: str, head: Head | None, expected_revision: int | None, dialect: str) -> None:
    """Refuse a commit that was judged on another head.

    Raises:
        StaleHeadError: The head has another revision.
        StoreCorruptionError: It speaks another dialect.
    """
    revision = None if head is None else head.revision
    if revision != expected_revision:
        raise StaleHeadError(
            f"{gun} is at revision {revision}, not at {expected_revision}", head=head
        )
    if head is not None and head.dialect != dialect:
        raise StoreCorruptionError(f"{gun} speaks {head.dialect}, not {dialect}")


def loading_error() -> StorageError:
    """Say that nothing may be written beside a restore."""
    return StorageError(
        "a backup is being restored into the store",
        hint="wait for its end; if it was cut off, restore into another store",
    )


def other_bytes_error(gun: str, role: str, version: int) -> StoreCorruptionError:
    """Say that a version is stored with other bytes than those to be written."""
    return StoreCorruptionError(
        f"{gun}: {role} version {version} is there with other bytes",
        hint="sign the new content under a new version",
    )
