"""How ``tabellion status`` tells what ends when: for people, programs, monitors and calendars."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from tabellion.cli import output
from tabellion.cli.ical import calendar
from tabellion.core.expiry import KeyState, Level, Margins, RoleState, Standing, remedy
from tabellion.errors import VerificationError
from tabellion.publish.outcome import Status
from tabellion.publish.pending_api import PendingInfo

_ALARMING = frozenset({"critical", "expired"})
_REFUSED = 1
_SHORT = 12
_SHOWN = 4  # files of a proposal
_WIDTH = 80


def _level(status: Status) -> Level | None:
    """Give how bad it is; None if that couldn't be found out."""
    if status.problem is not None:
        return "critical" if isinstance(status.problem, VerificationError) else None
    return status.standing.level if status.standing is not None else "ok"


def exit_status(found: Sequence[Status], *, check: bool) -> int:
    """Give what the command ends with; with ``check`` as monitors have it."""
    levels = [_level(status) for status in found]
    is_alarming = not _ALARMING.isdisjoint(levels)
    unknown = [status.problem.exit_status for status in found if status.problem is not None]
    if not check:
        return _REFUSED if is_alarming else max(unknown, default=0)
    if is_alarming:
        return 2
    return 3 if None in levels else int("warn" in levels)


def tell_calendar(found: Sequence[Status], margins: Margins) -> None:
    """Print an iCalendar file."""
    _warn_of_problems(found)
    standings = [status.standing for status in found if status.standing is not None]
    # Not by print: its lines end as RFC 5545 wants.
    sys.stdout.write(calendar(standings, now=datetime.now(UTC), margins=margins))


def _warn_of_problems(found: Sequence[Status]) -> None:
    for status in found:
        if status.problem is not None:
            output.warn(f"{status.gun}: {status.problem.message}")


def tell_check(found: Sequence[Status]) -> None:
    """Print one line, as monitors show it."""
    word = ("OK", "WARNING", "CRITICAL", "UNKNOWN")[exit_status(found, check=True)]
    bad = [status for status in found if _level(status) != "ok"]
    _warn_of_problems(bad)
    parts = [f"{len(found)} GUN{'' if len(found) == 1 else 's'}"]
    if bad:
        parts.append(f"{len(bad)} to look at")
    ends = [
        (first.expires_at, f"{first.name} of {status.gun}")
        for status in found
        if status.standing is not None and (first := status.standing.first) is not None
    ]
    if ends:
        at, what = min(ends)
        parts.append(f"first: {what} {output.until(at)}")
    elif bad and bad[0].problem is not None:
        parts.append(f"{bad[0].gun}: {output.one_line(bad[0].problem.message)}")
    output.answer(f"{word}: {', '.join(parts)}")


def show(status: Status) -> None:
    """Print how a GUN stands."""
    mark = "" if status.is_verified else " (the server's word, not verified)"
    output.answer(f"{status.gun}{mark}")
    if status.is_verified:
        for change in status.staged:
            output.answer(f"  staged    {change}")
        if not status.staged:
            output.answer("  staged    nothing")
    for info in status.pending:
        _show_pending(info, status.gun)
    if status.problem is not None:
        output.answer("  refused" if _level(status) else "  unknown")
        output.warn(f"{status.gun}: {status.problem.message}")
        if status.problem.hint:
            output.hint(status.problem.hint)
    if status.standing is not None:
        for role in status.standing.roles:
            _show_role(role, can_sign=role.role in status.can_sign)
        _show_first(status.standing)
    if status.staged:
        output.hint(f"tabellion publish {status.gun}, or drop it: tabellion reset {status.gun}")


def _show_pending(info: PendingInfo, gun: str) -> None:
    files = _some([f"{role} version {version}" for role, version in info.versions.items()])
    output.answer(f"  pending   {files} ({info.id[:_SHORT]})")
    missing = _some([f"{role}: {count} more" for role, count in info.missing.items()])
    if info.is_stale:
        does = f"can't be published any more: tabellion pending withdraw {gun} {info.id[:_SHORT]}"
    else:
        lacks = missing or "only the snapshot is missing, by a holder of its key"
        does = f"{lacks}: tabellion cosign {gun} {info.id[:_SHORT]}"
    output.answer(f"{'':12}{does}")


def _some(texts: Sequence[str]) -> str:
    others = f", and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return output.one_line(", ".join(texts[:_SHOWN])) + others


def _show_role(role: RoleState, *, can_sign: bool) -> None:
    held = [key for key in role.keys if key.is_held]
    here = ", key here" if can_sign else f", {len(held)} of its keys here" if held else ""
    by_server = ", renewed by the server" if role.renewed_by == "server" else ""
    published = "nothing published"
    if role.version is not None:
        published = f"version {role.version}, {output.until(role.expires_at)}"
    output.answer(f"  {role.role:<9} {published}{by_server}{here}")
    if role.bins is not None:
        output.answer(f"{'':12}the first to end of {role.bins.count} hash bins")
    needed = f"{'':12}{role.threshold} of {len(role.keys)} needed, {role.alive} alive:"
    keys = [_key(key) for key in role.keys]
    line = f"{needed} {', '.join(keys)}"
    if len(line) <= _WIDTH:
        output.answer(line)
        return
    output.answer(needed)
    for key in keys:
        output.answer(f"{'':14}{key}")


def _key(key: KeyState) -> str:
    whose = f" ({key.holder})" if key.holder else ""
    ends = f" certificate until {key.expires_at:%Y-%m-%d}" if key.expires_at is not None else ""
    return f"{key.keyid[:_SHORT]}{whose}{ends}"


def _show_first(standing: Standing) -> None:
    first = standing.first
    if first is None:
        return
    output.answer(f"  first     {first.name}, {output.until(first.expires_at)}")
    for end in standing.ends:
        if end.level != "ok":
            how = {"warn": "expires soon", "critical": "is about to expire"}.get(
                end.level, "expired"
            )
            output.warn(f"{end.name} of {standing.gun} {how}: {remedy(end, standing.gun)}")


def as_json(status: Status) -> dict[str, object]:
    """Give the same for programs."""
    standing, problem = status.standing, status.problem
    first = standing.first if standing is not None else None
    return {
        "gun": status.gun,
        "verified": status.is_verified,
        "level": _level(status) or "unknown",
        "problem": output.one_line(problem.message) if problem is not None else None,
        "staged": [str(change) for change in status.staged],
        "pending": [
            {
                "id": info.id,
                "versions": dict(info.versions),
                "missing": dict(info.missing),
                "stale": info.is_stale,
            }
            for info in status.pending
        ],
        "versions": dict(status.versions),
        "expires": dict(status.expires),
        "can_sign": list(status.can_sign),
        "roles": [_role_json(standing, role) for role in standing.roles] if standing else [],
        "first": {
            "role": first.role,
            "what": first.what,
            "expires": first.expires_at,
            "level": first.level,
            "command": remedy(first, status.gun),
        }
        if first is not None
        else None,
    }


def _role_json(standing: Standing, role: RoleState) -> dict[str, object]:
    return {
        "role": role.role,
        "version": role.version,
        "expires": role.expires_at,
        "level": standing.level_of(role.role),
        "renewed_by": role.renewed_by,
        "threshold": role.threshold,
        "alive": role.alive,
        "margin": role.margin,
        "bins": role.bins.count if role.bins is not None else None,
        "keys": [
            {
                "keyid": key.keyid,
                "type": key.keytype,
                "holder": key.holder,
                "held": key.is_held,
                "signed": key.has_signed,
                "alive": key.is_alive,
                "expires": key.expires_at,
            }
            for key in role.keys
        ],
    }
