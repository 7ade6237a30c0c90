"""A client as the specification tells it, over registered files: no bytes read, no cryptography.

It says what a client must hold, find or refuse after an update. Written apart from the product, so
that a rule broken there shows as a difference.

Spec: TUF 1.0.34, section 5; notary-v1 section 8 for Notary's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lives import File
from tabellion.core.dialect import NOTARY, Dialect

View = Mapping[str, bytes]
Kept = dict[str, bytes]


class Refused(Exception):  # noqa: N818  (a verdict)
    """What must be refused: the error's name, and the role it's about."""

    def __init__(self, name: str, role: str | None = None) -> None:
        super().__init__(name, role)
        # Of several roles that went back, either may be named.
        self.verdict = name, None if name == "RollbackError" else role


class Update:
    """One update of what a client keeps: role to file, and ``root N`` to every root."""

    def __init__(
        self, kept: Kept, files: Mapping[bytes, File], view: View, now: datetime, dialect: Dialect
    ) -> None:
        self.kept = kept
        self.files = files
        self.view = view
        self.now = now
        self.dialect = dialect
        self.loaded: dict[str, File] = {}
        self.seen: dict[str, File] = {}

    def run(self, first_root: bytes) -> None:
        """Update roots, timestamp, snapshot and targets, or raise ``Refused``."""
        is_proven = "root" in self.kept
        root = self.files[self.kept.get("root", first_root)]
        walked, drops = [root], False
        while data := self.view.get(f"{root.version + 1}.root.json"):
            new = self.files[data]
            need(new, root, "root")
            need(new, new, "root")
            if new.version != root.version + 1:
                raise Refused("RollbackError", "root")
            changed = any(_entry(root, role) != _entry(new, role) for role in ONLINE)
            drops, root = drops or changed, new
            walked.append(root)
            if is_proven:
                self._keep_roots(walked, drops=changed)
        self.root = root
        self._fresh(root, "root")
        old = None if drops else self._vouched("timestamp")
        timestamp = self._timestamp(old)
        self._keep_roots(walked, drops=drops and not is_proven)
        self.timestamp = self.files[timestamp]
        self.kept["timestamp"] = timestamp
        gone = self._snapshot()
        self.load("targets", root)
        for role in gone:
            known = self.kept.get(role)
            if known is not None and _vouches(self.loaded["targets"], role, self.files[known]):
                raise Refused("RollbackError", role)
        self.kept["snapshot"] = self.snapshot.data

    def _keep_roots(self, roots: list[File], *, drops: bool) -> None:
        for role in ONLINE if drops else ():
            self.kept.pop(role, None)
        for root in roots:
            self.kept[f"root {root.version}"] = root.data
        self.kept["root"] = roots[-1].data

    def _vouched(self, role: str) -> File | None:
        data = self.kept.get(role)
        file = self.files[data] if data is not None else None
        return file if file is not None and _vouches(self.root, role, file) else None

    def _timestamp(self, old: File | None) -> bytes:
        new = self.files[self.view["timestamp.json"]]
        if old is None or new.data != old.data:
            need(new, self.root, "timestamp")
        if old is not None:
            not_lower("timestamp", new.version, old.version)
            if new.version == old.version:
                self._fresh(old, "timestamp")
                return old.data
            named, known = (item.payload.snapshot_meta.version for item in (new, old))
            not_lower("snapshot", named, known)
        self._fresh(new, "timestamp")
        return new.data

    def _snapshot(self) -> set[str]:
        """Take the snapshot, and give the roles that are gone from it."""
        meta, old = self.timestamp.payload.snapshot_meta, self._vouched("snapshot")
        if old is not None and self._is_current(old, meta):
            self.snapshot = old
            return set()
        new = self._named("snapshot", meta)
        need(new, self.root, "snapshot")
        self._same_version(new, meta)
        gone: set[str] = set()
        if self.dialect is NOTARY:
            _is_named(self.root, new.payload.meta["root.json"])
        if old is not None and self.dialect is NOTARY:
            not_lower("snapshot", new.version, old.version)
            if new.version == old.version and new.data != old.data:
                raise Refused("MixAndMatchError")
            gone = {name[:-5] for name in old.payload.meta.keys() - new.payload.meta.keys()}
        elif old is not None:
            for name, known in old.payload.meta.items():
                found = new.payload.meta.get(name)
                not_lower(name[:-5], found.version if found else 0, known.version)
        self._fresh(new, "snapshot")
        self.snapshot = new
        if not gone:
            self.kept["snapshot"] = new.data
        return gone

    def _is_current(self, old: File, meta: Any) -> bool:
        try:
            self._same_version(old, meta)
            _is_named(old, meta)
            if self.dialect is NOTARY:
                _is_named(self.root, old.payload.meta["root.json"])
            self._fresh(old, "snapshot")
        except Refused:
            return False
        return True

    def load(self, role: str, by: File) -> File:
        """Take a targets role that ``by`` delegates to."""
        if role in self.loaded:
            return self.loaded[role]
        meta = self.snapshot.payload.meta.get(f"{role}.json")
        if meta is None:
            raise Refused("NotSignedError")
        known = self.files[self.kept[role]] if role in self.kept else None
        try:
            if known is not None:
                _is_named(known, meta)
                self._take(role, known, by, meta)
                return known
        except Refused:
            pass
        if self.dialect is NOTARY and known is not None and _vouches(by, role, known):
            self.seen[role] = known
        new = self._named(role, meta)
        self._take(role, new, by, meta)
        self.kept[role] = new.data
        return new

    def _take(self, role: str, file: File, by: File, meta: Any) -> None:
        need(file, by, role)
        self._same_version(file, meta)
        seen = self.seen.get(role)
        if seen is not None:
            not_lower(role, file.version, seen.version)
            if file.version == seen.version and file.data != seen.data:
                raise Refused("MixAndMatchError")
        self._fresh(file, role)
        self.loaded[role] = file

    def find(self, path: str) -> tuple[str, str] | None:
        """Give the role that speaks for a path, and the hash it tells."""
        targets = self.loaded["targets"]
        delegations = targets.payload.delegations
        children = [
            child
            for child in (delegations.roles.values() if delegations else ())
            if any(_covers(self.dialect, pattern, path) for pattern in child.paths)
        ]
        if self.dialect is NOTARY:
            listed = self.snapshot.payload.meta
            asked = [
                child.name
                for child in children
                if child.name == "targets/releases" and f"{child.name}.json" in listed
            ]
            order = [*asked, "targets"]
        else:
            order = ["targets"]
            for child in children:
                order.append(child.name)
                if child.terminating:
                    break
        for role in order:
            file = targets if role == "targets" else self.load(role, targets)
            if path in file.payload.targets:
                return role, file.payload.targets[path].hashes["sha256"]
        return None

    def _named(self, role: str, meta: Any) -> File:
        name = self.dialect.named_file(role, meta, root=self.root.payload)
        if name not in self.view:
            raise Refused("NotFoundError")
        file = self.files[self.view[name]]
        _is_named(file, meta)
        return file

    def _same_version(self, file: File, meta: Any) -> None:
        if self.dialect is not NOTARY and file.version != meta.version:
            raise Refused("MixAndMatchError")

    def _fresh(self, file: File, role: str) -> None:
        if self.now >= file.payload.expires.replace(tzinfo=UTC):
            raise Refused("ExpiredMetadataError", role)


ONLINE = ("timestamp", "snapshot")


def need(file: File, by: File, role: str) -> None:
    """Demand a threshold of a role's keys, as a delegator lists them."""
    if not _vouches(by, role, file):
        raise Refused("ThresholdError", role)


def not_lower(role: str, found: int, known: int) -> None:
    """Demand that no version goes back."""
    if found < known:
        raise Refused("RollbackError", role)


def _entry(by: File, role: str) -> tuple[frozenset[str], int] | None:
    if role in getattr(by.payload, "roles", {}):
        entry = by.payload.roles[role]
    else:
        delegations = getattr(by.payload, "delegations", None)
        entry = delegations.roles.get(role) if delegations else None
    return None if entry is None else (frozenset(entry.keyids), entry.threshold)


def threshold_of(by: File, role: str) -> tuple[frozenset[str], int]:
    """Give the keys that a file lists for a role, and how many are needed."""
    return _entry(by, role) or (frozenset(), 1)


def _vouches(by: File, role: str, file: File) -> bool:
    keyids, threshold = threshold_of(by, role)
    return len(keyids & file.signers) >= threshold


def _is_named(file: File, meta: Any) -> None:
    if hashlib.sha256(file.data).hexdigest() != meta.hashes["sha256"]:
        raise Refused("MixAndMatchError")


def _covers(dialect: Dialect, pattern: str, path: str) -> bool:
    return path.startswith(pattern if dialect is NOTARY else pattern.removesuffix("*"))
