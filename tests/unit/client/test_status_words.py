"""What ``status`` says and ends with, and how the publishing verbs remind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click
import pytest

from tabellion.cli import standing
from tabellion.cli.context import Options
from tabellion.cli.publishing import tell
from tabellion.core.expiry import End, KeyState, Level, RoleState, Standing
from tabellion.errors import TabellionError, ThresholdError, UnreachableError
from tabellion.publish.outcome import Published, Status

NOW = datetime.now(UTC)
REFUSED = ThresholdError("too few", role="root", needed=1, signed_by=())
AWAY = UnreachableError("no answer\nat all")


@pytest.fixture(autouse=True)
def options() -> Iterator[Options]:
    found = Options()
    with click.Context(click.Command("status"), obj=found):
        yield found


def status(*levels: Level, gun: str = "a/b", problem: TabellionError | None = None) -> Status:
    ends = tuple(
        End("targets", "metadata", NOW + timedelta(days=50 + number), level, "publisher")
        for number, level in enumerate(levels)
    )
    return Status(gun, (), standing=Standing(gun, (), ends), problem=problem)


@pytest.mark.parametrize(
    ("found", "usual", "check", "word"),
    [
        ([status("ok")], 0, 0, "OK"),
        ([], 0, 0, "OK"),
        ([status("ok", "warn")], 0, 1, "WARNING"),
        ([status("ok"), status("critical")], 1, 2, "CRITICAL"),
        ([status("expired"), status("warn")], 1, 2, "CRITICAL"),
        ([status(problem=REFUSED), status("ok")], 1, 2, "CRITICAL"),
        ([status(problem=AWAY), status("warn")], 3, 3, "UNKNOWN"),
        ([status(problem=AWAY), status("critical")], 1, 2, "CRITICAL"),
    ],
)
def test_exit_status_and_word_are_those_of_the_worst(
    found: list[Status], usual: int, check: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert standing.exit_status(found, check=False) == usual
    assert standing.exit_status(found, check=True) == check
    standing.tell_check(found)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{word}: {len(found)} GUN")


def test_what_breaks_first_of_all_guns_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    later = End("root", "metadata", NOW + timedelta(days=99), "warn", "publisher")
    first = End("root", "certificates", NOW + timedelta(days=9), "warn", "publisher")
    found = [
        Status("a/late", (), standing=Standing("a/late", (), (later,))),
        Status("a/soon", (), standing=Standing("a/soon", (), (first, later))),
    ]
    standing.tell_check(found)
    assert "first: root certificate of a/soon until" in capsys.readouterr().out


@pytest.mark.parametrize("is_json", [False, True])
def test_publishing_reminds_on_stderr_with_the_command(
    options: Options, capsys: pytest.CaptureFixture[str], *, is_json: bool
) -> None:
    options.json = is_json
    ending = End("alice", "metadata", NOW + timedelta(days=9, hours=1), "warn", "publisher")
    tell(Published("a/b", {"targets": 2}, ending=ending), "signed", "registry.example/app")
    told = capsys.readouterr()
    reminders = [line for line in told.err.splitlines() if "warning" in line]
    (line,) = reminders
    assert "alice of registry.example/app is valid only until" in line
    assert line.endswith("(9 days): tabellion witness registry.example/app alice")
    assert "alice" not in told.out
    tell(Published("a/b", {"targets": 2}), "signed", "a/b")
    assert "warning" not in capsys.readouterr().err


def test_a_role_of_many_certificates_is_told_within_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys = tuple(
        KeyState(
            f"{number:064x}",
            "ecdsa",
            is_alive=True,
            is_held=False,
            has_signed=True,
            holder="Ann",
            expires_at=NOW + timedelta(days=3650),
        )
        for number in range(3)
    )
    root = RoleState("root", "root", 1, NOW + timedelta(days=9), "publisher", 2, 3, keys)
    standing.show(Status("a/b", (), standing=Standing("a/b", (root,), ())))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("(Ann) certificate until ") == 3


def test_many_bins_are_counted_and_few_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    many = {"targets": 2, **{f"bin2-{number:03x}": 1 for number in range(1024)}}
    tell(Published("a", many), "a has bins", "a")
    assert "published (targets version 2, 1,024 bins)" in capsys.readouterr().err
    tell(Published("a", {"bin2-000": 2}), "x", "a")
    assert "published (bin2-000 version 2)" in capsys.readouterr().err
