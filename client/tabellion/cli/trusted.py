"""Roots, anchors and pins as words, table rows and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from tabellion.core.anchors import Anchor
    from tabellion.verify.decisions import RootInWords
    from tabellion.verify.trust_store import AnchorSource


def entry_json(anchor: Anchor) -> dict[str, Any]:
    """Give an entry's content, all members always."""
    return {
        "pattern": str(anchor.pattern),
        "root_keys": sorted(anchor.root_keys),
        "threshold": anchor.threshold,
        "expires": anchor.expires_at,
        "comment": anchor.comment,
        "revoked": anchor.is_revoked,
    }


def entry_words(anchor: Anchor) -> str:
    """Say what an entry allows."""
    if anchor.is_revoked:
        return "revoked"
    until = "" if anchor.expires_at is None else f", until {anchor.expires_at:%Y-%m-%d %H:%M} UTC"
    return f"{anchor.threshold} of {', '.join(sorted(anchor.root_keys))}{until}"


def root_lines(root: RootInWords) -> list[str]:
    """Give what a person compares of a root, line by line."""
    lines = [
        f"root version {root.version} ({root.dialect}), until {root.expires_at:%Y-%m-%d %H:%M} UTC",
        f"{root.threshold} of {len(root.fingerprints)} keys:",
    ]
    return lines + [f"  {fingerprint}" for fingerprint in root.fingerprints]


def root_json(root: RootInWords) -> Mapping[str, Any]:
    """Give the same as JSON."""
    return {
        "version": root.version,
        "threshold": root.threshold,
        "fingerprints": list(root.fingerprints),
        "expires": root.expires_at,
        "dialect": root.dialect,
    }


def rows_of(home: Path) -> list[dict[str, Any]]:
    """Give what is trusted: collections, pins, and what is kept without one."""
    from tabellion.verify.trust_store import TrustStore  # noqa: PLC0415  # not needed for help

    store = TrustStore(home)
    collections, pins = store.collections(), store.pins()
    rows = [_collection_row(source) for source in collections]
    rows += [
        _row(pin.gun, pin.what, pin.root, at=pin.at)
        | ({"root_fingerprints": [pin.root_key]} if pin.root_key is not None else {})
        for pin in pins
    ]
    named = {row["gun"] for row in rows}
    return rows + [row for row in _kept(home) if row["gun"] not in named]


def _kept(home: Path) -> list[dict[str, Any]]:
    from tabellion.verify.cache import MetadataCache  # noqa: PLC0415  # not needed for help

    found = []
    for cache in MetadataCache.all_of(home):
        root = cache.load("root")
        if root is not None:
            how = cache.load_pin() or "kept root"
            found.append(_row(unquote(cache.folder.name), how, root, kind="kept"))
    return found


def _collection_row(source: AnchorSource) -> dict[str, Any]:
    row = _row(source.gun, "root file", source.root, at=source.at, kind="anchors")
    return row | {"server": source.server, "for": [str(pattern) for pattern in source.patterns]}


def _row(
    gun: str, how: str, root: bytes | None, *, at: datetime | None = None, kind: str = "pin"
) -> dict[str, Any]:
    from tabellion.core.anchors import keys_of_root  # noqa: PLC0415  # not needed for help
    from tabellion.core.dialect import dialect_of  # noqa: PLC0415  # same
    from tabellion.core.limits import Limits  # noqa: PLC0415  # same

    version, keys = None, list[str]()
    if root is not None:
        parsed = dialect_of(root).parse("root", root, max_bytes=Limits().root_bytes)
        version, keys = parsed.version, sorted(keys_of_root(root)[0])
    return {
        "gun": gun,
        "kind": kind,
        "how": how,
        "root_version": version,
        "root_fingerprints": keys,
        "server": None,
        "for": [],
        "at": at,
    }
