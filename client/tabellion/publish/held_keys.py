"""Which of a role's keys are here, whatever id the metadata gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from securesystemslib.signer import Key

from tabellion.errors import MalformedMetadataError
from tabellion.publish.public_keys import fingerprint_of


@dataclass(frozen=True)
class HeldKeys:
    """Keys whose private part is here, by fingerprint.

    One key has several ids: another in each dialect, and for each certificate of it.

    Attributes:
        fingerprints: Which they are.
        names: What their owner calls them, where anything.
    """

    fingerprints: frozenset[str]
    names: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, key: Key) -> str | None:
        """Give a key's name here, maybe empty; None if it isn't here."""
        try:
            fingerprint = fingerprint_of(key)
        except MalformedMetadataError:
            return None
        return self.names.get(fingerprint, "") if fingerprint in self.fingerprints else None

    def among(self, keys: Mapping[str, Key], keyids: Sequence[str]) -> list[str]:
        """Give those of a role's key ids, each key once."""
        found: dict[str, str] = {}
        for keyid in keyids:
            try:
                fingerprint = fingerprint_of(keys[keyid])
            except (KeyError, MalformedMetadataError):
                continue
            if fingerprint in self.fingerprints:
                found.setdefault(fingerprint, keyid)
        return list(found.values())
