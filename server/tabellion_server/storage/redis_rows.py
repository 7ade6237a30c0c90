"""Values of the Redis store: how rows are packed, how answers are read."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence

from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    FileRef,
    Head,
    OnlineKeyRow,
    PendingRow,
    StoreCorruptionError,
    StoredFile,
    TagEvent,
)
from tabellion_server.storage.stored_values import entry_of, event_of, files_json, versions_json
from tabellion_server.storage.values import check_hashes, moment_of, ticks


def pairs(flat: Sequence[bytes] | Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Read a hash: as scripts give it, names and values by turns, or as the client did already."""
    if isinstance(flat, Mapping):
        return dict(flat)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def head_of(gun: str, fields: Mapping[bytes, bytes]) -> Head | None:
    """Read a head; None if there's none."""
    if not fields:
        return None
    files: dict[str, FileRef] = {}
    for name, value in fields.items():
        if name.startswith(b":"):
            version, sha256, length = value.decode().split(" ")
            files[name[1:].decode()] = FileRef(int(version), sha256, int(length))
    dialect, revision = fields[b"dialect"].decode(), int(fields[b"revision"])
    return Head(gun, dialect, revision, files, moment_of(int(fields[b"changed_at"])))


def file_of(gun: str, role: str, version: int, value: bytes) -> StoredFile:
    """Read a file's bytes and check them.

    Raises:
        StoreCorruptionError: They aren't those that were stored.
    """
    first, _, data = value.partition(b"\n")
    try:
        sha256, stored_at = first.decode().split(" ")
        file = StoredFile(role, version, sha256, data, moment_of(int(stored_at)))
    except ValueError as error:
        raise StoreCorruptionError(f"{gun}: {role} version {version} can't be read") from error
    check_hashes(gun, [file])
    return file


def pack(*values: str) -> bytes:
    """Pack plain values; moments as texts, as Lua's numbers don't hold them."""
    return json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode()


def pack_change(change: Change) -> bytes:
    """Pack an entry of the changefeed."""
    return pack(
        change.gun, str(change.version), change.sha256, change.category, str(ticks(change.at))
    )


def change_of(number: bytes, packed: bytes) -> Change:
    """Read an entry of the changefeed and its id in the stream."""
    gun, version, sha256, category, at = json.loads(packed)
    identity = int(number.partition(b"-")[0])
    return Change(gun, int(version), sha256, category, moment_of(int(at)), identity)


def target_key(target: str) -> str:
    """Give what a target's history is found by: names may have any character."""
    return hashlib.sha256(target.encode()).hexdigest()[:32]


def pack_event(event: TagEvent) -> bytes:
    """Pack an entry of the history."""
    return pack(
        *(event.kind, event.target, event.role, str(event.version), event.metadata_sha256),
        *(json.dumps(dict(event.digests), sort_keys=True), str(event.length), str(ticks(event.at))),
    )


def read_event(number: int, packed: bytes) -> TagEvent:
    """Read an entry of the history."""
    kind, target, role, version, metadata_sha256, digests, length, at = json.loads(packed)
    return event_of(
        (kind, target, role, int(version), metadata_sha256, digests, int(length), int(at), number)
    )


def pack_key(row: OnlineKeyRow) -> bytes:
    """Pack an online key, which stays sealed."""
    sealed = base64.b64encode(row.sealed).decode()
    return pack(row.keyid, row.role, row.public, sealed, str(ticks(row.created_at)))


def field_of(role: str, keyid: str) -> bytes:
    """Give the field of an online key."""
    return pack(role, keyid)


def read_keys(fields: Mapping[bytes, bytes]) -> list[OnlineKeyRow]:
    """Read online keys of all roles, newest first."""
    found: list[tuple[int, OnlineKeyRow]] = []
    for value in fields.values():
        number, _, packed = value.partition(b" ")
        keyid, role, public, sealed, created_at = json.loads(packed)
        row = OnlineKeyRow(
            keyid, role, public, base64.b64decode(sealed), moment_of(int(created_at))
        )
        found.append((int(number), row))
    return [row for _, row in sorted(found, key=lambda item: -item[0])]


def pack_pending(row: PendingRow) -> bytes:
    """Pack a proposal: what scripts look at first, then all else."""
    start = f"{row.revision + 1} {ticks(row.expires_at)} {versions_json(row.versions)}\n"
    return start.encode() + pack(files_json(row.files), row.by, str(ticks(row.created_at)))


def read_pending(gun: str, number: str, value: bytes) -> PendingRow:
    """Read a proposal."""
    start, _, packed = value.partition(b"\n")
    revision, expires_at, versions = start.decode().split(" ", 2)
    files, by, created_at = json.loads(packed)
    return PendingRow(
        gun,
        number,
        json.loads(versions),
        {role: text.encode() for role, text in json.loads(files).items()},
        by,
        moment_of(int(created_at)),
        moment_of(int(expires_at)),
        int(revision),
    )


def pack_entry(entry: AuditEntry) -> bytes:
    """Pack what became of a proposal."""
    return pack(
        *(entry.gun, entry.proposal, entry.action, versions_json(entry.versions)),
        *(json.dumps(list(entry.keyids)), entry.by, str(ticks(entry.at))),
    )


def read_entry(number: int, packed: bytes) -> AuditEntry:
    """Read what became of a proposal."""
    gun, proposal, action, versions, keyids, by, at = json.loads(packed)
    return entry_of((gun, proposal, action, versions, keyids, by, int(at), number))


def text_of(value: bytes) -> str:
    """Read a name."""
    return value.decode()
