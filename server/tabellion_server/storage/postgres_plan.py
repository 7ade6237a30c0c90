"""A group of publications judged in memory, on what was read under their GUNs' locks.

All that is read before and written after is a few statements, however many publications share
them; a refused one leaves no trace among its neighbours.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    FileRef,
    Head,
    StaleHeadError,
    StorageError,
    StoredFile,
    TagEvent,
)
from tabellion_server.storage.postgres_rows import event_values
from tabellion_server.storage.values import (
    MAX_INTEGER,
    check_head,
    moment_of,
    other_bytes_error,
    ticks,
)

Row = tuple[object, ...]
Place = tuple[bytes, bytes, int]  # GUN, role, version
_TOKEN_BITS: Final = 63


@dataclass(frozen=True, slots=True)
class Publication:
    """What one ``Store.commit`` asks for; see there.

    Attributes:
        key: The GUN's name as it's stored.
        places: Where its files go.
    """

    gun: str
    dialect: str
    expected_revision: int | None
    added: Sequence[StoredFile]
    removed_heads: Sequence[str]
    events: Sequence[TagEvent]
    changes: Sequence[Change] | None
    converts: str | None
    closes: AuditEntry | None
    at: datetime
    key: bytes
    places: Sequence[Place]

    @classmethod
    def of(
        cls,
        gun: str,
        added: Sequence[StoredFile],
        **asked: Any,  # noqa: ANN401  (the fields above)
    ) -> Publication:
        """Make one that can be stored.

        Raises:
            StorageError: A version can't be.
            UnicodeEncodeError: A name can't be.
        """
        for file in added:
            if not 0 < file.version <= MAX_INTEGER:
                raise StorageError(f"{gun}: {file.role} can't have version {file.version}")
        key = gun.encode()
        places = [(key, file.role.encode(), file.version) for file in added]
        return cls(gun=gun, added=added, key=key, places=places, **asked)

    @property
    def closing(self) -> tuple[bytes, bytes] | None:
        """Give the proposal that it closes, GUN and id, if any."""
        closes = self.closes
        return None if closes is None else (closes.gun.encode(), closes.proposal.encode())

    @property
    def size(self) -> int:
        """Give the bytes of its files."""
        return sum(len(file.data) for file in self.added)


@dataclass(slots=True)
class State:
    """A GUN as the group finds it, and as its publications leave it.

    Attributes:
        head: None if it doesn't exist.
        last_revision: The highest ever, also of a GUN that was deleted.
    """

    head: Head | None
    last_revision: int


@dataclass(slots=True)
class Writing:
    """Rows to be written, of all publications that were accepted."""

    files: list[Row] = field(default_factory=list)
    again: list[Place] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    closes: list[AuditEntry] = field(default_factory=list)
    dropped: list[tuple[bytes, datetime]] = field(default_factory=list)
    current: dict[tuple[bytes, bytes], FileRef | None] = field(default_factory=dict)
    tokens: dict[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What was read under the locks, of all that the group touches.

    Attributes:
        states: GUNs.
        stored: Hashes of versions that are stored.
        collected: Hashes of versions whose bytes were let go.
        withdrawn: Proposals that were withdrawn and aren't pending, GUN and id each.
    """

    states: Mapping[bytes, State]
    stored: Mapping[Place, str]
    collected: Mapping[Place, str]
    withdrawn: Collection[tuple[bytes, bytes]]


class Plan:
    """Judges publications one after the other, each on what the ones before it leave."""

    def __init__(self, found: Found) -> None:
        self.states = found.states
        self.writing = Writing()
        self._stored = dict(found.stored)
        self._found = found

    def take(self, item: Publication) -> Head:
        """Accept a publication; give the GUN's new head.

        Raises:
            StorageError: It's refused; nothing of it will be written.
        """
        state = self.states[item.key]
        check_head(item.gun, state.head, item.expected_revision, item.converts or item.dialect)
        if (closes := item.closing) is not None and closes in self._found.withdrawn:
            told = closes[1][:16].decode()
            raise StaleHeadError(f"proposal {told} was withdrawn", head=state.head)
        last = state.last_revision if state.head is None else state.head.revision
        if last >= MAX_INTEGER:
            raise StorageError(f"{item.gun} has no revision left")
        files, changes, hashes = self._new_files(item)
        events = [event_values(item.key, event) for event in item.events]
        current = self._current(item, state.head)
        at = moment_of(ticks(item.at))
        # Refused from here on is nothing.
        refs = {} if state.head is None else dict(state.head.files)
        for role, ref in current.items():
            if ref is None:
                refs.pop(role, None)
            else:
                refs[role] = ref
            self.writing.current[item.key, role.encode()] = ref
        self._stored.update(hashes)
        self.writing.again += [place for place in hashes if place in self._found.collected]
        self.writing.files += files
        self.writing.changes += changes
        self.writing.events += events
        if item.closes is not None:
            self.writing.closes.append(item.closes)
        if item.converts is not None:
            self.writing.dropped.append((item.key, item.at))
        self.writing.tokens[item.key] = secrets.randbits(_TOKEN_BITS)
        state.head = Head(item.gun, item.dialect, last + 1, refs, at)
        return state.head

    def _new_files(self, item: Publication) -> tuple[list[Row], list[Row], dict[Place, str]]:
        """Give the files that aren't there yet, what the changefeed tells, and their hashes."""
        told = item.changes
        files: list[Row] = []
        changes = [_change_row(change) for change in told or ()]
        hashes: dict[Place, str] = {}
        for file, place in zip(item.added, item.places, strict=True):
            held = hashes.get(place) or self._stored.get(place)
            if held is None:
                if self._found.collected.get(place, file.sha256) != file.sha256:
                    raise other_bytes_error(item.gun, file.role, file.version)
                hashes[place] = file.sha256
                row = (*place, file.sha256, len(file.data), ticks(file.stored_at), file.data)
                files.append(row)
                if file.role == "timestamp" and told is None:
                    change = Change(item.gun, file.version, file.sha256, "update", file.stored_at)
                    changes.append(_change_row(change))
            elif held != file.sha256:
                raise other_bytes_error(item.gun, file.role, file.version)
        return files, changes, hashes

    def _current(self, item: Publication, head: Head | None) -> dict[str, FileRef | None]:
        """Give the roles whose current file changes."""
        was = {} if head is None else head.files
        changed: dict[str, FileRef | None] = {}
        for file in item.added:
            ref = changed.get(file.role) or was.get(file.role)
            if ref is None or file.version > ref.version:
                changed[file.role] = FileRef(file.version, file.sha256, len(file.data))
        changed.update(dict.fromkeys(item.removed_heads))
        return changed


def _change_row(change: Change) -> Row:
    return (
        *(change.gun.encode(), change.version, change.sha256, change.category),
        ticks(change.at),
    )
