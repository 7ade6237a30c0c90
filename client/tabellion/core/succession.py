"""What a file must be to be taken after another: signed, no older, and the one that is named.

Spec: TUF 1.0.34, 5.3 to 5.6; the step numbers stand at the checks.
"""

from __future__ import annotations

import hashlib
from typing import Final, TypeVar, cast

from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets

from tabellion.core.conversion import verify_signed_by_notary_root
from tabellion.core.dialect import Dialect
from tabellion.core.metadata import TrustedMetadata, UnverifiedMetadata, UnversionedMeta
from tabellion.core.roles import key_material, role_keys, verify_threshold
from tabellion.errors import MixAndMatchError, RollbackError

_ONLINE: Final = ("timestamp", "snapshot")
S = TypeVar("S", bound=Signed)


def trust(unverified: UnverifiedMetadata[S], role: str, delegator: Signed) -> TrustedMetadata[S]:
    """Take a file as its delegator's keys stand for it.

    Raises:
        ThresholdError: Too few of them signed it.
        MalformedMetadataError: The delegator doesn't name the role.
    """
    keys, entry = role_keys(cast("Root | Targets", delegator), role)
    signed_by = verify_threshold(unverified, role, keys, entry.keyids, entry.threshold)
    return TrustedMetadata(unverified.role, unverified.data, unverified.signed, signed_by)


def verify_next_root(
    trusted: Root, unverified: UnverifiedMetadata[Root], *, dialect: Dialect, gun: str | None
) -> TrustedMetadata[Root]:
    """Judge the root after a trusted one; neither one's expiry is.

    Raises:
        ThresholdError: Not signed by a threshold of both the old and the new root keys.
        RollbackError: The version isn't exactly one higher.

    Spec:
        TUF 1.0.34, 5.3.4 and 5.3.5.
    """
    by_old = trust(unverified, "root", trusted)
    dialect.verify_root_signers(trusted, by_old.signed_by, gun=gun, now=None)
    accepted = trust(unverified, "root", unverified.signed)
    dialect.verify_root_signers(accepted.signed, accepted.signed_by, gun=gun, now=None)
    _verify_follows(trusted, accepted)
    return accepted


def verify_converted_root(
    trusted: Root, unverified: UnverifiedMetadata[Root], *, gun: str | None
) -> TrustedMetadata[Root]:
    """Judge the TUF root after a trusted Notary root; neither one's expiry is.

    Raises:
        ThresholdError: Not signed by a threshold of both the old and the new root keys.
        RollbackError: The version isn't exactly one higher.
    """
    verify_signed_by_notary_root(trusted, unverified, gun=gun)
    accepted = trust(unverified, "root", unverified.signed)
    _verify_follows(trusted, accepted)
    return accepted


def _verify_follows(trusted: Root, root: TrustedMetadata[Root]) -> None:
    if root.version != trusted.version + 1:
        raise RollbackError(
            f"root version {root.version} doesn't follow version {trusted.version}",
            role="root",
            found=root.version,
            expected=trusted.version + 1,
        )


def have_online_keys_changed(old: Root, new: Root) -> bool:
    """Tell whether timestamp or snapshot keys or thresholds differ.

    After such a change a client drops its trusted timestamp and snapshot, also where an old key
    stays valid: an attacker who fast-forwarded versions with the other keys is undone only so.

    Spec:
        TUF 1.0.34, 5.3.11.
    """
    return bool(online_roles_changed(old, new))


def online_roles_changed(old: Root, new: Root) -> frozenset[str]:
    """Give those of timestamp and snapshot whose keys or thresholds differ."""
    changed = (role for role in _ONLINE if _role_material(old, role) != _role_material(new, role))
    return frozenset(changed)


def _role_material(root: Root, role: str) -> tuple[int, frozenset[bytes]]:
    entry = root.roles[role]
    material = {key_material(root.keys[keyid]) for keyid in entry.keyids if keyid in root.keys}
    return entry.threshold, frozenset(material)


def verify_snapshot_keeps(old: Snapshot, new: Snapshot) -> None:
    """Refuse a snapshot in which a role went back or is gone (5.5.5).

    One that names no versions may only go on itself: it's the files that show a rollback, and a
    role that nothing delegates to any more may be gone.

    Raises:
        RollbackError: Names the role and both versions.
    """
    if any(isinstance(meta, UnversionedMeta) for meta in old.meta.values()):
        verify_not_lower("snapshot", new.version, old.version)
        return
    for name, meta in old.meta.items():
        role = name.removesuffix(".json")
        found = new.meta.get(name)
        verify_not_lower(role, found.version if found is not None else 0, meta.version)


def verify_not_lower(role: str, found: int, expected: int) -> None:
    """Refuse a version before one seen already; 0 is for none at all.

    Raises:
        RollbackError: It went back.
    """
    if found < expected:
        what = f"has version {found}" if found else "is gone from the snapshot"
        raise RollbackError(
            f"{role} {what}, but version {expected} was seen before",
            role=role,
            found=found,
            expected=expected,
        )


def verify_version(role: str, found: int, meta: MetaFile) -> None:
    """Refuse another version than the one that is named (5.5.4, 5.6.4).

    Raises:
        MixAndMatchError: It's another.
    """
    if not isinstance(meta, UnversionedMeta) and found != meta.version:
        raise MixAndMatchError(f"{role} has version {found}, but version {meta.version} is named")


def verify_meta(role: str, data: bytes, meta: MetaFile) -> None:
    """Check length and every named hash (5.5.2, 5.6.2).

    Raises:
        MixAndMatchError: One differs.
    """
    if meta.length is not None and len(data) != meta.length:
        raise MixAndMatchError(f"{role} has {len(data)} bytes, but {meta.length} are named")
    verify_hashes(role, data, meta.hashes or {})


def verify_hashes(what: str, data: bytes, hashes: dict[str, str]) -> None:
    """Check every named hash; sha256 and sha512 are known.

    Raises:
        MixAndMatchError: One differs, or its algorithm isn't known.
    """
    for algorithm, expected in hashes.items():
        if algorithm not in {"sha256", "sha512"}:
            raise MixAndMatchError(
                f"{what} is named with unknown hash algorithm {algorithm[:20]!r}"
            )
        if hashlib.new(algorithm, data).hexdigest() != expected:
            raise MixAndMatchError(f"{what} doesn't have the {algorithm} that is named for it")
