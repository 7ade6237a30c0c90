"""What goes where on the terminal.

* stdout holds the answer and nothing else, so that ``$(tabellion verify IMAGE)`` just works.
* stderr holds the talk: progress, notes, warnings, errors. Lines begin with ``tabellion:``.
* An error is one line of what and where, then one line ``hint:`` of what to do next.
* With ``--json`` the answer is one JSON document on stdout, also when the answer is an error.
* Colour and progress only on a terminal, never with ``NO_COLOR`` or ``TERM=dumb``.
* What came from outside (names, error texts) is printed without control characters: nobody
  rewrites this terminal from afar.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, Any

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
_LONG_HEX = re.compile(r"(?:sha(?:256|512):)?\b([0-9a-f]{8})[0-9a-f]{8,}\b")
_SHOW_PROGRESS_AFTER_SECONDS = 0.4


def printable(text: object) -> str:
    """Replace every control and other unprintable character but newline with ``?``."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(text))


def one_line(text: object) -> str:
    """Make text fit for one line."""
    return " ".join(printable(text).split())


def is_colourful(stream: IO[str]) -> bool:
    """Tell whether a stream is a terminal that wants colour."""
    return (
        stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "dumb") != "dumb"
    )


def paint(text: str, colour: str, stream: IO[str] | None = None) -> str:
    """Colour text if the stream (stderr by default) wants it."""
    if is_colourful(stream or sys.stderr):
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"
    return text


def answer(text: str) -> None:
    """Print the answer, or a line of it, on stdout."""
    sys.stdout.write(f"{printable(text)}\n")


def answer_json(content: Any) -> None:  # noqa: ANN401  # any JSON
    """Print the answer as one JSON document on stdout."""
    sys.stdout.write(json.dumps(content, indent=2, default=_json_text) + "\n")


def _json_text(value: object) -> str:
    """Give what JSON has no type for: moments in one form everywhere, RFC 3339 in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def say(text: str) -> None:
    """Tell what happens, on stderr."""
    sys.stderr.write(f"{paint('tabellion:', 'dim')} {printable(text)}\n")


def warn(text: str) -> None:
    """Tell what needs attention but doesn't stop the work, on stderr."""
    sys.stderr.write(f"{paint('tabellion: warning:', 'yellow')} {one_line(text)}\n")


def hint(text: str) -> None:
    """Tell what to do next, on stderr."""
    sys.stderr.write(f"{paint('hint:', 'bold')} {one_line(text)}\n")


def error(message: str, hint_text: str = "") -> None:
    """Tell what went wrong and where, then what to do next, on stderr."""
    sys.stderr.write(f"{paint('tabellion: error:', 'red')} {one_line(message)}\n")
    if hint_text:
        hint(hint_text)


def digest(hashes: Mapping[str, str]) -> str:
    """Write the first of some hashes as a digest, sha256 before sha512; "-" if there's none."""
    return next((f"{name}:{value}" for name, value in sorted(hashes.items())), "-")


def until(at: datetime | None) -> str:
    """Write a moment of expiry, and how far it is."""
    if at is None:
        return "no expiry known"
    moment, left = f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC", at - datetime.now(UTC)
    if left <= timedelta(0):
        return f"expired {_lasting(-left)} ago ({moment})"
    return f"until {moment} ({_lasting(left)})"


def _lasting(span: timedelta) -> str:
    return f"{span.days} days" if span.days > 1 else f"{int(span.total_seconds() // 3600)} h"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns on stdout; the head only on a terminal, so that scripts need no tail.

    Control characters are replaced; tabs can't appear within a cell. On a terminal that is too
    narrow, digests are shortened; scripts always get them whole.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            sys.stdout.write("\t".join(row) + "\n")
        return
    if not cells:
        return
    lines = [list(head), *cells]
    widths = _widths(lines)
    if sum(widths) + 2 * len(widths) - 2 > shutil.get_terminal_size().columns:
        lines = [[_LONG_HEX.sub(r"\1...", cell) for cell in line] for line in lines]
        widths = _widths(lines)
    for number, line in enumerate(lines):
        padded = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        text = padded.rstrip()
        sys.stdout.write((text if number else paint(text, "bold", sys.stdout)) + "\n")


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]


_asking = threading.Event()


def can_ask() -> bool:
    """Tell whether a person sits at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask_passphrase(question: str, is_new: bool) -> str:  # noqa: FBT001  # a callback's signature
    """Ask for a passphrase at the terminal, twice if it's new; the spinner rests meanwhile."""
    import click  # noqa: PLC0415  # not needed to print

    with _resting():
        answered: str = click.prompt(
            printable(question), hide_input=True, confirmation_prompt=is_new, err=True
        )
    return answered


def ask_yes(question: str) -> bool:
    """Ask yes or no at the terminal; just Enter is no."""
    import click  # noqa: PLC0415  # not needed to print

    with _resting():
        return click.confirm(printable(question), default=False, err=True)


@contextlib.contextmanager
def _resting() -> Iterator[None]:
    """Let the spinner rest."""
    _asking.set()
    try:
        sys.stderr.write("\r\x1b[2K" if is_colourful(sys.stderr) else "")
        yield
    finally:
        _asking.clear()


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Show on a terminal that something takes long, with a spinner that leaves nothing behind."""
    if not is_colourful(sys.stderr):
        yield
        return
    done = threading.Event()

    def spin() -> None:
        if done.wait(_SHOW_PROGRESS_AFTER_SECONDS):
            return
        started = time.monotonic()
        while not done.wait(0.1):
            if _asking.is_set():
                continue
            seconds = int(time.monotonic() - started + 1)
            mark = "|/-\\"[int(time.monotonic() * 8) % 4]
            sys.stderr.write(f"\r\x1b[2K{mark} {one_line(what)} ({seconds} s)")
            sys.stderr.flush()
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
