"""Delegating in a Notary GUN, and to its release where only the owner here could sign that.

docker's clients begin a release that the snapshot doesn't list, or whose file its keys don't vouch
for, at version 1. No server takes a version twice, so after the last signer was removed a new one
could never sign with docker. There the owner's key signs the release too, until a signer has.

Spec: notary-v1 sections 6 (step 8), 9 and 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Targets

from tabellion.core.dialect import NOTARY
from tabellion.core.notary_search import RELEASES
from tabellion.core.roles import delegated_roles, key_material
from tabellion.publish.signatures import signatures_missing

if TYPE_CHECKING:
    from tabellion.publish.draft import Draft
    from tabellion.publish.state import Current


def delegate(
    draft: Draft,
    role: str,
    keys: Sequence[Key],
    paths: Sequence[str],
    *,
    keep: Sequence[str],
    parent: str = "targets",
) -> None:
    """Let ``parent`` delegate to a role, by these keys and the ids of keys to keep."""
    keyids = list(dict.fromkeys([*keep, *(key.keyid for key in keys)]))
    wanted = NOTARY.delegated_role(role, keyids, 1, paths=paths)
    current = {child.name: child for child in delegated_roles(draft.of(parent))}.get(role)
    if current == wanted:
        return
    targets = draft.edit(parent)
    if targets.delegations is None or targets.delegations.roles is None:
        targets.delegations = Delegations({}, {})
    roles = targets.delegations.roles
    assert roles is not None  # noqa: S101  (made just above; for the type checker)
    roles[role] = wanted
    targets.delegations.keys.update({key.keyid: key for key in keys})
    drop_unused_keys(targets.delegations)


def drop_unused_keys(delegations: Delegations) -> None:
    """Drop the keys that no delegation names."""
    used = {keyid for child in (delegations.roles or {}).values() for keyid in child.keyids}
    for keyid in set(delegations.keys) - used:
        del delegations.keys[keyid]


def owners_material(current: Current) -> set[bytes]:
    """Give the keys of ``targets``, whatever their ids."""
    root = current.root
    return {key_material(root.keys[keyid]) for keyid in root.roles["targets"].keyids}


def is_owners_alone(draft: Draft) -> bool:
    """Tell whether of the release's keys only the owner's are here."""
    keys, entry = draft.keys_of(RELEASES)
    held = draft.held.among(keys, entry.keyids)
    return all(key_material(keys[keyid]) in owners_material(draft.current) for keyid in held)


def keep_signable(draft: Draft) -> None:
    """After a change of signers, let the owner's key sign the release as long as it's needed."""
    targets = draft.of("targets")
    release = {child.name: child for child in delegated_roles(targets)}.get(RELEASES)
    if RELEASES not in draft.respoken or release is None:
        return
    theirs = _without_owner(draft.current, targets, release)
    if theirs and (_is_signed_by(draft, targets, theirs) or _is_any_here(draft, targets, theirs)):
        delegate(draft, RELEASES, [], release.paths or [], keep=theirs)
        return
    keyids = release.keyids
    if _is_signed_by(draft, targets, keyids) or _is_any_here(draft, targets, keyids):
        return
    root = draft.current.root
    mine = draft.held.among(root.keys, root.roles["targets"].keyids)[:1]
    keys = [root.keys[keyid] for keyid in mine]
    delegate(draft, RELEASES, keys, release.paths or [], keep=keyids)


def hand_over(current: Current, targets: Targets, keys: Sequence[Key]) -> bool:
    """Put the owner's new keys into the release in place of the old: those may be stolen.

    Args:
        current: What is published.
        targets: The next targets payload; changed.
        keys: The keys that ``targets`` gets.

    Returns:
        The release has to be signed anew, by these keys.
    """
    release = {child.name: child for child in delegated_roles(targets)}.get(RELEASES)
    if release is None or targets.delegations is None:
        return False
    theirs = _without_owner(current, targets, release)
    if len(theirs) == len(release.keyids):
        return False
    release.keyids = [*theirs, *(key.keyid for key in keys)]
    listed = targets.delegations.keys
    listed.update({key.keyid: key for key in keys})
    drop_unused_keys(targets.delegations)
    file, dialect = current.roles.get(RELEASES), current.trusted.dialect
    return file is not None and bool(
        signatures_missing(dialect, RELEASES, file.data, listed, release)
    )


def _without_owner(current: Current, targets: Targets, release: DelegatedRole) -> list[str]:
    """Give the release's keys without the owner's, unless the owner is a signer as well."""
    delegations = targets.delegations
    keys = delegations.keys if delegations is not None else {}
    signers = {
        key_material(keys[keyid])
        for child in delegated_roles(targets)
        if child.name != RELEASES
        for keyid in child.keyids
    }
    owners = owners_material(current) - signers
    return [keyid for keyid in release.keyids if key_material(keys[keyid]) not in owners]


def _is_signed_by(draft: Draft, targets: Targets, keyids: list[str]) -> bool:
    """Tell whether there's nothing to sign anew: no file, or one that these keys vouch for."""
    current = draft.current
    file = current.roles.get(RELEASES) or current.left.get(RELEASES)
    if file is None:
        return True
    assert targets.delegations is not None  # noqa: S101  (the release is in it)
    keys = targets.delegations.keys
    entry = DelegatedRole(RELEASES, keyids, 1, terminating=False, paths=[""])
    return not signatures_missing(current.trusted.dialect, RELEASES, file.data, keys, entry)


def _is_any_here(draft: Draft, targets: Targets, keyids: list[str]) -> bool:
    assert targets.delegations is not None  # noqa: S101  (the release is in it)
    return bool(draft.held.among(targets.delegations.keys, keyids))
