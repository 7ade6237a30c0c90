"""Adding signatures to a partly signed publication."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Targets

from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.publication import UploadedFile
from tabellion.core.roles import delegated_roles
from tabellion.errors import MalformedMetadataError, UsageError
from tabellion.publish.edits import Draft
from tabellion.publish.signatures import signatures_missing
from tabellion.publish.signing import (
    Built,
    Expiries,
    KeyRing,
    no_key,
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
        return Built(dialect, (), {role: item.version for role, item in parsed.items()}, {})
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
        _verify_unchanged(item, keys, entry)
        fresh = [keyid for keyid in entry.keyids if keyid not in item.signatures]
        lacking = signatures_missing(dialect, role, item.data, keys, entry)
        signers = ring.open(dialect, keys, fresh, at_most=lacking)
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
    return Built(dialect, tuple(signed), versions, missing)


def changes_in_words(current: Current, files: Sequence[UploadedFile]) -> list[str]:
    """Say what the files change, a line each, for somebody who is about to sign them."""
    lines: list[str] = []
    for item in files:
        if item.role == "snapshot":
            continue
        parsed: UnverifiedMetadata[Any] = current.trusted.dialect.parse(
            item.role, item.data, max_bytes=Limits().targets_bytes
        )
        held = current.roles.get(item.role)
        found = list(_differences(held.signed if held is not None else None, parsed.signed))
        lines += [f"{item.role}: {line}" for line in found or ["nothing but version and expiry"]]
    return lines


def _differences(old: Targets | None, new: Targets) -> Iterator[str]:
    before, after = (old.targets if old is not None else {}), new.targets
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            yield f"revoke {path}"
        elif before.get(path) != after[path]:
            digest = next((f"{k}:{v}" for k, v in sorted(after[path].hashes.items())), "")
            yield f"sign {path} {digest} of {after[path].length} bytes"
    roles_before = {role.name: role for role in delegated_roles(old)} if old is not None else {}
    roles_after = {role.name: role for role in delegated_roles(new)}
    for name in sorted(roles_before.keys() | roles_after.keys()):
        role = roles_after.get(name)
        if role is None:
            yield f"remove signer {name}"
        elif roles_before.get(name) != role:
            keys = " ".join(keyid[:16] for keyid in role.keyids)
            paths = " ".join(role.paths or [])
            yield f"let {name} sign {paths} with {role.threshold} of the keys {keys}"


def _verify_unchanged(item: UnverifiedMetadata[Any], keys: Mapping[str, Key], entry: Role) -> None:
    """Refuse a file that isn't the one that others signed."""
    for keyid in item.signatures.keys() & set(entry.keyids):
        try:
            keys[keyid].verify_signature(item.signatures[keyid], item.signed_bytes)
        except Exception as error:  # whatever a foreign verifier says: it doesn't fit
            raise MalformedMetadataError(
                f"{item.role} version {item.version} was changed after key {keyid[:16]} signed it",
                hint="nothing was signed; ask for the file anew",
            ) from error


def _is_published(current: Current, item: UnverifiedMetadata[Any]) -> bool:
    """Tell whether the same content is served, whoever's signatures it has there."""
    published = current.roles.get(item.role)
    if published is None:
        return False
    served = current.trusted.dialect.parse(item.role, published.data, max_bytes=len(published.data))
    return served.signed_bytes == item.signed_bytes
