"""A signer's key is stolen: what it signed since then, and what the owner vouches for.

The owner's targets key takes over what the signer had signed before the theft, and the
delegation goes: nothing that the thief signs counts any more. The signer comes back under a new
key by a request of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from tuf.api.metadata import TargetFile, Targets

from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.names import Digest
from tabellion.core.roles import role_keys, verify_threshold
from tabellion.core.trusted_set import verify_hashes
from tabellion.errors import MixAndMatchError, UsageError, VerificationError
from tabellion.publish.changes import Change, RemoveSigner, SignTarget
from tabellion.publish.server_api import HistoryEntry, ServerApi
from tabellion.publish.state import Current

_PAGE = 500
_MAX_PAGES = 200

Since = Literal["kept", "changed", "added", "removed"]


@dataclass(frozen=True)
class Doubt:
    """What became of one target of a signer since a moment.

    Attributes:
        target: Target path.
        since: ``kept`` as it was before, ``changed``, ``added`` or ``removed`` since.
        before: What it was, None if it wasn't signed.
        now: What it is, None if it isn't signed any more.
    """

    target: str
    since: Since
    before: TargetFile | None
    now: TargetFile | None


async def survey(api: ServerApi, current: Current, role: str, since: datetime) -> list[Doubt]:
    """Compare what a role signs now with what it signed at a moment.

    When something was published is the server's word; what was signed is verified.

    Raises:
        UsageError: There's no such signer, or the server's history doesn't say.
        VerificationError: The server's history cites a file that isn't the role's.
        TransportError: No usable answer.
    """
    published = current.roles.get(role)
    if role == "targets" or role not in current.delegators:
        raise UsageError(
            f"{current.gun} has no signer {role[:80]!r}",
            hint=f"list them with: tabellion signer list {current.gun}",
        )
    now = published.signed.targets if published is not None else {}
    entry = await _last_before(api, current, role, since)
    before = await _signed_by(api, current, role, entry) if entry is not None else {}
    return [
        Doubt(path, _compare(before.get(path), now.get(path)), before.get(path), now.get(path))
        for path in sorted({*before, *now})
    ]


def take_over(role: str, doubts: Sequence[Doubt], vouched: Collection[str]) -> list[Change]:
    """Give the changes that end the signer's say, and sign as owner what stays.

    Args:
        role: The signer.
        doubts: What ``survey`` found.
        vouched: Targets that were added or changed since, and are all right as they are now.

    What was signed before stays as it was then; what came since stays only if vouched for.

    Raises:
        UsageError: Something vouched for isn't signed by that role.
    """
    now = {doubt.target for doubt in doubts if doubt.now is not None}
    unknown = sorted(set(vouched) - now)
    if unknown:
        raise UsageError(
            f"{role} doesn't sign {', '.join(unknown)[:200]}", hint="vouch for what it lists"
        )
    changes: list[Change] = [RemoveSigner(role)]
    for doubt in doubts:
        stays = doubt.now if doubt.target in vouched else doubt.before
        if stays is not None and (doubt.since != "removed"):
            changes.append(_signed_anew(doubt.target, stays))
    return changes


def _signed_anew(path: str, target: TargetFile) -> SignTarget:
    sha256 = target.hashes.get("sha256")
    if sha256 is None:
        raise UsageError(
            f"{path[:80]!r} is signed without a sha256", hint="sign it yourself, and say again"
        )
    custom = target.unrecognized_fields.get("custom")
    return SignTarget(
        path,
        Digest("sha256", sha256),
        target.length,
        custom if isinstance(custom, dict) else {},
        role="targets",
    )


def _compare(before: TargetFile | None, now: TargetFile | None) -> Since:
    if before is None:
        return "added"
    if now is None:
        return "removed"
    return "kept" if before == now else "changed"


async def _last_before(
    api: ServerApi, current: Current, role: str, since: datetime
) -> HistoryEntry | None:
    """Give the role's last entry of history before a moment."""
    before: int | None = None
    for _ in range(_MAX_PAGES):
        page = await api.history(current.gun, target=None, before=before, limit=_PAGE)
        for entry in page:
            if entry.role == role and entry.at is not None and entry.at < since:
                return entry
        if len(page) < _PAGE:
            return None
        before = page[-1].id
    raise UsageError(
        f"the history of {current.gun} is too long to find {since:%Y-%m-%d %H:%M} in it",
        hint="give a later --since",
    )


async def _signed_by(
    api: ServerApi, current: Current, role: str, entry: HistoryEntry
) -> Mapping[str, TargetFile]:
    """Fetch the file that an entry cites, and verify that the role signed it."""
    dialect, limit = current.trusted.dialect, current.trusted.limits.targets_bytes
    name = dialect.file_name(role, entry.version)
    data = await api.metadata(current.gun, name, max_bytes=limit)
    verify_hashes(role, data, {"sha256": entry.metadata_sha256})
    parsed: UnverifiedMetadata[Any] = dialect.parse(role, data, max_bytes=limit)
    if parsed.version != entry.version:
        raise MixAndMatchError(f"{name} is version {parsed.version} of {role}")
    keys, delegation = role_keys(_delegator(current, role), role)
    try:
        verify_threshold(parsed, role, keys, delegation.keyids, delegation.threshold)
    except VerificationError as error:
        raise UsageError(
            f"{role} version {entry.version} isn't signed by the keys that {role} has now",
            hint="its keys changed since; give a later --since, and sign the rest yourself",
        ) from error
    return cast("Targets", parsed.signed).targets


def _delegator(current: Current, role: str) -> Targets:
    return current.roles[current.delegators[role]].signed
