"""The root after a root: with other keys, thresholds or expiry.

Spec: TUF 1.0.34, 6.1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root

from tabellion.core.dialect import NOTARY, Dialect
from tabellion.core.holders import set_holders
from tabellion.core.roles import key_material
from tabellion.errors import UsageError

ROLES: Final = ("root", "targets", "snapshot", "timestamp")
ONLINE: Final = frozenset({"snapshot", "timestamp"})
"""Those that a server may sign."""


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


def next_root(old: Root, edit: RootEdit, dialect: Dialect) -> Root:
    """Give the root after another, unsigned, its expiry still the old one's.

    Raises:
        UsageError: A role would have fewer keys than its threshold, or the edit doesn't fit.
    """
    root = copy.deepcopy(old)
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
    if edit.holders and dialect is NOTARY:
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
            hint="give more of the id; see them with: tabellion status GUN",
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
