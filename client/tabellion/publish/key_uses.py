"""When a key signed last, and for which GUNs and roles: a small file beside the key.

It's a help for people, no evidence: written as well as can be, and never in the way of signing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Signed, Targets

from tabellion import atomic_file
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.roles import role_keys
from tabellion.errors import MalformedMetadataError
from tabellion.publish.public_keys import fingerprint_of

_KEPT: Final = 200
_MAX_BYTES: Final = 256 * 1024


@dataclass(frozen=True)
class KeyUse:
    """That a key signed.

    Attributes:
        gun: The GUN.
        role: The role it signed.
        at: When it did last, UTC.
    """

    gun: str
    role: str
    at: datetime


class KeyUses:
    """The uses of the keys in one folder. Its methods block, and never raise for a bad file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, keyid: str) -> tuple[KeyUse, ...]:
        """Give a key's uses, newest first; none if they aren't known or can't be read."""
        try:
            with self._path(keyid).open("rb") as file:
                items = json.loads(file.read(_MAX_BYTES))
            found = [
                KeyUse(
                    str(item["gun"]),
                    str(item["role"]),
                    datetime.fromisoformat(str(item["at"])).astimezone(UTC),
                )
                for item in items
            ]
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return ()
        return tuple(sorted(found, key=lambda use: use.at, reverse=True))

    def note(self, keyid: str, uses: Iterable[KeyUse]) -> None:
        """Add uses; of many, the oldest are forgotten."""
        latest = {(use.gun, use.role): use for use in reversed(self.read(keyid))}
        latest |= {(use.gun, use.role): use for use in uses}
        kept = sorted(latest.values(), key=lambda use: use.at, reverse=True)[:_KEPT]
        items = [
            {"gun": use.gun, "role": use.role, "at": f"{use.at:%Y-%m-%dT%H:%M:%SZ}"} for use in kept
        ]
        with contextlib.suppress(OSError):
            data = json.dumps(items, indent=1).encode() + b"\n"
            atomic_file.write_atomic(self._path(keyid), data, sync_folder=False)

    def forget(self, keyid: str) -> None:
        """Drop what is known of a key."""
        with contextlib.suppress(OSError):
            self._path(keyid).unlink(missing_ok=True)

    def _path(self, keyid: str) -> Path:
        return self._folder / f"{keyid}.uses"


def roles_signed(
    files: Sequence[UnverifiedMetadata[Any]],
    payloads: Iterable[Signed],
    keyids: Mapping[str, str],
) -> dict[str, list[str]]:
    """Tell which keys that are here signed which of some files.

    Args:
        files: Files just signed.
        payloads: Roots and targets that name the roles' keys, beside those among ``files``.
        keyids: Fingerprint to the id of a key here.

    Returns:
        Key id here to roles.
    """
    namers = [item for item in (*(file.signed for file in files), *payloads) if _names(item)]
    found: dict[str, list[str]] = {}
    for file in files:
        here = {
            keyids[print_]
            for keyid, key in _keys_of(namers, file.role).items()
            if keyid in file.signatures and (print_ := _fingerprint(key)) in keyids
        }
        for keyid in here:
            found.setdefault(keyid, []).append(file.role)
    return found


def _names(signed: Signed) -> bool:
    """Tell whether it names keys at all: thousands of hash bins don't."""
    return isinstance(signed, Root) or (
        isinstance(signed, Targets) and signed.delegations is not None
    )


def _keys_of(namers: Iterable[Signed], role: str) -> dict[str, Key]:
    found: dict[str, Key] = {}
    for namer in namers:
        if isinstance(namer, Root | Targets):
            with contextlib.suppress(MalformedMetadataError):
                keys, entry = role_keys(namer, role)
                found |= {keyid: keys[keyid] for keyid in entry.keyids if keyid in keys}
    return found


def _fingerprint(key: Key) -> str:
    try:
        return fingerprint_of(key)
    except MalformedMetadataError:
        return ""
