"""What a tag came to mean: the difference between two sets of targets roles."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tuf.api.metadata import SuccinctRoles, TargetFile, Targets

from tabellion.core.bins import bins_of, is_bin
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.roles import delegated_roles
from tabellion_server.storage.interface import TagEvent, TagEventKind

Roles = Mapping[str, UnverifiedMetadata[Any]]


def tag_events(
    before: Roles, after: Roles, *, new: Collection[str], at: datetime
) -> list[TagEvent]:
    """List what was signed and revoked; a role that lost its delegation revokes all it said.

    A target that only went into a bin, or from one to another, means what it did: nothing is told.

    Args:
        before: Role to its file, all that were current.
        after: The same once the publication is in.
        new: Roles whose file is new; others' are only looked at where they're gone.
        at: The moment of publication.
    """
    was_there, is_there = _reachable(before), _reachable(after)
    same = {role for role in was_there & is_there if role not in new}
    bins = [found for roles in (before, after) if (found := _bins(roles)) is not None]
    old, fresh = _said(before, was_there - same, bins), _said(after, is_there - same, bins)
    events: list[TagEvent] = []
    for place in sorted(old.keys() | fresh.keys()):
        was, now = old.get(place), fresh.get(place)
        if now is not None and (was is None or not _same(was.target, now.target)):
            events.append(_event("signed", place[1], after[now.role], now.target, at))
        elif now is None and was is not None:
            said_by = after[was.role] if was.role in after else before[was.role]
            events.append(_event("revoked", place[1], said_by, was.target, at))
    return events


class _Said(NamedTuple):
    role: str
    target: TargetFile


def _said(
    roles: Roles, names: Iterable[str], bins: Sequence[SuccinctRoles]
) -> dict[tuple[str, str], _Said]:
    """Map role and path to what is said; bins and the targets above them count as one role."""
    joined = {role for role in names if any(is_bin(each, role) for each in bins)}
    joined |= {"targets"} if bins else set()
    return {
        ("" if role in joined else role, path): _Said(role, target)
        for role in sorted(names, key=lambda role: role == "targets")  # whose word goes first
        for path, target in roles[role].signed.targets.items()
    }


def _bins(roles: Roles) -> SuccinctRoles | None:
    return bins_of(roles["targets"].signed) if "targets" in roles else None


def _reachable(roles: Roles) -> set[str]:
    pending, seen = ["targets"], set[str]()
    while pending:
        role = pending.pop()
        if role in seen or role not in roles:
            continue
        seen.add(role)
        signed: Targets = roles[role].signed
        bins = bins_of(signed)
        if bins is not None:
            seen.update(name for name in bins.get_roles() if name in roles)  # they end there
        pending.extend(child.name for child in delegated_roles(signed))
    return seen


def _same(one: TargetFile, other: TargetFile) -> bool:
    return one.length == other.length and one.hashes == other.hashes


def _event(
    kind: TagEventKind,
    path: str,
    said_by: UnverifiedMetadata[Any],
    target: TargetFile,
    at: datetime,
) -> TagEvent:
    return TagEvent(
        kind=kind,
        target=path,
        role=said_by.role,
        version=said_by.version,
        metadata_sha256=said_by.sha256,
        digests=dict(target.hashes),
        length=target.length,
        at=at,
    )
