"""Judging what is offered as a proposal, and telling how one stands. It parses: it blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tabellion.core.dialect import Dialect
from tabellion.core.proposal import Proposal, Standing
from tabellion.core.proposal_rules import verify_base, verify_fit, verify_signatures
from tabellion.core.publication import CurrentSet, OnlineKeys, UploadedFile
from tabellion.core.transitions import dialect_of_upload
from tabellion.errors import ConflictError, RefusedPublicationError
from tabellion_server.storage.interface import PendingRow


@dataclass(frozen=True)
class Shown:
    """A pending proposal as it stands.

    Attributes:
        row: What is stored.
        standings: Whose signatures each file has and lacks.
        is_stale: Somebody published one of its roles since it was made.
    """

    row: PendingRow
    standings: Sequence[Standing]
    is_stale: bool


@dataclass(frozen=True)
class Offered:
    """What became of an offer.

    Attributes:
        state: ``opened``, ``merged`` or ``published``.
        id: The proposal's.
        shown: How it stands, None once it's published.
        versions: Current versions, once it's published.
    """

    state: Literal["opened", "merged", "published"]
    id: str
    shown: Shown | None
    versions: Mapping[str, int]


@dataclass(frozen=True)
class Scene:
    """What an offer is judged on; ``revision`` is the GUN's, None if it doesn't exist."""

    now: datetime
    current: CurrentSet | None
    online: OnlineKeys
    revision: int | None = None


def read_offer(gun: str, dialect: Dialect, upload: Sequence[UploadedFile]) -> Proposal:
    """Read an offer, and hash it for its id: not on the event loop."""
    offered = Proposal.parse(gun, dialect, upload)
    _ = offered.id
    return offered


def judge_offer(
    offered: Proposal, row: PendingRow | None, scene: Scene
) -> tuple[Proposal, Sequence[str]]:
    """Judge an offer, and merge it into what is held; gives which keys' signatures are new."""
    verify_base(offered, scene.current)
    verify_signatures(offered, scene.current)
    verify_fit(offered, scene.current, online=scene.online, now=scene.now)
    held = _parsed(row, offered) if row is not None else None
    merged = held.merged(offered) if held is not None else offered
    before = held.files if held is not None else {}
    fresh = {
        keyid
        for role, item in merged.files.items()
        for keyid in item.signatures
        if role not in before or keyid not in before[role].signatures
    }
    return merged, sorted(fresh)


def _parsed(row: PendingRow, like: Proposal) -> Proposal:
    upload = [UploadedFile(role, data) for role, data in row.files.items()]
    return Proposal.parse(row.gun, like.dialect, upload)


def standing_of_row(row: PendingRow, current: CurrentSet | None) -> Shown:
    """Tell how a stored proposal stands with what is current."""
    upload = [UploadedFile(role, data) for role, data in row.files.items()]
    dialect = current.dialect if current is not None else dialect_of_upload(upload)
    proposal = Proposal.parse(row.gun, dialect, upload)
    try:
        verify_base(proposal, current)
    except (ConflictError, RefusedPublicationError):
        is_stale = True
    else:
        is_stale = False
    return Shown(row, proposal.standings(current), is_stale)
