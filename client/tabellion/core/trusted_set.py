"""The client workflow as a state machine: bytes in, verified metadata or an error out.

Order of use: roots one by one, ``finish_root``, cached then fetched timestamp, cached then
fetched snapshot, then targets roles. A refused file leaves the set as it was.

Spec: TUF 1.0.34, section 5; its step numbers stand at the checks.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, TypeVar, cast

from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from tabellion.core.conversion import (
    is_tuf_root,
    verify_signed_by_notary_root,
    version_before,
)
from tabellion.core.dialect import NOTARY, TUF, Dialect, dialect_of
from tabellion.core.freshness import verify_fresh
from tabellion.core.limits import Limits
from tabellion.core.metadata import TrustedMetadata, UnverifiedMetadata, UnversionedMeta
from tabellion.core.pinning import RootPin
from tabellion.core.roles import key_material, role_keys, verify_threshold
from tabellion.errors import (
    MixAndMatchError,
    NotSignedError,
    RollbackError,
    TabellionError,
    VerificationError,
)

S = TypeVar("S", bound=Signed)


class TrustedSet:
    """What a client trusts of one GUN during one update.

    Attributes:
        now: The moment the update began; judges every expiry.
        dialect: How this GUN writes its files.
        root: The newest trusted root.
        timestamp: Trusted timestamp, or None.
        snapshot: Trusted snapshot, or None.
        gone_roles: Roles that the last snapshot seen named and the trusted one doesn't, where that
            may be right: see ``verify_not_hidden``.
        unusable: (delegator, role) to why that role's file couldn't be had or trusted, where a
            search went on without it.
    """

    def __init__(
        self,
        root_data: bytes,
        *,
        now: datetime,
        gun: str | None = None,
        dialect: Dialect | None = None,
        limits: Limits | None = None,
        pin: RootPin | None = None,
    ) -> None:
        """Start from a root the caller trusts already; its expiry doesn't matter (5.2).

        Args:
            root_data: The root, unverified.
            now: The moment the update begins.
            gun: The collection; Notary's roots are bound to theirs and can't do without it.
            dialect: How the GUN writes its files, now and after; by default the root tells.
            limits: Bounds on sizes and counts.
            pin: What every root has to meet, this one too.

        Raises:
            VerificationError: The root is malformed, not signed by its own threshold or not pinned.
        """
        self.now = now
        self.gun = gun
        self._pin = pin
        self.limits = limits or Limits()
        self.dialect = dialect or dialect_of(root_data)
        self._may_convert = dialect is None
        unverified = self._parse("root", root_data)
        self.root: TrustedMetadata[Root] = _trust(unverified, "root", unverified.signed)
        self._verify_root_signers(self.root, now=None)
        self._verify_pinned(self.root, leads_on=True)
        self.timestamp: TrustedMetadata[Timestamp] | None = None
        self.snapshot: TrustedMetadata[Snapshot] | None = None
        self.unusable: dict[tuple[str, str], TabellionError] = {}
        self._targets: dict[tuple[str, str], TrustedMetadata[Targets]] = {}
        self._seen_files: dict[str, tuple[int, bytes]] = {}
        self.gone_roles: frozenset[str] = frozenset()

    def update_root(self, data: bytes) -> TrustedMetadata[Root]:
        """Take the root after the trusted one (5.3.4 to 5.3.7); expiry isn't judged here.

        After a Notary root it may be a TUF root: from then on that is the dialect.

        Raises:
            ThresholdError: Not signed by a threshold of both the old and the new root keys.
            RollbackError: The version isn't exactly one higher.
            UntrustedRootError: Not signed by a threshold of pinned keys.
            VerificationError: Malformed or too large.
        """
        if self.dialect is NOTARY and self._may_convert and is_tuf_root(data):
            converted: UnverifiedMetadata[Any] = TUF.parse(
                "root", data, max_bytes=self.limits.root_bytes
            )
            root = verify_converted_root(self.root.signed, converted, gun=self.gun)
            self._verify_pinned(root, leads_on=True)
            self.root, self.dialect = root, TUF
            return self.root
        unverified = self._parse("root", data)
        following = verify_next_root(
            self.root.signed, unverified, dialect=self.dialect, gun=self.gun
        )
        self._verify_pinned(following, leads_on=True)
        self.root = following
        return self.root

    def finish_root(self) -> None:
        """Refuse the final root if it, or what its keys are certified by, expired (5.3.10)."""
        verify_fresh("root", self.root.signed, self.now)
        self._verify_root_signers(self.root, now=self.now)
        self._verify_pinned(self.root, leads_on=False)

    def load_timestamp(self, data: bytes) -> None:
        """Take a cached timestamp: expired, it still guards against rollback.

        Raises:
            VerificationError: Not signed by the trusted root's timestamp keys, or malformed.
        """
        unverified = self._parse("timestamp", data)
        self.timestamp = _trust(unverified, "timestamp", self.root.signed)

    def update_timestamp(self, data: bytes) -> bool:
        """Take a fetched timestamp (5.4).

        Returns:
            False if it has the version already trusted: the old one is kept (5.4.3.1).

        Raises:
            RollbackError: Its version, or the snapshot version it names, went back.
            ExpiredMetadataError: It, or the kept one, is expired.
            VerificationError: Too few signatures, malformed or too large.
        """
        if self.timestamp is not None and self.timestamp.data == data:
            verify_fresh("timestamp", self.timestamp.signed, self.now)
            return False
        unverified = self._parse("timestamp", data)
        candidate: TrustedMetadata[Timestamp] = _trust(unverified, "timestamp", self.root.signed)
        if self.timestamp is not None:
            _verify_not_lower("timestamp", candidate.version, self.timestamp.version)
            if candidate.version == self.timestamp.version:
                verify_fresh("timestamp", self.timestamp.signed, self.now)
                return False
            _verify_not_lower(  # 5.4.3.2
                "snapshot", candidate.signed.snapshot_meta.version, self.snapshot_meta.version
            )
        verify_fresh("timestamp", candidate.signed, self.now)  # 5.4.4
        self.timestamp = candidate
        return True

    def load_snapshot(self, data: bytes) -> None:
        """Take a cached snapshot: stale or expired, it still guards against rollback.

        Raises:
            VerificationError: Not signed by the trusted root's snapshot keys, or malformed.
        """
        unverified = self._parse("snapshot", data)
        self.snapshot = _trust(unverified, "snapshot", self.root.signed)

    def is_snapshot_current(self) -> bool:
        """Tell whether the loaded snapshot is the one that the timestamp names, and fresh."""
        if self.snapshot is None:
            return False
        try:
            _verify_version("snapshot", self.snapshot.version, self.snapshot_meta)
            _verify_meta("snapshot", self.snapshot.data, self.snapshot_meta)
            self._verify_root_named(self.snapshot.signed)
            verify_fresh("snapshot", self.snapshot.signed, self.now)
        except VerificationError:
            return False
        return True

    def update_snapshot(self, data: bytes) -> TrustedMetadata[Snapshot]:
        """Take the snapshot that the timestamp names (5.5).

        Raises:
            MixAndMatchError: Not the bytes or version that the timestamp names.
            RollbackError: A listed role's version went back, or a listed role is gone.
            ExpiredMetadataError: It's expired.
            VerificationError: Too few signatures, malformed or too large.
        """
        _verify_meta("snapshot", data, self.snapshot_meta)  # 5.5.2
        unverified = self._parse("snapshot", data)
        candidate: TrustedMetadata[Snapshot] = _trust(unverified, "snapshot", self.root.signed)
        _verify_version("snapshot", candidate.version, self.snapshot_meta)  # 5.5.4
        self._verify_root_named(candidate.signed)
        if self.snapshot is not None:
            verify_snapshot_keeps(self.snapshot.signed, candidate.signed)
            self._compare_unversioned(self.snapshot, candidate)
        verify_fresh("snapshot", candidate.signed, self.now)  # 5.5.6
        self.snapshot = candidate
        return candidate

    def load_targets(self, data: bytes, role: str, delegator: str) -> None:
        """Take a cached file as a guard against rollback, where the snapshot names no versions.

        After a conversion that is the last Notary file of the role.

        Raises:
            VerificationError: Its delegator's keys don't vouch for it any more, or malformed.
        """
        if self.dialect is TUF:
            keys, entry = role_keys(self._delegator(delegator), role)
            self._seen_files[role] = version_before(role, data, keys, entry), data
        elif isinstance(self.targets_meta(role), UnversionedMeta):
            known: TrustedMetadata[Targets] = _trust(
                self._parse(role, data), role, self._delegator(delegator)
            )
            self._seen_files[role] = known.version, known.data

    def update_targets(
        self, data: bytes, role: str = "targets", delegator: str = "root"
    ) -> TrustedMetadata[Targets]:
        """Take a targets role's file (5.6), judged by the delegator that led to it.

        Raises:
            MixAndMatchError: Not the bytes or version that the snapshot names, or not those that
                another delegator's search was shown.
            RollbackError: An earlier version than one seen before.
            ExpiredMetadataError: It's expired.
            VerificationError: Not in the snapshot, too few signatures, malformed or too large.
        """
        meta = self.targets_meta(role)
        _verify_meta(role, data, meta)  # 5.6.2
        unverified = self._parse(role, data)
        trusted: TrustedMetadata[Targets] = _trust(unverified, role, self._delegator(delegator))
        _verify_version(role, trusted.version, meta)  # 5.6.4
        seen_version, seen = self._seen_files.get(role, (0, data))
        _verify_not_lower(role, trusted.version, seen_version)
        if trusted.version == seen_version and seen != data:
            raise MixAndMatchError(f"two files are shown as {role} version {trusted.version}")
        verify_fresh(role, trusted.signed, self.now)  # 5.6.5
        for (known_by, known_role), known in self._targets.items():
            if known_role == role and known_by != delegator and known.data != data:
                # A name means one file, or what the keys of one delegator signed would speak
                # where another's were asked.
                raise MixAndMatchError(f"two files are shown as {role} version {meta.version}")
        self._targets[delegator, role] = trusted
        return trusted

    def verify_not_hidden(self, role: str, data: bytes) -> None:
        """Refuse a snapshot that names a role no longer though its last file still stands.

        Where a search passes over roles that never published, whoever holds the snapshot key
        could make an older word of somebody else be taken. A role that nothing delegates to any
        more, or whose file its keys don't vouch for now, may be gone.

        Raises:
            RollbackError: ``data``, the file seen last, is what the role's keys stand for.
        """
        if self.targets is None or role not in self.gone_roles:
            return
        try:
            keys, entry = role_keys(self.targets.signed, role)
            known = self._parse(role, data)
            verify_threshold(known, role, keys, entry.keyids, entry.threshold)
        except VerificationError:
            return
        _verify_not_lower(role, 0, known.version)

    def note_unusable(self, role: str, delegator: str, error: TabellionError) -> None:
        """Keep why an optional role is left out."""
        self.unusable[delegator, role] = error

    def role(self, role: str, delegator: str) -> TrustedMetadata[Targets] | None:
        """Give a targets role as verified for that delegator, None if it wasn't yet."""
        return self._targets.get((delegator, role))

    @property
    def targets(self) -> TrustedMetadata[Targets] | None:
        """Give the top-level targets role, None if it isn't loaded yet."""
        return self.role("targets", "root")

    @property
    def snapshot_meta(self) -> MetaFile:
        """Give what the timestamp says of the snapshot."""
        if self.timestamp is None:
            raise RuntimeError("the timestamp comes before the snapshot")
        return self.timestamp.signed.snapshot_meta

    def targets_meta(self, role: str) -> MetaFile:
        """Give what the snapshot says of a targets role.

        Raises:
            NotSignedError: The snapshot doesn't list the role: it was never published.
        """
        if self.snapshot is None:
            raise RuntimeError("the snapshot comes before targets")
        meta = self.snapshot.signed.meta.get(f"{role}.json")
        if meta is None:
            raise NotSignedError(
                f"role {role[:80]!r} is delegated to, but has published nothing yet",
                hint=f"its signer signs once: tabellion sign --role {role[:80]} IMAGE",
            )
        return meta

    def _verify_root_signers(self, root: TrustedMetadata[Root], *, now: datetime | None) -> None:
        self.dialect.verify_root_signers(root.signed, root.signed_by, gun=self.gun, now=now)

    def _verify_pinned(self, root: TrustedMetadata[Root], *, leads_on: bool) -> None:
        if self._pin is not None:
            self._pin.verify_root(root.signed, root.signed_by, now=self.now, leads_on=leads_on)

    def _compare_unversioned(
        self, old: TrustedMetadata[Snapshot], new: TrustedMetadata[Snapshot]
    ) -> None:
        """Note what is gone, and refuse two contents of one version, where no versions tell it."""
        if not self.dialect.lists_root:
            return
        if new.version == old.version and new.data != old.data:
            raise MixAndMatchError(f"two files are shown as snapshot version {old.version}")
        gone = old.signed.meta.keys() - new.signed.meta.keys()
        self.gone_roles = frozenset(name.removesuffix(".json") for name in gone)

    def _verify_root_named(self, snapshot: Snapshot) -> None:
        """Refuse a snapshot that goes with another root than the trusted one.

        Where snapshots name the root, whoever hides the newest one shows here.
        """
        if self.dialect.lists_root:
            _verify_meta("root", self.root.data, snapshot.meta["root.json"])

    def _delegator(self, name: str) -> Root | Targets:
        if name == "root":
            return self.root.signed
        for (_, role), trusted in self._targets.items():
            if role == name:
                return trusted.signed
        raise RuntimeError(f"delegator {name} comes before its roles")

    def _parse(self, role: str, data: bytes) -> UnverifiedMetadata[Any]:
        return self.dialect.parse(role, data, max_bytes=self.limits.max_bytes(role))


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
    by_old = _trust(unverified, "root", trusted)
    dialect.verify_root_signers(trusted, by_old.signed_by, gun=gun, now=None)
    accepted = _trust(unverified, "root", unverified.signed)
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
    accepted = _trust(unverified, "root", unverified.signed)
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


_ONLINE = ("timestamp", "snapshot")


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
        _verify_not_lower("snapshot", new.version, old.version)
        return
    for name, meta in old.meta.items():
        role = name.removesuffix(".json")
        found = new.meta.get(name)
        _verify_not_lower(role, found.version if found is not None else 0, meta.version)


def _trust(unverified: UnverifiedMetadata[S], role: str, delegator: Signed) -> TrustedMetadata[S]:
    keys, entry = role_keys(cast("Root | Targets", delegator), role)
    signed_by = verify_threshold(unverified, role, keys, entry.keyids, entry.threshold)
    return TrustedMetadata(unverified.role, unverified.data, unverified.signed, signed_by)


def _verify_not_lower(role: str, found: int, expected: int) -> None:
    if found < expected:
        what = f"has version {found}" if found else "is gone from the snapshot"
        raise RollbackError(
            f"{role} {what}, but version {expected} was seen before",
            role=role,
            found=found,
            expected=expected,
        )


def _verify_version(role: str, found: int, meta: MetaFile) -> None:
    if not isinstance(meta, UnversionedMeta) and found != meta.version:
        raise MixAndMatchError(f"{role} has version {found}, but version {meta.version} is named")


def _verify_meta(role: str, data: bytes, meta: MetaFile) -> None:
    """Check length and every named hash (5.5.2, 5.6.2)."""
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
