"""All that a store holds, as records that any engine gives and takes: what a backup is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime

from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    FileInfo,
    OnlineKeyRow,
    PendingRow,
    StoredFile,
    TagEvent,
)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One version of a role of a GUN."""

    gun: str
    file: StoredFile


@dataclass(frozen=True, slots=True)
class InfoRecord:
    """The same without its bytes: what stands in its row."""

    gun: str
    info: FileInfo


@dataclass(frozen=True, slots=True)
class CollectedRecord:
    """A version whose bytes were let go: no other bytes may get its number."""

    gun: str
    role: str
    version: int
    sha256: str


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """What is current in a GUN, role to version; its files come before it."""

    gun: str
    dialect: str
    revision: int
    changed_at: datetime
    current: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RetiredRecord:
    """The last revision of a GUN that was dropped."""

    gun: str
    revision: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """History, with its id."""

    gun: str
    event: TagEvent


@dataclass(frozen=True, slots=True)
class OnlineKeyRecord:
    """A sealed key; those of a role come in the order in which they were made."""

    gun: str
    row: OnlineKeyRow


@dataclass(frozen=True, slots=True)
class RestorationRecord:
    """That a backup was restored: so many changes above that id may have been told."""

    after_id: int
    missing: int
    at: datetime
    is_loss: bool


@dataclass(frozen=True, slots=True)
class FeedRecord:
    """The highest id that any change ever had."""

    last: int


Record = (
    FileRecord
    | InfoRecord
    | CollectedRecord
    | HeadRecord
    | RetiredRecord
    | EventRecord
    | OnlineKeyRecord
    | RestorationRecord
    | FeedRecord
    | Change
    | PendingRow
    | AuditEntry
)


class Fingerprint:
    """Tells whether two lots of records are the same, whatever their order."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, record: Record) -> None:
        """Take one in; a file counts by its SHA-256, which every store checks."""
        text = json.dumps([type(record).__name__, _plain(record)], sort_keys=True)
        self._sum += int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")

    def hexdigest(self) -> str:
        """Give what is the same for the same records."""
        return f"{self._sum % (1 << 256):064x}"


def _plain(value: object) -> object:  # noqa: PLR0911  (one each)
    match value:
        case StoredFile():
            what = (value.role, value.version, value.sha256, len(value.data), value.stored_at)
            return _plain(what)
        case datetime():
            return value.timestamp()
        case bytes():
            return hashlib.sha256(value).hexdigest()
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
    if is_dataclass(value):
        return [_plain(getattr(value, item.name)) for item in fields(value)]
    return value
