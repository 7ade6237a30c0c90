"""The next root: other keys, thresholds or expiry, and all that has to be signed with it.

It is signed by the old and the new root keys that are here; with fewer than both thresholds it's
a proposal. What a changed role signed is signed anew in the same publication, so that no reader
is left with a file that nobody vouches for.

Spec: TUF 1.0.34, 6.1; notary-v1 sections 9 and 17.1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Role, Root

from tabellion.core.dialect import NOTARY
from tabellion.core.holders import set_holders
from tabellion.core.notary_search import RELEASES
from tabellion.core.proposal import Proposal
from tabellion.core.publication import UploadedFile
from tabellion.core.roles import key_material
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import UsageError
from tabellion.publish.notary_release import hand_over
from tabellion.publish.signatures import signatures_missing
from tabellion.publish.signing import (
    Built,
    Expiries,
    KeyRing,
    judge,
    no_key,
    with_snapshot,
)
from tabellion.publish.state import Current

ROLES: Final = ("root", "targets", "snapshot", "timestamp")
ONLINE: Final = frozenset({"snapshot", "timestamp"})


@dataclass(frozen=True)
class RootEdit:
    """What is to change in a root; nothing renews it as it is.

    Attributes:
        keys: Role to all its keys afterwards, as the GUN's metadata lists keys.
        added: Role to keys it gets beside those it has.
        removed: Ids, or beginnings of ids, of keys to be taken from every role.
        thresholds: Role to threshold.
        holders: Key id to its holder's name.
        life: How long the root lasts; None for as long as is usual.
    """

    keys: Mapping[str, Sequence[Key]] = field(default_factory=dict)
    added: Mapping[str, Sequence[Key]] = field(default_factory=dict)
    removed: Sequence[str] = ()
    thresholds: Mapping[str, int] = field(default_factory=dict)
    holders: Mapping[str, str] = field(default_factory=dict)
    life: timedelta | None = None


def check_rotation(roles: Sequence[str], *, has_keys: bool, server: bool) -> frozenset[str]:
    """Give the roles whose new keys the server makes.

    Raises:
        UsageError: Roles, keys and holder don't go together.
    """
    wrong = [role for role in roles if role not in ROLES or (server and role not in ONLINE)]
    if wrong and wrong[0] in ROLES:
        raise UsageError(
            f"the server can't hold the key of {wrong[0]}",
            hint="it holds those of snapshot and timestamp; rotate the others by themselves",
        )
    if wrong or not roles or len(set(roles)) != len(roles):
        said = f"{wrong[0][:40]!r} isn't a top-level role" if wrong else "each role is named once"
        raise UsageError(said, hint=f"they are {', '.join(ROLES)}")
    online = frozenset(role for role in roles if role == "timestamp" or server)
    if has_keys and (online or len(roles) > 1):
        said = f"the {min(online)} key is the server's to make" if online else "keys are for one"
        raise UsageError(said, hint="leave --key or --server-managed out, or rotate one role")
    return online


def build_root_edit(
    current: Current,
    edit: RootEdit,
    ring: KeyRing,
    *,
    expiries: Expiries,
    now: datetime,
    may_be_unsigned: bool = False,
) -> Built:
    """Sign the next root and what depends on it, as far as the keys here go.

    Raises:
        UsageError: A role would have fewer keys than its threshold, or the edit doesn't fit.
        KeyStoreError: No key that has to sign is here, and it may not be unsigned.
        PassphraseError: A passphrase is missing or wrong.
    """
    dialect, old = current.trusted.dialect, current.root
    root = next_root(current, edit)
    root.expires = now + (edit.life or expiries.root)
    signers = {
        signer.public_key.keyid: signer
        for each in (old, root)
        for signer in _signers(current, ring, each, "root")
    }
    if not signers and not may_be_unsigned:
        raise no_key(current.gun, "root", old.roles["root"])
    files = [UploadedFile("root", dialect.sign(root, list(signers.values())))]
    versions = {"root": root.version}
    held = current.roles["targets"]
    entry = root.roles["targets"]
    if signatures_missing(dialect, "targets", held.data, root.keys, entry):
        targets = copy.deepcopy(held.signed)
        anew = {"targets": targets}
        keys = [root.keys[keyid] for keyid in entry.keyids]
        if dialect is NOTARY and hand_over(current, targets, keys):
            anew[RELEASES] = copy.deepcopy(current.roles[RELEASES].signed)
        signers_of_targets = _signers(current, ring, root, "targets")
        for role, payload in anew.items():
            payload.version = current.version_of(role) + 1
            payload.expires = now + expiries.targets
            files.append(UploadedFile(role, dialect.sign(payload, signers_of_targets)))
            versions[role] = payload.version
    missing = Proposal.parse(current.gun, dialect, files).missing(current.as_served())
    if missing:
        return Built(dialect, tuple(files), versions, missing)
    files, versions = with_snapshot(
        current, files, versions, ring, expiries=expiries, now=now, root=root
    )
    judge(current, files, now=now, root=root)
    return Built(dialect, tuple(files), versions, {})


def root_alone(
    trusted: TrustedSet, edit: RootEdit, ring: KeyRing, *, expires_at: datetime
) -> bytes | None:
    """Sign the root after a trusted one by itself; None if the keys here are too few.

    Raises:
        UsageError: The edit doesn't fit.
        PassphraseError: A passphrase is missing or wrong.
    """
    current, dialect, old = (
        Current(trusted.gun or "", trusted, {}, {}),
        trusted.dialect,
        trusted.root,
    )
    root = next_root(current, edit)
    root.expires = expires_at
    signers = {
        signer.public_key.keyid: signer
        for each in (old.signed, root)
        for signer in _signers(current, ring, each, "root")
    }
    data = dialect.sign(root, list(signers.values()))
    lacking = any(
        signatures_missing(dialect, "root", data, each.keys, each.roles["root"])
        for each in (old.signed, root)
    )
    return None if lacking else data


def next_root(current: Current, edit: RootEdit) -> Root:
    """Give the edited root, its expiry still the old one's.

    Raises:
        UsageError: A role would have fewer keys than its threshold, or the edit doesn't fit.
    """
    root = copy.deepcopy(current.root)
    root.version += 1
    _check_roles({*edit.keys, *edit.added, *edit.thresholds})
    for role, keys in edit.keys.items():
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for key in keys:
            root.add_key(key, role)
    for role, keys in edit.added.items():
        for key in keys:
            _add(root, key, role)
    for text in edit.removed:
        _remove(root, text)
    for role, threshold in edit.thresholds.items():
        root.roles[role].threshold = threshold
    for role, entry in root.roles.items():
        _check_reachable(role, root, entry)
    if edit.holders and current.trusted.dialect is NOTARY:
        raise UsageError(
            "a Notary root has no place for holders' names",
            hint="leave =NAME out; names of keys here are shown from their notes",
        )
    set_holders(root, edit.holders)
    return root


def _add(root: Root, key: Key, role: str) -> None:
    """Add a key, under the id that the root lists it by already if it does."""
    material = key_material(key)
    for keyid in root.roles[role].keyids:
        if key_material(root.keys[keyid]) == material:
            raise UsageError(
                f"key {keyid[:16]} is one of {role} already", hint="leave it out of --add-key"
            )
    if root.keys.get(key.keyid, key) != key:
        raise UsageError(f"two keys have the id {key.keyid[:64]}", hint="make a new key")
    root.add_key(key, role)


def _remove(root: Root, text: str) -> None:
    """Take a key from every role of publishers that has it."""
    found = [keyid for keyid in root.keys if keyid.startswith(text.lower())]
    used = {keyid: [name for name in ROLES if keyid in root.roles[name].keyids] for keyid in found}
    if len(found) != 1:
        raise UsageError(
            f"{len(found)} keys of the root begin with {text[:64]!r}",
            hint="give more of the id; see them with: tabellion root show GUN",
        )
    for name in used[found[0]]:
        root.revoke_key(found[0], name)


def _check_roles(named: set[str]) -> None:
    odd = sorted(named - set(ROLES))
    if odd:
        raise UsageError(
            f"{odd[0][:40]!r} is no role of a root", hint=f"its roles are {', '.join(ROLES)}"
        )


def _check_reachable(role: str, root: Root, entry: Role) -> None:
    count = len({key_material(root.keys[keyid]) for keyid in entry.keyids})
    if not 1 <= entry.threshold <= count:
        raise UsageError(
            f"{role} needs {entry.threshold} keys, {count} would be left",
            hint="give as many keys as the threshold, or lower it",
        )


def _signers(current: Current, ring: KeyRing, root: Root, role: str) -> list[Signer]:
    entry = root.roles[role]
    return ring.open(current.trusted.dialect, root.keys, entry.keyids, at_most=entry.threshold)
