"""The next snapshot and timestamp of a release, as payloads to be signed.

Spec: TUF 1.0.34, 6.3.1 to 6.3.3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

from tuf.api.metadata import MetaFile, Snapshot, Timestamp


def next_snapshot(
    previous: Snapshot | None, files: Mapping[str, tuple[int, bytes]], *, expires_at: datetime
) -> Snapshot:
    """Give the snapshot after ``previous`` with some roles replaced.

    A role that was ever listed stays listed: clients take its absence for an attack (5.5.5).

    Args:
        previous: Snapshot served now, None for the first.
        files: Role name to version and bytes of every targets role that is new.
        expires_at: When it expires, aware UTC.
    """
    meta = dict(previous.meta) if previous is not None else {}
    for role, (version, data) in files.items():
        meta[f"{role}.json"] = _meta(version, data)
    version = previous.version + 1 if previous is not None else 1
    return Snapshot(version=version, expires=expires_at.astimezone(UTC), meta=meta)


def next_timestamp(
    previous: Timestamp | None,
    snapshot_data: bytes,
    snapshot_version: int,
    *,
    expires_at: datetime,
) -> Timestamp:
    """Give the timestamp after ``previous``, naming a snapshot by version, length and sha256."""
    version = previous.version + 1 if previous is not None else 1
    meta = _meta(snapshot_version, snapshot_data)
    return Timestamp(version=version, expires=expires_at.astimezone(UTC), snapshot_meta=meta)


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})
