"""What may be proposed: refuses at once what no number of signatures would make publishable.

Whether a complete proposal is published is ``judge_publication``'s to say; these rules keep
holders from signing in vain, and signatures that don't count from being kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key, Signature
from tuf.api.metadata import Role, Root, Targets

from tabellion.core.bins import bins_of
from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.fitness import verify_root_fit, verify_targets_fit
from tabellion.core.freshness import verify_fresh
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.proposal import (
    Proposal,
    delegates_of,
    delegating,
    standing_of,
)
from tabellion.core.publication import CurrentSet, OnlineKeys, holds_threshold
from tabellion.core.roles import TOP_LEVEL_ROLES, delegated_roles, material_of
from tabellion.errors import ConflictError, RefusedPublicationError


def verify_signatures(proposal: Proposal, current: CurrentSet | None) -> None:
    """Refuse a signature that doesn't hold, or by a key that nobody lists for the role.

    Raises:
        RefusedPublicationError: There is one.
    """
    keys_for: defaultdict[str, list[Mapping[str, Key]]] = defaultdict(list)
    for standing in proposal.standings(current):
        keys_for[standing.role].append(standing.keys)
    for role, item in proposal.files.items():
        listed = keys_for[role]
        if not listed:
            raise RefusedPublicationError(
                f"nothing delegates to role {role[:80]!r}", rule="unknown-role", role=role
            )
        for keyid, signature in item.signatures.items():
            candidates = [keys[keyid] for keys in listed if keyid in keys]
            if any(_holds(key, signature, item.signed_bytes) for key in candidates):
                continue
            fault = "isn't of these bytes" if candidates else f"is by no key of {role}"
            raise RefusedPublicationError(
                f"a signature of {role} version {item.version}, by key {keyid[:64]}, {fault}",
                rule="bad-signature" if candidates else "unknown-signer",
                role=role,
                keyid=keyid,
                hint="nothing was kept; ask for the file as the others signed it",
            )


def verify_base(proposal: Proposal, current: CurrentSet | None) -> None:
    """Refuse a proposal that doesn't follow what is current.

    Raises:
        ConflictError: Somebody published one of its roles since it was made.
        RefusedPublicationError: The GUN doesn't exist and there is no first root and targets.
    """
    held = current.files if current is not None else {}
    if not held and not {"root", "targets"} <= proposal.files.keys():
        raise RefusedPublicationError(
            f"{proposal.gun} doesn't exist here, and the proposal isn't its first root and targets",
            rule="missing-root",
            role="root",
        )
    for role, item in proposal.files.items():
        known = held[role].version if role in held else 0
        if item.version != known + 1:
            raise ConflictError(
                f"{role} version {item.version} doesn't follow version {known}, which is current",
                versions={
                    name: held[name].version
                    for name in (*TOP_LEVEL_ROLES, *proposal.files)
                    if name in held
                },
                hint="make the proposal anew on what is current; signatures are of old bytes",
            )


def verify_fit(
    proposal: Proposal, current: CurrentSet | None, *, online: OnlineKeys, now: datetime
) -> None:
    """Refuse what could never be published, however many sign it.

    Raises:
        RefusedPublicationError: A rule is broken; ``.rule`` names it.
        ExpiredMetadataError: A file is expired.
    """
    for role, item in proposal.files.items():
        verify_fresh(role, item.signed, now)
        if proposal.dialect is TUF:
            _verify_tuf_fit(role, item.signed)
        _verify_reachable(role, item.signed)
    root = proposal.files.get("root")
    if root is not None and not holds_threshold(root.signed, "timestamp", online.timestamp):
        raise RefusedPublicationError(
            "the root's timestamp role needs keys that this server doesn't hold",
            rule="timestamp-is-online",
            role="root",
        )
    _verify_nothing_orphaned(proposal, current.files if current is not None else {})


def _verify_nothing_orphaned(
    proposal: Proposal, held: Mapping[str, UnverifiedMetadata[Any]]
) -> None:
    """Refuse to leave a file behind that its role's new keys don't vouch for.

    A Notary role that was removed and comes back may be silent.
    """
    before = {role for by in delegating(held, {}) for role in delegates_of(held[by].signed)}
    for by in proposal.files.values():
        for role in [*delegates_of(by.signed), *_bins_with_other_keys(by, held)]:
            item = held.get(role)
            if item is None or role in proposal.files:
                continue
            if proposal.dialect is NOTARY and role not in before:
                continue
            standing = standing_of(item, by)
            if standing.lacking and standing.keys:
                raise RefusedPublicationError(
                    f"{role} version {item.version}, which stays, isn't signed by its new keys",
                    rule="orphaned-role",
                    role=role,
                    hint=f"propose {role} signed anew together with {by.role}",
                )


def _bins_with_other_keys(
    by: UnverifiedMetadata[Any], held: Mapping[str, UnverifiedMetadata[Any]]
) -> Iterable[str]:
    """List the hash bins that a file delegates to otherwise than before."""
    bins = bins_of(by.signed) if isinstance(by.signed, Targets) else None
    known = held.get(by.role)
    if bins is None or (known is not None and known.signed.delegations == by.signed.delegations):
        return ()
    return bins.get_roles()


def _verify_tuf_fit(role: str, signed: Root | Targets) -> None:
    if isinstance(signed, Root):
        verify_root_fit(signed)
    else:
        verify_targets_fit(role, signed)


def _verify_reachable(role: str, signed: Root | Targets) -> None:
    """Refuse a role that its own distinct keys can't reach the threshold of."""
    entries: Mapping[str, Role] = {}
    keys: Mapping[str, Key] = {}
    if isinstance(signed, Root):
        entries, keys = signed.roles, signed.keys
    elif signed.delegations is not None:
        entries = {child.name: child for child in delegated_roles(signed)}
        keys = signed.delegations.keys
    for name, entry in entries.items():
        count = len({material_of(keys[keyid]) for keyid in entry.keyids if keyid in keys})
        # A Notary delegation may have lost its last key: it's silent then.
        if count < entry.threshold and (count or isinstance(signed, Root)):
            raise RefusedPublicationError(
                f"{role} gives {name[:80]} threshold {entry.threshold} but only {count} keys",
                rule="unreachable-threshold",
                role=role,
            )


def _holds(key: Key, signature: Signature, signed_bytes: bytes) -> bool:
    try:
        key.verify_signature(signature, signed_bytes)
    except Exception:  # noqa: BLE001  (a foreign fault on hostile keys is a "no")
        return False
    return True
