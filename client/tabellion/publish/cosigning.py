"""Adding signatures to a partly signed publication."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.transitions import UploadedFile
from tabellion.errors import UsageError
from tabellion.publish.edits import Draft
from tabellion.publish.signing import (
    Built,
    Expiries,
    KeyRing,
    no_key,
    signatures_missing,
    with_snapshot,
)
from tabellion.publish.state import Current


def add_signatures(
    current: Current,
    files: Sequence[UploadedFile],
    ring: KeyRing,
    *,
    expiries: Expiries,
    now: datetime,
) -> Built:
    """Add what the keys here can add; without files if all of it is published already.

    Raises:
        UsageError: It was made for an older state, or nothing delegates to a role.
        KeyStoreError: No key here is one of those that are missing.
    """
    dialect, limits = current.trusted.dialect, Limits()
    parsed: dict[str, UnverifiedMetadata[Any]] = {
        item.role: dialect.parse(item.role, item.data, max_bytes=limits.targets_bytes)
        for item in sorted(files, key=lambda item: item.role != "targets")
    }
    if all(_is_published(current, item) for item in parsed.values()):
        return Built((), {role: item.version for role, item in parsed.items()}, {})
    draft = Draft(current, ring.held())
    signed: list[UploadedFile] = []
    missing: dict[str, int] = {}
    added = 0
    for role, item in parsed.items():
        if item.version != current.version_of(role) + 1:
            raise UsageError(
                f"{role} version {item.version} doesn't follow the current version "
                f"{current.version_of(role)} any more",
                hint="make it anew with: tabellion sign",
            )
        # A file speaks for the roles it delegates to once its own threshold is reached.
        keys, entry = draft.keys_of(role)
        fresh = [keyid for keyid in entry.keyids if keyid not in item.signatures]
        lacking = signatures_missing(dialect, role, item.data, keys, entry)
        signers = ring.open(fresh, at_most=lacking)
        added += len(signers)
        data = dialect.add_signature(item.data, signers) if signers else item.data
        lacking = signatures_missing(dialect, role, data, keys, entry)
        if lacking:
            missing[role] = lacking
        else:
            draft.payloads[role] = item.signed
        signed.append(UploadedFile(role, data))
    if missing and not added:
        role = next(iter(missing))
        raise no_key(current.gun, role, draft.keys_of(role)[1])
    versions = {role: item.version for role, item in parsed.items()}
    if not missing:
        signed, versions = with_snapshot(
            current, signed, versions, ring, expiries=expiries, now=now
        )
    return Built(tuple(signed), versions, missing)


def _is_published(current: Current, item: UnverifiedMetadata[Any]) -> bool:
    """Tell whether the same content is served, whoever's signatures it has there."""
    published = current.roles.get(item.role)
    if published is None:
        return False
    served = current.trusted.dialect.parse(item.role, published.data, max_bytes=len(published.data))
    return served.signed_bytes == item.signed_bytes
