"""An organisation's anchor collection on a server of its own, and a reader who trusts it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import TargetFile

from forge import NOW, Forge
from simulator import Simulator
from tabellion.core.anchors import Anchor
from tabellion.core.gun_patterns import GunPattern
from tabellion.core.names import Digest, Gun
from tabellion.core.roles import key_material
from tabellion.core.strict_json import canonical
from tabellion.verify.trust_store import EVERYTHING, AnchorSource, TrustStore

COLLECTION = Gun("registry.example/anchors")


def print_of(signer: Signer) -> str:
    """Give a key's fingerprint, as ``tabellion init`` prints it."""
    return Digest.of(key_material(signer.public_key)).hex


def anchor(pattern: str, *keys: Signer | str, **fields: Any) -> Anchor:
    names = {key if isinstance(key, str) else print_of(key) for key in keys}
    return Anchor(GunPattern.parse(pattern), frozenset(names), **fields)


def entry(made: Anchor) -> TargetFile:
    """Give an entry as a collection lists it."""
    return raw_entry(made.pattern.path, made.content())


def raw_entry(path: str, content: Any) -> TargetFile:

    target = TargetFile.from_data(path, canonical(content), ["sha256"])
    target.unrecognized_fields["custom"] = {"anchor": content}
    return target


@dataclass
class Anchorage:
    """Holds and publishes one collection.

    Attributes:
        server: Where it's served.
        gun: Its name.
    """

    server: Simulator
    gun: Gun = COLLECTION

    @property
    def forge(self) -> Forge:
        return self.server.forge

    def set(self, *anchors: Anchor, role: str = "targets") -> None:
        """Add or replace entries."""
        self.put({made.pattern.path: entry(made) for made in anchors}, role=role)

    def put(self, entries: dict[str, TargetFile], *, role: str = "targets") -> None:
        payload = self.forge.targets if role == "targets" else self.forge.delegated[role]
        payload.targets.update(entries)
        payload.version += 1
        self.server.publish()

    def remove(self, pattern: str) -> None:
        del self.forge.targets.targets[GunPattern.parse(pattern).path]
        self.put({})

    def trusted_at(self, home: Path, *patterns: str) -> None:
        """Have somebody trust it, for everything by default."""
        named = tuple(GunPattern.parse(text) for text in patterns) or EVERYTHING
        source = AnchorSource(
            self.gun, self.server.url, self.server.files["1.root.json"], named, NOW
        )
        TrustStore(home).save_collection(source, how="test")
