"""A signer's key is stolen: what it signed since then, and what the owner vouches for.

The owner's targets key takes over what the signer had signed before the theft, and the
delegation goes: nothing that the thief signs counts any more. The signer comes back under a new
key by a request of its own.

In a Notary GUN the signer's key signs ``targets/releases`` as well, and with it whatever others
released. That is gone through in the same way, and where others still sign it, set right there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from tuf.api.metadata import TargetFile, Targets

from tabellion.core.conversion import notary_name
from tabellion.core.dialect import NOTARY
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.names import Digest
from tabellion.core.notary_search import RELEASES
from tabellion.core.roles import key_material, role_keys
from tabellion.core.strict_json import canonical
from tabellion.core.succession import verify_hashes
from tabellion.errors import MixAndMatchError, UsageError
from tabellion.publish.changes import Change, RemoveSigner, RevokeTarget, SignTarget
from tabellion.publish.draft import Draft
from tabellion.publish.earlier_keys import EarlierKeys
from tabellion.publish.notary_edits import keys_that_release_without
from tabellion.publish.notary_release import owners_material
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
        heir: Who says it from then on: the owner, or a release that others still sign.
    """

    target: str
    since: Since
    before: TargetFile | None
    now: TargetFile | None
    heir: str = "targets"

    @property
    def vouchable(self) -> TargetFile | None:
        """Give what somebody vouches for by a digest: the bytes, and what was said of them before.

        What the thief says beside them, such as which images an index is made of, isn't looked at
        by who compares digests.
        """
        if self.now is None or (self.before is not None and self.before == self.now):
            return self.now
        known = self.before is not None and _custom(self.before) == _custom(self.now)
        extra = {"custom": _custom(self.now)} if known and _custom(self.now) else {}
        return TargetFile(self.now.length, dict(self.now.hashes), self.target, extra)


async def survey(
    api: ServerApi, current: Current, role: str, since: datetime, keys: EarlierKeys
) -> list[Doubt]:
    """Compare what a role signs now with what it signed at a moment.

    When something was published is the server's word; what was signed is verified, by the keys
    that the role had then.

    Raises:
        UsageError: There's no such signer, or the server's history doesn't say.
        VerificationError: The server's history cites a file that isn't the role's.
        TransportError: No usable answer.
    """
    role = full_name(current, role)
    if role == "targets" or role not in current.delegators:
        raise UsageError(
            f"{current.gun} has no signer {role[:80]!r}",
            hint=f"list them with: tabellion signer list {current.gun}",
        )
    found: dict[str, Doubt] = {}
    for each, heir in _told_by(current, role):
        published = current.roles.get(each)
        now = published.signed.targets if published is not None else {}
        entry = await _last_before(api, current, each, since)
        before = await _signed_by(api, current, each, entry, keys) if entry is not None else {}
        for path in {*before, *now}.difference(found):
            was, is_now = before.get(path), now.get(path)
            found[path] = Doubt(path, _compare(was, is_now), was, is_now, heir)
    return [found[path] for path in sorted(found)]


def full_name(current: Current, role: str) -> str:
    """Give a signer's role; in a Notary GUN ``alice`` is ``targets/alice``."""
    is_short = current.trusted.dialect is NOTARY and role not in current.delegators
    return notary_name(role) if is_short else role


def _told_by(current: Current, role: str) -> list[tuple[str, str]]:
    """List the roles that a signer's key speaks for, what is asked first first, and their heirs."""
    delegator = _delegator(current, role)
    if current.trusted.dialect is not NOTARY or delegator.delegations is None:
        return [(role, "targets")]
    released = RELEASES in (delegator.delegations.roles or {}) and role != RELEASES
    if not released or not _materials(delegator, role) & _materials(delegator, RELEASES):
        return [(role, "targets")]
    staying = keys_that_release_without(
        delegator.delegations, role, owners=owners_material(current)
    )
    return [(RELEASES, RELEASES if staying else "targets"), (role, "targets")]


def _materials(delegator: Targets, role: str) -> set[bytes]:
    keys, entry = role_keys(delegator, role)
    return {key_material(keys[keyid]) for keyid in entry.keyids}


def take_over(role: str, doubts: Sequence[Doubt], vouched: Collection[str]) -> list[Change]:
    """Give the changes that end the signer's say, and sign as owner what stays.

    Args:
        role: The signer.
        doubts: What ``survey`` found.
        vouched: Targets that were added or changed since, and are all right as they are now.

    What was signed before stays as it was then; what came since stays only if vouched for, in a
    release also what others signed.

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
        stays = _stays(doubt, vouched)
        if doubt.heir != "targets" and stays == doubt.now:
            continue  # the release says just that
        if stays is not None:
            changes.append(_signed_anew(doubt.target, stays, doubt.heir))
        elif doubt.heir != "targets":
            changes.append(RevokeTarget(doubt.target, role=doubt.heir))
    return changes


def settled(doubts: Sequence[Doubt], vouched: Collection[str]) -> Callable[[Draft], None]:
    """Give ``verify_settled`` as a check of the draft that ``take_over`` makes."""

    def check(draft: Draft) -> None:
        if any(doubt.heir == RELEASES for doubt in doubts):
            verify_settled(draft.of(RELEASES).targets, doubts, vouched)

    return check


def verify_settled(
    released: Mapping[str, TargetFile], doubts: Sequence[Doubt], vouched: Collection[str]
) -> None:
    """Refuse to sign a release that the thief has signed once more since it was looked at.

    Args:
        released: What ``targets/releases`` is about to say.
        doubts: What ``survey`` found.
        vouched: As for ``take_over``.

    Raises:
        UsageError: It says more, or less, than what stays.
    """
    wanted = {
        doubt.target: _bytes_of(stays)
        for doubt in doubts
        if doubt.heir == RELEASES and (stays := _stays(doubt, vouched)) is not None
    }
    if {path: _bytes_of(target) for path, target in released.items()} != wanted:
        raise UsageError(
            f"{RELEASES} was signed again since its list was made", hint="look at the list again"
        )


def _custom(target: TargetFile) -> dict[str, Any]:
    custom = target.unrecognized_fields.get("custom")
    return custom if isinstance(custom, dict) else {}


def _bytes_of(target: TargetFile) -> tuple[int, str | None, bytes]:
    return target.length, target.hashes.get("sha256"), canonical(_custom(target))


def _stays(doubt: Doubt, vouched: Collection[str]) -> TargetFile | None:
    if doubt.since == "removed":
        return None
    return doubt.vouchable if doubt.target in vouched else doubt.before


def _signed_anew(path: str, target: TargetFile, role: str) -> SignTarget:
    sha256 = target.hashes.get("sha256")
    if sha256 is None:
        raise UsageError(
            f"{path[:80]!r} is signed without a sha256", hint="sign it yourself, and say again"
        )
    return SignTarget(path, Digest("sha256", sha256), target.length, _custom(target), role=role)


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
        hint=f"end its say with: tabellion signer remove {current.gun} {role}, and sign again what "
        "you know to be right",
    )


async def _signed_by(
    api: ServerApi, current: Current, role: str, entry: HistoryEntry, keys: EarlierKeys
) -> Mapping[str, TargetFile]:
    """Fetch the file that an entry cites, and verify that the role signed it."""
    dialect, limit = current.trusted.dialect, current.trusted.limits.targets_bytes
    name = dialect.file_name(role, entry.version)
    data = await api.metadata(current.gun, name, max_bytes=limit)
    verify_hashes(role, data, {"sha256": entry.metadata_sha256})
    parsed: UnverifiedMetadata[Any] = dialect.parse(role, data, max_bytes=limit)
    if parsed.version != entry.version:
        raise MixAndMatchError(f"{name} is version {parsed.version} of {role}")
    if not await keys.vouch_for(parsed):
        raise UsageError(
            f"{role} version {entry.version}, of before that moment, isn't signed by keys that "
            f"{role} is known to have had",
            hint=f"nothing was changed; end its say with: tabellion signer remove {current.gun} "
            f"{role}, and sign again what you know to be right",
        )
    return cast("Targets", parsed.signed).targets


def _delegator(current: Current, role: str) -> Targets:
    return current.roles[current.delegators[role]].signed
