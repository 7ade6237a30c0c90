"""The published files that a proposal is built on: it brings them to machines without a network.

There they are verified from the root that the machine trusts, each by the keys that the one before
lists: whoever carries the file can leave some out, but make up none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tabellion.core.dialect import Dialect
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.proposal import delegates_to
from tabellion.core.publication import UploadedFile
from tabellion.core.roles import role_keys, verify_threshold
from tabellion.errors import ThresholdError, UntrustedRootError
from tabellion.publish.state import Current
from tabellion.verify.cache import MetadataCache

_MAX_OLD_BYTES: Final = 5_000_000
_MAX_ROOTS: Final = 64


def base_of(current: Current, roles: Iterable[str]) -> tuple[UploadedFile, ...]:
    """Give the files of all that delegates to some roles, and as room is their own of now.

    The root isn't one: who signs has a trusted one.
    """
    named = list(roles)
    above = dict.fromkeys(name for role in named for name in _above(current, role))
    found = {name: current.roles[name].data for name in above if name in current.roles}
    room = _MAX_OLD_BYTES
    for role in named:
        if role in current.roles and role not in found:
            data = current.roles[role].data
            room -= len(data)
            if room < 0:
                break
            found[role] = data
    return tuple(UploadedFile(role, data) for role, data in found.items())


def roots_of(cache: MetadataCache) -> list[bytes]:
    """Give the newest roots that are trusted here, oldest first: each leads to the next.

    Raises:
        CacheError: The cache can't be read.
    """
    room, found = _MAX_OLD_BYTES, list[bytes]()
    for version in reversed(cache.root_versions()[-_MAX_ROOTS:]):
        data = cache.load_root(version)
        room -= len(data or b"")
        if data is None or room < 0:
            break
        found.insert(0, data)
    return found


def _above(current: Current, role: str) -> list[str]:
    """List the targets roles between the root and one, nearest first."""
    found: list[str] = []
    while role not in {"root", "targets"}:
        role = current.delegators.get(role, "targets")
        if role in found:
            break
        found.append(role)
    return found


def verify_base_files(
    root: UnverifiedMetadata[Any],
    base: Sequence[UploadedFile],
    dialect: Dialect,
    *,
    proposed: Mapping[str, UnverifiedMetadata[Any]],
) -> dict[str, UnverifiedMetadata[Any]]:
    """Verify files that a proposal brought, from a trusted root on; gives what holds, by role.

    Expiry isn't judged: the clock of such a machine may be anywhere, and the server judges it.

    Args:
        root: The trusted one.
        base: From anybody.
        dialect: How they are written.
        proposed: The proposal's files: a file of one of these roles that no key stands for any
            more is left out, and all of the new one is told then.

    Raises:
        UntrustedRootError: A file isn't what the trusted root leads to.
        VerificationError: One is malformed or too large.
    """
    limits = Limits()
    left = {
        item.role: dialect.parse(item.role, item.data, max_bytes=limits.max_bytes(item.role))
        for item in base
    }
    held: dict[str, UnverifiedMetadata[Any]] = {"root": root}
    while found := [role for role in left if _is_vouched_for(left[role], held)]:
        held.update({role: left.pop(role) for role in found})
    for role in sorted(left.keys() - proposed.keys()):
        raise UntrustedRootError(
            f"the file brings {role[:80]} version {left[role].version}, and the root version "
            f"{root.version} trusted here doesn't lead to it",
            hint="nothing was signed; give the newest root that you trust (--root FILE), or have "
            "it made anew",
        )
    del held["root"]
    return held


def _is_vouched_for(
    item: UnverifiedMetadata[Any], held: Mapping[str, UnverifiedMetadata[Any]]
) -> bool:
    for by in held.values():
        if not delegates_to(by.signed, item.role):
            continue
        keys, entry = role_keys(by.signed, item.role)
        with contextlib.suppress(ThresholdError):
            verify_threshold(item, item.role, keys, entry.keyids, entry.threshold)
            return True
    return False
