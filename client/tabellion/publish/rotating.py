"""Rotation: a root that names another key for a role, and all that has to be signed with it.

The new root is signed by the old and the new root keys; what the changed role signed is signed
anew in the same publication, so that no reader is left with a file that nobody vouches for.

Spec: TUF 1.0.34, 6.1; notary-v1 sections 9 and 17.1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Root

from tabellion.core.publication import OnlineKeys, UploadedFile
from tabellion.core.release import next_snapshot
from tabellion.core.transitions import judge_publication
from tabellion.errors import KeyStoreError, UsageError
from tabellion.publish.signing import Built, Expiries, KeyRing, no_key
from tabellion.publish.state import Current

_ROLES: Final = ("root", "targets", "snapshot", "timestamp")
_ONLINE: Final = frozenset({"snapshot", "timestamp"})


@dataclass(frozen=True)
class Rotation:
    """What is to change of one role.

    Attributes:
        role: A top-level role.
        keys: Its new keys, as the GUN's metadata lists keys; its threshold stays.
    """

    role: str
    keys: tuple[Key, ...]


def check_rotation(roles: Sequence[str], *, has_keys: bool, server: bool) -> frozenset[str]:
    """Give the roles whose new keys the server makes.

    Raises:
        UsageError: Roles, keys and holder don't go together.
    """
    wrong = [role for role in roles if role not in _ROLES or (server and role not in _ONLINE)]
    if wrong and wrong[0] in _ROLES:
        raise UsageError(
            f"the server can't hold the key of {wrong[0]}",
            hint="it holds those of snapshot and timestamp; rotate the others by themselves",
        )
    if wrong or not roles or len(set(roles)) != len(roles):
        said = f"{wrong[0][:40]!r} isn't a top-level role" if wrong else "each role is named once"
        raise UsageError(said, hint=f"they are {', '.join(_ROLES)}")
    online = frozenset(role for role in roles if role == "timestamp" or server)
    if has_keys and (online or len(roles) > 1):
        said = f"the {min(online)} key is the server's to make" if online else "keys are for one"
        raise UsageError(said, hint="leave --key or --server-managed out, or rotate one role")
    return online


def build_rotation(
    current: Current,
    rotations: Sequence[Rotation],
    ring: KeyRing,
    *,
    expiries: Expiries,
    now: datetime,
) -> Built:
    """Sign one next root with all of the changes, and what depends on it.

    Raises:
        UsageError: A role would have fewer keys than its threshold.
        KeyStoreError: Too few keys of the old or the new root, or of a role, are here.
        PassphraseError: A passphrase is missing or wrong.
    """
    dialect, old = current.trusted.dialect, current.root
    root = _next_root(old, rotations)
    root.expires = now + expiries.root
    signers = {
        signer.public_key.keyid: signer
        for each in (old, root)
        for signer in _signers(current, ring, each, "root")
    }
    files = {"root": UploadedFile("root", dialect.sign(root, list(signers.values())))}
    versions = {"root": root.version}
    if any(rotation.role == "targets" for rotation in rotations):
        targets = copy.deepcopy(current.roles["targets"].signed)
        targets.version = current.version_of("targets") + 1
        targets.expires = now + expiries.targets
        data = dialect.sign(targets, _signers(current, ring, root, "targets"))
        files["targets"], versions["targets"] = UploadedFile("targets", data), targets.version
    _add_snapshot(current, root, files, versions, ring, expires_at=now + expiries.snapshot)
    judge_publication(
        current.as_served(),
        list(files.values()),
        gun=current.gun,
        online=_online_keys(root, "snapshot" in files),
        now=now,
        limits=current.trusted.limits,
    )
    return Built(dialect, tuple(files.values()), versions, {})


def _next_root(old: Root, rotations: Sequence[Rotation]) -> Root:
    root = copy.deepcopy(old)
    root.version += 1
    for rotation in rotations:
        _replace_keys(root, rotation)
    return root


def _replace_keys(root: Root, rotation: Rotation) -> None:
    entry = root.roles[rotation.role]
    if len({key.keyid for key in rotation.keys}) < entry.threshold:
        raise UsageError(
            f"{rotation.role} needs {entry.threshold} keys, {len(rotation.keys)} would be left",
            hint="give as many new keys as the threshold: --key, once for each",
        )
    if {key.keyid for key in rotation.keys} == set(entry.keyids):
        raise UsageError(
            f"those are the keys that {rotation.role} has already", hint="give another --key"
        )
    for keyid in list(entry.keyids):
        root.revoke_key(keyid, rotation.role)
    for key in rotation.keys:
        root.add_key(key, rotation.role)


def _signers(current: Current, ring: KeyRing, root: Root, role: str) -> list[Signer]:
    entry = root.roles[role]
    dialect = current.trusted.dialect
    signers = ring.open(dialect, root.keys, entry.keyids, at_most=entry.threshold)
    if not signers:
        raise no_key(current.gun, role, entry)
    if len(signers) < entry.threshold:
        raise KeyStoreError(
            f"{len(signers)} of {entry.threshold} needed keys of {role} of {current.gun} are here",
            hint="import the others: a rotation by several holders is a ceremony of its own",
        )
    return signers


def _add_snapshot(
    current: Current,
    root: Root,
    files: dict[str, UploadedFile],
    versions: dict[str, int],
    ring: KeyRing,
    *,
    expires_at: datetime,
) -> None:
    """Add a snapshot if its keys are here; else the server signs it."""
    dialect, entry = current.trusted.dialect, root.roles["snapshot"]
    if len(ring.held().among(root.keys, entry.keyids)) < entry.threshold:
        return
    held = current.trusted.snapshot
    snapshot = next_snapshot(
        dialect,
        held.signed if held is not None else None,
        {
            role: (versions[role], file.data)
            for role, file in files.items()
            if role != "root" or dialect.lists_root
        },
        expires_at=expires_at,
    )
    data = dialect.sign(snapshot, _signers(current, ring, root, "snapshot"))
    files["snapshot"], versions["snapshot"] = UploadedFile("snapshot", data), snapshot.version


def _online_keys(root: Root, has_snapshot: bool) -> OnlineKeys:  # noqa: FBT001  (one caller)
    def keys_of(role: str) -> list[Key]:
        listed: Mapping[str, Key] = root.keys
        return [listed[keyid] for keyid in root.roles[role].keyids]

    return OnlineKeys([] if has_snapshot else keys_of("snapshot"), keys_of("timestamp"))
