"""What somebody asks to change in a root, keys by the names that people give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tabellion.core.next_root import RootEdit
from tabellion.publish.named_keys import NamedKey, list_keys
from tabellion.publish.signing import KeyRing
from tabellion.publish.state import Current


@dataclass(frozen=True)
class EditRequest:
    """The request; see ``Proposals.prepare_root``."""

    added: Mapping[str, Sequence[str]]
    removed: Sequence[str]
    thresholds: Mapping[str, int]
    life: timedelta | None

    def resolve(self, current: Current, ring: KeyRing, *, now: datetime) -> RootEdit:
        """Find the keys; it blocks.

        Raises:
            KeyStoreError: There's neither such a key nor such a file, or it can't be used.
        """
        named = {
            role: [NamedKey.read(text, ring.keystore) for text in texts]
            for role, texts in self.added.items()
        }
        keys, holders = list_keys(named, current.trusted.dialect, ring, current.gun, now=now)
        return RootEdit(
            added=keys,
            removed=self.removed,
            thresholds=self.thresholds,
            holders=holders,
            life=self.life,
        )
