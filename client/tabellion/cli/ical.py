"""Expiries as a calendar: one event each, with alarms, for any calendar program to subscribe to.

Spec: RFC 5545.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from tabellion.core.expiry import Margins, Standing, remedy

_LINE_BYTES: Final = 75  # 3.1: longer lines are folded
_ESCAPES: Final = str.maketrans({"\\": "\\\\", ";": "\\;", ",": "\\,", "\n": "\\n"})


def calendar(standings: Iterable[Standing], *, now: datetime, margins: Margins) -> str:
    """Write what people have to renew; what a server renews by itself is left out.

    An event keeps its UID when what it stands for is renewed: the calendar moves it.
    """
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//tabellion//status//EN",
        *(line for standing in standings for line in _events(standing, now, margins)),
        "END:VCALENDAR",
    ]
    return "".join(f"{_folded(line)}\r\n" for line in lines)


def _events(standing: Standing, now: datetime, margins: Margins) -> Iterator[str]:
    versions = {role.role: role.version or 0 for role in standing.roles}
    for end in standing.ends:
        if end.renewed_by != "publisher":
            continue
        # Another bin may be the first next time. None is named so: bins are all there is then.
        role = end.role if end.bins is None else "hash bins"
        identity = f"{standing.gun}\0{role}\0{end.what}"
        yield from (
            "BEGIN:VEVENT",
            f"UID:{hashlib.sha256(identity.encode()).hexdigest()[:40]}@tabellion",
            f"DTSTAMP:{_moment(now)}",
            f"SEQUENCE:{versions[end.role]}",
            f"DTSTART:{_moment(end.expires_at)}",
            f"SUMMARY:{_text(f'{end.name} of {standing.gun} expires')}",
            f"DESCRIPTION:{_text(f'Renew it before: {remedy(end, standing.gun)}')}",
            "TRANSP:TRANSPARENT",
        )
        for before in _alarms(margins):
            yield from (
                "BEGIN:VALARM",
                "ACTION:DISPLAY",
                f"TRIGGER:-PT{int(before.total_seconds())}S",
                f"DESCRIPTION:{_text(f'{end.name} of {standing.gun} expires')}",
                "END:VALARM",
            )
        yield "END:VEVENT"


def _alarms(margins: Margins) -> Sequence[timedelta]:
    return sorted({margins.warn, margins.critical} - {timedelta(0)}, reverse=True)


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _text(text: str) -> str:
    """Escape a TEXT value; control characters have no place in one."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text).translate(_ESCAPES)


def _folded(line: str) -> str:
    """Break a line into short pieces, a space before all but the first, and no character torn."""
    pieces: list[str] = []
    piece, size = "", 0
    for char in line:
        width = len(char.encode())
        if size + width > _LINE_BYTES:
            pieces.append(piece)
            piece, size = " ", 1
        piece, size = piece + char, size + width
    return "\r\n".join([*pieces, piece])
