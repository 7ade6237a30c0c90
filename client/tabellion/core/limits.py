"""Upper bounds for everything that is parsed or walked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in bytes and counts; the defaults are those of python-tuf and go-tuf.

    ``delegations`` bounds the roles asked for one path, ``roles`` those looked through for a
    digest or a listing: the most bins there may be, and signers beside.

    Spec: TUF 1.0.34, 5.3.3 (root size W, Y root files), 5.4.1, 5.5.1, 5.6.7.1.
    """

    root_bytes: int = 512_000
    timestamp_bytes: int = 16_384
    snapshot_bytes: int = 2_000_000
    targets_bytes: int = 5_000_000
    root_rotations: int = 256
    delegations: int = 32
    roles: int = 10_000

    def max_bytes(self, role: str) -> int:
        """Give the largest size of a role's file, in bytes."""
        by_role = {
            "root": self.root_bytes,
            "timestamp": self.timestamp_bytes,
            "snapshot": self.snapshot_bytes,
        }
        return by_role.get(role, self.targets_bytes)
