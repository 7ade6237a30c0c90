"""What of a Notary GUN's rows can be trusted and served: the walk from its timestamp down.

Current is what the highest timestamp leads to, by hashes: snapshot, then root, targets and
delegations. Where that doesn't resolve, the next lower timestamp is tried: a repair.
Pure: rows in, verdict out.

Spec: notary-v1 sections 7, 9 and 13, trap T1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tuf.api.metadata import MetaFile, Root, Snapshot, Targets, Timestamp

from tabellion.core.dialect import NOTARY
from tabellion.core.freshness import verify_fresh
from tabellion.core.limits import Limits
from tabellion.core.metadata import TrustedMetadata, UnverifiedMetadata
from tabellion.core.roles import delegated_roles
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import MixAndMatchError, ThresholdError, VerificationError
from tabellion_server.migration.rows import FileRow
from tabellion_server.services.history import tag_events
from tabellion_server.storage.interface import StoredFile, TagEvent

Parsed = UnverifiedMetadata[Any]

_ROLE: Final = re.compile(r"root|snapshot|timestamp|targets(?:/[-a-z0-9_]+)*")
_MAX_ROLE: Final = 255
# Expiry is told, not judged: a rescue is for what is about to die or has.
_LONG_AGO: Final = datetime(1970, 1, 2, tzinfo=UTC)
_LIMITS: Final = Limits()
_SHOWN_HEX: Final = 12


@dataclass(frozen=True)
class Resolved:
    """A GUN as it can be imported.

    Attributes:
        files: What to store, all versions.
        heads: Role to current version.
        roots: All roots, verified one by one.
        history: Timestamp version to what its release signed and revoked, oldest first.
        repairs: What was left out, and why.
        notes: What its owner should know.
    """

    files: Sequence[StoredFile]
    heads: Mapping[str, int]
    roots: Sequence[Root]
    history: Sequence[tuple[int, Sequence[TagEvent]]]
    repairs: Sequence[str]
    notes: Sequence[str]

    @property
    def removed_heads(self) -> list[str]:
        """List roles that have files but aren't served as current."""
        return sorted({file.role for file in self.files} - self.heads.keys())


@dataclass
class _Walk:
    """Where one timestamp leads."""

    files: dict[str, Parsed]
    root: TrustedMetadata[Root]
    notes: list[str] = field(default_factory=list)


def resolve(gun: str, rows: Sequence[FileRow], *, now: datetime) -> Resolved:
    """Find what is current and verify it.

    Args:
        gun: The collection.
        rows: All its rows.
        now: What expiry is told by.

    Raises:
        VerificationError: No timestamp of it resolves; says where the highest one ends.
    """
    return _Gun(gun, rows).resolve(now)


class _Gun:
    def __init__(self, gun: str, rows: Sequence[FileRow]) -> None:
        self.gun = gun
        self.repairs: list[str] = []
        self.by_hash: dict[tuple[str, str], Parsed] = {}
        self.by_version: dict[str, dict[int, Parsed]] = {}
        self.stored_at: dict[tuple[str, int], datetime] = {}
        for row in rows:
            try:
                parsed = _parse(row)
            except VerificationError as error:
                self.repairs.append(
                    f"{row.role[:80]} version {row.version} left out: {error.message}"
                )
                continue
            self.by_hash[row.role, parsed.sha256] = parsed
            self.by_version.setdefault(row.role, {})[parsed.version] = parsed
            self.stored_at[row.role, parsed.version] = row.created_at

    def resolve(self, now: datetime) -> Resolved:
        roots, chain_end = self._verify_roots()
        first_error: VerificationError | None = None
        for version in sorted(self.by_version.get("timestamp", {}), reverse=True):
            try:
                walk = self._walk(self.by_version["timestamp"][version], roots, chain_end)
            except VerificationError as error:
                first_error = first_error or error
                continue
            if first_error is not None:
                self.repairs.append(
                    f"served as of timestamp version {version}, as later ones are broken: "
                    f"{first_error.message}"
                )
            return self._resolved(walk, roots, now)
        raise first_error or MixAndMatchError("it has no timestamp that can be read")

    def _verify_roots(self) -> tuple[list[Parsed], VerificationError | None]:
        """Follow the roots from the lowest; give those that hold and what ended it."""
        numbered = sorted(self.by_version.get("root", {}).items())
        if not numbered:
            raise MixAndMatchError("it has no root that can be read")
        trusted = self._trusted_set(numbered[0][1].data)
        held = [numbered[0][1]]
        for _, parsed in numbered[1:]:
            try:
                trusted.update_root(parsed.data)
            except VerificationError as error:
                return held, error
            held.append(parsed)
        return held, None

    def _walk(
        self, timestamp: Parsed, roots: Sequence[Parsed], chain_end: VerificationError | None
    ) -> _Walk:
        payload: Timestamp = timestamp.signed
        snapshot = self._named("snapshot", payload.snapshot_meta, by=timestamp)
        listed: Snapshot = snapshot.signed
        root = self._named("root", listed.meta["root.json"], by=snapshot)
        if not any(root is item for item in roots):
            why = chain_end.message if chain_end else "it doesn't follow the earlier ones"
            raise MixAndMatchError(f"root version {root.version} can't be trusted: {why}")
        trusted = self._trusted_set(root.data)
        trusted.update_timestamp(timestamp.data)
        trusted.update_snapshot(snapshot.data)
        walk = _Walk({"root": root, "timestamp": timestamp, "snapshot": snapshot}, trusted.root)
        self._walk_targets(trusted, snapshot, walk)
        for name, meta in listed.meta.items():
            role = name.removesuffix(".json")
            if role in walk.files:
                continue
            # Notary's own snapshots go on naming roles that nobody delegates to any more.
            found = self.by_hash.get((role, _sha256(meta)))
            if found is not None:
                walk.files[role] = found
            else:
                walk.notes.append(f"{role[:80]} isn't delegated to, and its bytes are gone")
        return walk

    def _walk_targets(self, trusted: TrustedSet, snapshot: Parsed, walk: _Walk) -> None:
        pending = [("targets", "root")]
        while pending:
            role, delegator = pending.pop(0)
            meta = snapshot.signed.meta.get(f"{role}.json")
            if meta is None or role in walk.files:
                continue  # delegated to, but nothing published yet
            parsed = self._named(role, meta, by=snapshot)
            walk.files[role] = parsed
            try:
                signed: Targets = trusted.update_targets(parsed.data, role, delegator).signed
            except ThresholdError as error:
                if role == "targets":
                    raise
                # Happens to the last signer's removal; clients pass over such a role.
                walk.notes.append(f"clients pass over {role[:80]}: {error.message}")
                continue
            pending.extend((child.name, role) for child in delegated_roles(signed))

    def _named(self, role: str, meta: MetaFile, *, by: Parsed) -> Parsed:
        sha256 = _sha256(meta)
        found = self.by_hash.get((role, sha256))
        if found is None:
            stored = ", ".join(map(str, sorted(self.by_version.get(role, {})))) or "none"
            raise MixAndMatchError(
                f"{by.role} version {by.version} names {role[:80]} with SHA-256 "
                f"{sha256[:_SHOWN_HEX]}..., which no stored bytes have (stored versions: {stored})",
                hint="Notary hashed another form of an upload than it stored; its owner publishes "
                "the GUN anew",
            )
        return found

    def _resolved(self, walk: _Walk, roots: Sequence[Parsed], now: datetime) -> Resolved:
        heads = {role: parsed.version for role, parsed in walk.files.items()}
        kept = self._kept(heads)
        files = [
            StoredFile(
                parsed.role,
                parsed.version,
                parsed.sha256,
                parsed.data,
                self.stored_at[parsed.role, parsed.version],
            )
            for parsed in kept
        ]
        usable = [root.signed for root in roots if root.version <= heads["root"]]
        notes = [*walk.notes, *_expiry_notes(self.gun, walk, now)]
        return Resolved(files, heads, usable, self._history(heads), self.repairs, notes)

    def _kept(self, heads: Mapping[str, int]) -> list[Parsed]:
        """Choose files: the store takes a role's highest version for current."""
        named = {
            (name.removesuffix(".json"), _sha256(meta))
            for version, parsed in self.by_version["snapshot"].items()
            if version <= heads["snapshot"]
            for name, meta in parsed.signed.meta.items()
        }
        kept: list[Parsed] = []
        for role, versions in sorted(self.by_version.items()):
            for version, parsed in sorted(versions.items()):
                if role in heads and version > heads[role]:
                    why = f"above version {heads[role]}, which is current"
                elif role not in heads and (role, parsed.sha256) not in named:
                    why = "no snapshot names it"
                else:
                    kept.append(parsed)
                    continue
                self.repairs.append(f"{role[:80]} version {version} left out: {why}")
        return kept

    def _history(self, heads: Mapping[str, int]) -> list[tuple[int, Sequence[TagEvent]]]:
        """Tell what each release changed; those that don't resolve changed nothing."""
        history: list[tuple[int, Sequence[TagEvent]]] = []
        before: dict[str, Parsed] = {}
        for version, timestamp in sorted(self.by_version["timestamp"].items()):
            snapshot = self.by_hash.get(("snapshot", _sha256(timestamp.signed.snapshot_meta)))
            if snapshot is None or version > heads["timestamp"]:
                continue
            found = {
                name.removesuffix(".json"): self.by_hash.get(
                    (name.removesuffix(".json"), _sha256(meta))
                )
                for name, meta in snapshot.signed.meta.items()
            }
            after = {role: parsed for role, parsed in found.items() if parsed is not None}
            if "targets" not in after:
                continue
            at = self.stored_at["timestamp", version]
            if events := tag_events(before, after, new=after.keys(), at=at):
                history.append((version, events))
            before = after
        return history

    def _trusted_set(self, root: bytes) -> TrustedSet:
        return TrustedSet(root, now=_LONG_AGO, gun=self.gun, dialect=NOTARY)


def is_role(name: str) -> bool:
    """Tell whether Notary takes it for the name of a role."""
    return len(name) <= _MAX_ROLE and _ROLE.fullmatch(name) is not None


def _parse(row: FileRow) -> Parsed:
    if not is_role(row.role):
        raise MixAndMatchError("it's no name of a role")
    parsed: Parsed = NOTARY.parse(row.role, row.data, max_bytes=_LIMITS.max_bytes(row.role))
    if hashlib.sha256(row.data).hexdigest() != row.sha256:
        raise MixAndMatchError("its bytes don't have the SHA-256 of its row")
    if parsed.version != row.version:
        raise MixAndMatchError(f"the file itself says version {parsed.version}")
    return parsed


def _sha256(meta: MetaFile) -> str:
    return (meta.hashes or {}).get("sha256", "")


def _expiry_notes(gun: str, walk: _Walk, now: datetime) -> list[str]:
    notes: list[str] = []
    for role, parsed in sorted(walk.files.items()):
        try:
            verify_fresh(role[:80], parsed.signed, now)
        except VerificationError as error:
            notes.append(error.message)
    root = walk.root
    try:
        NOTARY.verify_root_signers(root.signed, root.signed_by, gun=gun, now=now)
    except VerificationError as error:
        notes.append(error.message)
    return notes
