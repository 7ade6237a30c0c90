"""The client workflow as a state machine: bytes in, verified metadata or an error out.

Order of use: roots one by one, ``finish_root``, cached then fetched timestamp, cached then
fetched snapshot, then targets roles. A refused file leaves the set as it was.

Spec: TUF 1.0.34, section 5; its step numbers stand at the checks.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tuf.api.metadata import MetaFile, Root, Snapshot, Targets, Timestamp

from tabellion.core.conversion import is_tuf_root, version_before
from tabellion.core.dialect import NOTARY, TUF, Dialect, dialect_of
from tabellion.core.freshness import verify_fresh
from tabellion.core.limits import Limits
from tabellion.core.metadata import TrustedMetadata, UnverifiedMetadata, UnversionedMeta
from tabellion.core.pinning import RootPin
from tabellion.core.roles import role_keys, verify_threshold
from tabellion.core.succession import (
    trust,
    verify_converted_root,
    verify_meta,
    verify_next_root,
    verify_not_lower,
    verify_snapshot_keeps,
    verify_version,
)
from tabellion.errors import (
    MixAndMatchError,
    NotSignedError,
    TabellionError,
    VerificationError,
)


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
        self.root: TrustedMetadata[Root] = trust(unverified, "root", unverified.signed)
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
        self.timestamp = trust(unverified, "timestamp", self.root.signed)

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
        candidate: TrustedMetadata[Timestamp] = trust(unverified, "timestamp", self.root.signed)
        if self.timestamp is not None:
            verify_not_lower("timestamp", candidate.version, self.timestamp.version)
            if candidate.version == self.timestamp.version:
                verify_fresh("timestamp", self.timestamp.signed, self.now)
                return False
            verify_not_lower(  # 5.4.3.2
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
        self.snapshot = trust(unverified, "snapshot", self.root.signed)

    def is_snapshot_current(self) -> bool:
        """Tell whether the loaded snapshot is the one that the timestamp names, and fresh."""
        if self.snapshot is None:
            return False
        try:
            verify_version("snapshot", self.snapshot.version, self.snapshot_meta)
            verify_meta("snapshot", self.snapshot.data, self.snapshot_meta)
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
        verify_meta("snapshot", data, self.snapshot_meta)  # 5.5.2
        unverified = self._parse("snapshot", data)
        candidate: TrustedMetadata[Snapshot] = trust(unverified, "snapshot", self.root.signed)
        verify_version("snapshot", candidate.version, self.snapshot_meta)  # 5.5.4
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
            known: TrustedMetadata[Targets] = trust(
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
        verify_meta(role, data, meta)  # 5.6.2
        unverified = self._parse(role, data)
        trusted: TrustedMetadata[Targets] = trust(unverified, role, self._delegator(delegator))
        verify_version(role, trusted.version, meta)  # 5.6.4
        seen_version, seen = self._seen_files.get(role, (0, data))
        verify_not_lower(role, trusted.version, seen_version)
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
        verify_not_lower(role, 0, known.version)

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
            verify_meta("root", self.root.data, snapshot.meta["root.json"])

    def _delegator(self, name: str) -> Root | Targets:
        if name == "root":
            return self.root.signed
        for (_, role), trusted in self._targets.items():
            if role == name:
                return trusted.signed
        raise RuntimeError(f"delegator {name} comes before its roles")

    def _parse(self, role: str, data: bytes) -> UnverifiedMetadata[Any]:
        return self.dialect.parse(role, data, max_bytes=self.limits.max_bytes(role))
