"""What a tag came to mean: the difference between two sets of targets roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from tuf.api.metadata import TargetFile, Targets

from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.roles import delegated_roles
from tabellion_server.storage.interface import TagEvent, TagEventKind

Roles = Mapping[str, UnverifiedMetadata[Any]]


def tag_events(before: Roles, after: Roles, *, at: datetime) -> list[TagEvent]:
    """List what was signed and revoked; a role that lost its delegation revokes all it said.

    Args:
        before: Role to its file, all that were current.
        after: The same once the publication is in.
        at: The moment of publication.
    """
    was_there, is_there = set(_reachable(before)), set(_reachable(after))
    same = {role for role in was_there & is_there if before[role] is after[role]}
    old, new = _said(before, was_there - same), _said(after, is_there - same)
    events: list[TagEvent] = []
    for place in sorted(old.keys() | new.keys()):
        role, path = place
        was, now = old.get(place), new.get(place)
        if now is not None and (was is None or not _same(was, now)):
            events.append(_event("signed", path, after[role], now, at))
        elif now is None and was is not None:
            events.append(_event("revoked", path, after.get(role, before[role]), was, at))
    return events


def _said(roles: Roles, names: Iterable[str]) -> dict[tuple[str, str], TargetFile]:
    return {
        (role, path): target
        for role in names
        for path, target in roles[role].signed.targets.items()
    }


def _reachable(roles: Roles) -> Iterator[str]:
    pending, seen = ["targets"], set[str]()
    while pending:
        role = pending.pop()
        if role in seen or role not in roles:
            continue
        seen.add(role)
        yield role
        signed: Targets = roles[role].signed
        pending.extend(child.name for child in delegated_roles(signed))


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
