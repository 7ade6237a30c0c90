"""A small workshop of signed metadata for tests: keys, payloads and whole releases."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tabellion.core.dialect import TUF
from tabellion.core.publication import CurrentSet, OnlineKeys
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.core.trusted_set import TrustedSet
from tabellion.publish.spreading import make_bins

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=365)


def target(content: bytes, path: str = "1.2") -> TargetFile:
    return TargetFile.from_data(path, content, ["sha256"])


def resign(
    data: bytes, signers: Sequence[Signer], change: Callable[[dict[str, Any]], object]
) -> bytes:
    """Change a payload and sign what came of it."""
    payload = json.loads(data)["signed"]
    change(payload)
    bare = json.dumps({"signed": payload, "signatures": []}).encode()
    return TUF.add_signature(bare, signers)


@dataclass
class Forge:
    """One GUN's keys and payloads; ``release`` signs the lot."""

    signers: dict[str, list[Signer]] = field(default_factory=dict)
    root: Root = field(init=False)
    targets: Targets = field(init=False)
    delegated: dict[str, Targets] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for role in ("root", "targets", "snapshot", "timestamp"):
            self.signers.setdefault(role, [CryptoSigner.generate_ed25519()])
        self.root = Root(expires=LATER, roles={role: Role([], 1) for role in self.signers}, keys={})
        for role, signers in self.signers.items():
            for signer in signers:
                self.root.add_key(signer.public_key, role)
        self.targets = Targets(expires=LATER)

    def delegate(self, name: str, paths: list[str], *, terminating: bool = False) -> CryptoSigner:
        signer = CryptoSigner.generate_ed25519()
        self.signers[name] = [signer]
        if self.targets.delegations is None:
            self.targets.delegations = Delegations({}, {})
        assert self.targets.delegations.roles is not None
        self.targets.delegations.roles[name] = DelegatedRole(name, [], 1, terminating, paths)
        self.targets.add_key(signer.public_key, name)
        self.delegated[name] = Targets(expires=LATER)
        return signer

    def spread(self, bits: int, prefix: str, *paths: str, holder: CryptoSigner) -> None:
        """Have 2^bits hash bins with these paths in, of one key, in the place of delegations."""
        self.targets.delegations, self.delegated = make_bins(
            {path: target(path.encode(), path) for path in paths},
            [holder.public_key],
            threshold=1,
            bits=bits,
            prefix=prefix,
        )
        for name, payload in self.delegated.items():
            self.signers[name] = [holder]
            payload.expires = LATER

    def bin_of(self, path: str) -> str:
        assert self.targets.delegations is not None
        assert self.targets.delegations.succinct_roles is not None
        return self.targets.delegations.succinct_roles.get_role_for_target(path)

    def sign(self, role: str, payload: Signed) -> bytes:
        self.files[role] = TUF.sign(payload, self.signers[role])
        return self.files[role]

    def release(
        self, *, expires_at: datetime = LATER, snapshot_expires_at: datetime = LATER
    ) -> dict[str, bytes]:
        """Sign everything; versions of root and targets roles are the payloads' own."""
        old_snapshot = self._payload("snapshot", Snapshot)
        old_timestamp = self._payload("timestamp", Timestamp)
        self.sign("root", self.root)
        new = {"targets": self.targets, **self.delegated}
        for role, payload in new.items():
            self.sign(role, payload)
        snapshot = next_snapshot(
            TUF,
            old_snapshot,
            {role: (item.version, self.files[role]) for role, item in new.items()},
            expires_at=snapshot_expires_at,
        )
        data = self.sign("snapshot", snapshot)
        self.sign(
            "timestamp",
            next_timestamp(TUF, old_timestamp, data, snapshot.version, expires_at=expires_at),
        )
        return dict(self.files)

    def _payload(self, role: str, kind: type[Any]) -> Any:
        return (
            kind.from_dict(json.loads(self.files[role])["signed"]) if role in self.files else None
        )

    def current(self) -> CurrentSet:
        return CurrentSet.parse(self.files, TUF)

    def online(self) -> OnlineKeys:
        return OnlineKeys(
            [signer.public_key for signer in self.signers["snapshot"]],
            [signer.public_key for signer in self.signers["timestamp"]],
        )

    def trusted(self, *, now: datetime = NOW) -> TrustedSet:
        """Give a client that has read the whole release."""
        trusted = TrustedSet(self.files["root"], now=now)
        trusted.finish_root()
        trusted.update_timestamp(self.files["timestamp"])
        trusted.update_snapshot(self.files["snapshot"])
        trusted.update_targets(self.files["targets"])
        return trusted
