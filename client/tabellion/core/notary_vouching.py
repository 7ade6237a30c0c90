"""Which published files of a Notary GUN their delegators' keys vouch for: readers get to no other.

A role's name is its place below ``targets``, so each has one delegator.

Spec: notary-v1 sections 4 and 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import Root, Targets

from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.roles import delegated_roles, role_keys, verify_threshold
from tabellion.errors import VerificationError


@dataclass(frozen=True)
class Vouching:
    """The targets roles that delegations lead to and that have a file.

    Attributes:
        vouched: Those whose file has enough signatures.
        unvouched: Those whose file hasn't; what they delegate to isn't looked at.
    """

    vouched: frozenset[str]
    unvouched: frozenset[str]


def vouching(root: Root, file_of: Callable[[str], UnverifiedMetadata[Any] | None]) -> Vouching:
    """Go down the delegations from a root and tell whose file is vouched for."""
    vouched: set[str] = set()
    unvouched: set[str] = set()
    pending: list[tuple[Root | Targets, str]] = [(root, "targets")]
    while pending:
        delegator, role = pending.pop()
        item = file_of(role)
        if item is None:
            continue
        if not is_vouched(item, delegator):
            unvouched.add(role)
            continue
        vouched.add(role)
        pending.extend((item.signed, child.name) for child in delegated_roles(item.signed))
    return Vouching(frozenset(vouched), frozenset(unvouched))


def is_vouched(item: UnverifiedMetadata[Any], delegator: Root | Targets) -> bool:
    """Tell whether a file has enough signatures by the keys that its delegator names."""
    try:
        keys, entry = role_keys(delegator, item.role)
        verify_threshold(item, item.role, keys, entry.keyids, entry.threshold)
    except VerificationError:
        return False
    return True
