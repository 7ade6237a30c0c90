"""A GUN's first files: root version 1 and empty targets, made once and sent until they're there.

They're kept in ``<home>/staged/<quoted gun>.init`` until the server has them: after a lost answer
the very same bytes are sent again, which the server takes for what it has.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Delegations, Role, Root, Targets

from tabellion import atomic_file
from tabellion.core import strict_json
from tabellion.core.bins import bits_of, free_prefix
from tabellion.core.dialect import NOTARY, Dialect
from tabellion.core.holders import set_holders
from tabellion.core.publication import UploadedFile
from tabellion.core.release import next_snapshot
from tabellion.errors import CacheError, KeyStoreError, TabellionError
from tabellion.publish.signing import Expiries, KeyRing
from tabellion.publish.spreading import make_bins

_MAX_BYTES = 16_000_000  # thousands of empty bins among them


@dataclass(frozen=True)
class Plan:
    """Keys and thresholds of a GUN to be made.

    Attributes:
        keys: Top-level role to its public keys.
        thresholds: Role to threshold; 1 where absent.
        holders: Key id to its holder's name.
        bins: Number of hash bins, 0 for none.
        bins_keys: Their keys, each enough alone; none for those of targets.
    """

    keys: Mapping[str, Sequence[Key]]
    thresholds: Mapping[str, int]
    holders: Mapping[str, str] = field(default_factory=dict)
    bins: int = 0
    bins_keys: Sequence[Key] = ()

    def threshold(self, role: str) -> int:
        """Give a role's threshold."""
        return self.thresholds.get(role, 1)


def first_files(
    dialect: Dialect,
    plan: Plan,
    ring: KeyRing,
    *,
    expiries: Expiries,
    now: datetime,
    local_snapshot: bool,
) -> list[UploadedFile]:
    """Make root, targets and, where the publisher holds its key, the snapshot.

    Signed by the keys that are here, which may be too few.
    """
    roles = {role: Role([], plan.threshold(role)) for role in plan.keys}
    is_notary = dialect is NOTARY
    root = Root(
        expires=now + expiries.root, roles=roles, keys={}, consistent_snapshot=not is_notary
    )
    for role, keys in plan.keys.items():
        for key in keys:
            if root.keys.get(key.keyid, key) != key:
                raise KeyStoreError(f"two keys have the id {key.keyid[:64]}", hint="make new keys")
            root.add_key(key, role)
    set_holders(root, plan.holders)
    delegations = Delegations({}, {}) if is_notary else None
    bins: dict[str, Targets] = {}
    if plan.bins:
        delegations, bins = make_bins(
            {},
            plan.bins_keys or plan.keys["targets"],
            threshold=1 if plan.bins_keys else plan.threshold("targets"),
            bits=bits_of(plan.bins),
            prefix=free_prefix(()),
        )
    targets = Targets(expires=now + expiries.targets, delegations=delegations)
    made = [
        UploadedFile("root", dialect.sign(root, _signers(dialect, plan, ring, "root"))),
        UploadedFile("targets", dialect.sign(targets, _signers(dialect, plan, ring, "targets"))),
    ]
    signers = _open(dialect, ring, plan.bins_keys) or _signers(dialect, plan, ring, "targets")
    for name, payload in bins.items():
        payload.expires = now + expiries.bins
        made.append(UploadedFile(name, dialect.sign(payload, signers)))
    if local_snapshot:
        named = made if dialect.lists_root else made[1:]
        snapshot = next_snapshot(
            dialect,
            None,
            {item.role: (1, item.data) for item in named},
            expires_at=now + expiries.snapshot,
        )
        signers = _signers(dialect, plan, ring, "snapshot")
        made.append(UploadedFile("snapshot", dialect.sign(snapshot, signers)))
    return made


class Pending:
    """The files of a GUN whose first publication isn't known to have arrived. It blocks."""

    def __init__(self, home: Path, gun: str) -> None:
        self._path = home / "staged" / f"{quote(gun, safe='')}.init"

    def read(self) -> list[UploadedFile]:
        """Give the files, empty if nothing is pending."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _fault(self._path, error) from error
        try:
            content = strict_json.parse(data, max_bytes=_MAX_BYTES, what=str(self._path))
            return [
                UploadedFile(role, base64.b64decode(str(text), validate=True))
                for role, text in content.items()
            ]
        except (TabellionError, ValueError) as error:
            raise CacheError(
                f"{self._path} can't be read: {error}", hint="delete it, then run init again"
            ) from error

    def write(self, content: Sequence[UploadedFile]) -> None:
        """Keep the files."""
        document = {item.role: base64.b64encode(item.data).decode() for item in content}
        try:
            atomic_file.write_atomic(self._path, json.dumps(document).encode())
        except OSError as error:
            raise _fault(self._path, error) from error

    def drop(self) -> None:
        """Forget the files."""
        try:
            atomic_file.remove(self._path)
        except OSError as error:
            raise _fault(self._path, error) from error


def _signers(dialect: Dialect, plan: Plan, ring: KeyRing, role: str) -> list[Signer]:
    return _open(dialect, ring, plan.keys[role])


def _open(dialect: Dialect, ring: KeyRing, listed: Sequence[Key]) -> list[Signer]:
    keys = {key.keyid: key for key in listed}
    return ring.open(dialect, keys, list(keys), at_most=len(keys))


def _fault(path: Path, error: OSError) -> CacheError:
    return CacheError(f"{path} can't be used: {error.strerror or error}")
