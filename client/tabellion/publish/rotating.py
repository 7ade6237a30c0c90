"""Rotation: a root that names another key for a role, and all that has to be signed with it.

The new root is signed by the old and the new root keys; what the changed role signed is signed
anew in the same publication, so that no reader is left with a file that nobody vouches for.

Spec: TUF 1.0.34, 6.1; notary-v1 sections 9 and 17.1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Root

from tabellion.core.dialect import NOTARY
from tabellion.core.notary_search import RELEASES
from tabellion.core.publication import OnlineKeys, UploadedFile
from tabellion.core.release import next_snapshot
from tabellion.core.transitions import judge_publication
from tabellion.errors import KeyStoreError, UsageError
from tabellion.publish.notary_release import hand_over
from tabellion.publish.signing import Built, Expiries, KeyRing, no_key
from tabellion.publish.state import Current

ROLES = ("root", "targets", "snapshot", "timestamp")


@dataclass(frozen=True)
class Rotation:
    """What is to change.

    Attributes:
        role: A top-level role.
        keys: Its new keys, as the GUN's metadata lists keys; its threshold stays.
    """

    role: str
    keys: tuple[Key, ...]


def build_rotation(
    current: Current, rotation: Rotation, ring: KeyRing, *, expiries: Expiries, now: datetime
) -> Built:
    """Sign the next root, and what depends on it.

    Raises:
        UsageError: The role would have fewer keys than its threshold.
        KeyStoreError: Too few keys of the old or the new root, or of the role, are here.
        PassphraseError: A passphrase is missing or wrong.
    """
    dialect, old = current.trusted.dialect, current.root
    root = _next_root(old, rotation)
    root.expires = now + expiries.root
    signers = {
        signer.public_key.keyid: signer
        for each in (old, root)
        for signer in _signers(current, ring, each, "root")
    }
    files = {"root": UploadedFile("root", dialect.sign(root, list(signers.values())))}
    versions = {"root": root.version}
    if rotation.role == "targets":
        targets = copy.deepcopy(current.roles["targets"].signed)
        anew = {"targets": targets}
        if dialect is NOTARY and hand_over(current, targets, rotation.keys):
            anew[RELEASES] = copy.deepcopy(current.roles[RELEASES].signed)
        signers_of_targets = _signers(current, ring, root, "targets")
        for role, payload in anew.items():
            payload.version = current.version_of(role) + 1
            payload.expires = now + expiries.targets
            files[role] = UploadedFile(role, dialect.sign(payload, signers_of_targets))
            versions[role] = payload.version
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


def _next_root(old: Root, rotation: Rotation) -> Root:
    root = copy.deepcopy(old)
    root.version += 1
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
    return root


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
