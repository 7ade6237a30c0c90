"""How the command line writes moments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tabellion.cli import output


def test_what_has_expired_is_said_to_have_and_since_when() -> None:
    now = datetime.now(UTC)
    assert output.until(now - timedelta(days=3, hours=1)).startswith("expired 3 days ago (")
    assert output.until(now - timedelta(hours=5, minutes=1)).startswith("expired 5 h ago (")
    assert output.until(now + timedelta(days=3, hours=1)).endswith(" UTC (3 days)")
    assert output.until(now + timedelta(minutes=10)).endswith(" UTC (0 h)")
