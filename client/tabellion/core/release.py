"""The next snapshot and timestamp of a release, as payloads to be signed.

Spec: TUF 1.0.34, 6.3.1 to 6.3.3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from tuf.api.metadata import Snapshot, Timestamp

from tabellion.core.dialect import Dialect


def next_snapshot(
    dialect: Dialect,
    previous: Snapshot | None,
    files: Mapping[str, tuple[int, bytes]],
    *,
    expires_at: datetime,
    dropped: Collection[str] = (),
    skip: int = 0,
) -> Snapshot:
    """Give the snapshot after ``previous`` with some roles replaced.

    In TUF a role that was ever listed stays listed: clients take its absence for an attack
    (5.5.5). Notary's clients don't, so a role that nothing delegates to may be dropped there.

    Args:
        dialect: How the GUN writes its files.
        previous: Snapshot served now, None for the first.
        files: Role name to version and bytes of every role that is new; where the dialect's
            snapshots name the root, of a new root as well.
        expires_at: When it expires, aware UTC.
        dropped: Roles not to be listed any more.
        skip: Versions to pass over, as they may have been signed and lost.
    """
    meta = dict(previous.meta) if previous is not None else {}
    for role, (version, data) in files.items():
        meta[f"{role}.json"] = dialect.meta(version, data)
    for role in dropped:
        meta.pop(f"{role}.json", None)
    version = (previous.version if previous is not None else 0) + 1 + skip
    return Snapshot(version=version, expires=expires_at.astimezone(UTC), meta=meta)


def next_timestamp(
    dialect: Dialect,
    previous: Timestamp | None,
    snapshot_data: bytes,
    snapshot_version: int,
    *,
    expires_at: datetime,
    skip: int = 0,
) -> Timestamp:
    """Give the timestamp after ``previous`` and ``skip`` more versions, naming a snapshot."""
    version = (previous.version if previous is not None else 0) + 1 + skip
    meta = dialect.meta(snapshot_version, snapshot_data)
    return Timestamp(version=version, expires=expires_at.astimezone(UTC), snapshot_meta=meta)
