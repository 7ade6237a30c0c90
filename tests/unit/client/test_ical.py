"""The calendar of expiries, read back by a parser that isn't ours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from icalendar import Calendar

from tabellion.cli.ical import calendar
from tabellion.core.expiry import End, Margins, RoleState, Standing

NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def standing(gun: str = "registry.example/app", *, days: int = 100, version: int = 3) -> Standing:
    at = NOW + days * DAY
    roles = tuple(
        RoleState(role, "root", version, at, by, 1, 1)
        for role, by in (("root", "publisher"), ("targets", "publisher"), ("timestamp", "server"))
    )
    ends = (
        End("timestamp", "metadata", NOW + DAY, "ok", "server"),
        End("root", "certificates", at - DAY, "ok", "publisher"),
        End("root", "metadata", at, "ok", "publisher"),
        End("targets", "metadata", at, "ok", "publisher"),
    )
    return Standing(gun, roles, ends)


def text_of(*standings: Standing, margins: Margins | None = None) -> str:
    return calendar(standings, now=NOW, margins=margins or Margins())


def events(text: str) -> list[Any]:
    parsed = Calendar.from_ical(text)
    assert str(parsed["VERSION"]) == "2.0"
    assert parsed["PRODID"]
    assert parsed.errors == []
    return list(parsed.walk("VEVENT"))


def test_each_expiry_that_people_renew_is_an_event_with_alarms() -> None:
    found = events(text_of(standing()))
    assert [str(event["SUMMARY"]) for event in found] == [
        "root certificate of registry.example/app expires",
        "root of registry.example/app expires",
        "targets of registry.example/app expires",
    ]
    assert [event["DTSTART"].dt for event in found] == [NOW + 99 * DAY, *[NOW + 100 * DAY] * 2]
    assert "tabellion witness registry.example/app root" in str(found[1]["DESCRIPTION"])
    for event in found:
        assert event["DTSTAMP"].dt == NOW
        alarms = event.walk("VALARM")
        assert [alarm["TRIGGER"].dt for alarm in alarms] == [-30 * DAY, -7 * DAY]
        assert {str(alarm["ACTION"]) for alarm in alarms} == {"DISPLAY"}


def test_alarms_follow_the_margins() -> None:
    (first, *_) = events(text_of(standing(), margins=Margins(60 * DAY, 0 * DAY)))
    assert [alarm["TRIGGER"].dt for alarm in first.walk("VALARM")] == [-60 * DAY]


def test_an_event_keeps_its_uid_when_it_is_renewed_and_moves_on() -> None:
    before, after = events(text_of(standing())), events(text_of(standing(days=400, version=4)))
    assert [e["UID"] for e in before] == [e["UID"] for e in after]
    assert all(a["SEQUENCE"] > b["SEQUENCE"] for a, b in zip(after, before, strict=True))
    both = events(text_of(standing(), standing("other.example/app")))
    assert len({str(event["UID"]) for event in both}) == 6


@given(st.text(min_size=1, max_size=300))
def test_any_name_comes_back_whole_and_makes_no_other_line(gun: str) -> None:
    text = text_of(standing(gun))
    lines = text.split("\r\n")
    assert lines[-1] == ""
    assert all(len(line.encode()) <= 75 for line in lines)
    assert all(c.isprintable() for line in lines for c in line)
    (_, root, _) = events(text)
    shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in gun)
    assert str(root["SUMMARY"]) == f"root of {shown} expires"
    assert len(events(text)) == 3
