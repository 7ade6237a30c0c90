"""``tabellion demo``: the whole story on this machine, with a real server and real attacks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import click

from tabellion.cli import output
from tabellion.cli.embedded import EmbeddedServer

_TERMINATED = 128


@click.command()
@click.option("--exit", "exits", is_flag=True, help="End after the story, with status 0.")
def command(exits: bool) -> int:  # noqa: FBT001  # click passes by keyword
    """Show signing, hosting, verifying and seven refused attacks, then keep serving.

    Starts a real server on 127.0.0.1 with its data in a temporary folder, which goes away at the
    end. Nothing else on this machine is touched.

    \b
    Examples:
      tabellion demo
      tabellion demo --exit
    """  # noqa: D301  # \b is click's mark
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with tempfile.TemporaryDirectory(prefix="tabellion-demo-") as name:
        folder = Path(name)
        (folder / "server").mkdir(mode=0o700)
        with EmbeddedServer(folder / "server") as server:
            asyncio.run(_tell_and_serve(folder, server.url, exits=exits))
    return 0


def _end(number: int, _: FrameType | None) -> None:
    """Turn a signal into an exit, so that the server and the folder are cleaned up."""
    sys.exit(_TERMINATED + number)


async def _tell_and_serve(folder: Path, server: str, *, exits: bool) -> None:
    from tabellion.cli.demo_story import GUN, Story  # noqa: PLC0415  # not needed for help

    story = Story(folder, server, show=_show)
    try:
        await story.tell()
        if exits:
            return
        _show(_advice(folder, server, story, GUN))
        sys.stdout.flush()
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C: the announced way out
            await asyncio.Event().wait()
        _show("Stopped; the folder is gone.")
    finally:
        await story.close()


def _show(text: str) -> None:
    for line in text.split("\n"):
        stripped = line.strip()
        colour = ""
        if line[:1].isdigit():
            colour = "bold"
        elif stripped.startswith("refused:"):
            colour = "red"
        elif stripped.startswith("verified:"):
            colour = "green"
        shown = output.printable(line)
        sys.stdout.write((output.paint(shown, colour, sys.stdout) if colour else shown) + "\n")
    sys.stdout.flush()


def _advice(folder: Path, server: str, story: object, gun: str) -> str:
    tabellion = shlex.quote(_program())
    passphrase = getattr(story, "passphrase", "")
    mirror = getattr(story, "mirror_url", "")
    fingerprint = getattr(story, "fingerprint", "")
    return f"""
7. Your turn. The server keeps running; in another terminal:

export TABELLION_SERVER={server} TABELLION_ROOT_KEY={fingerprint}
export TABELLION_HOME={folder}/you
{tabellion} verify {gun}:1.1
{tabellion} list {gun}
{tabellion} history {gun}:1.1
{tabellion} verify {gun}:9.9                      # refused: nobody signed it
{tabellion} --server {mirror} verify {gun}:1.1    # the attacking mirror: refused

# as the publisher:
export TABELLION_HOME={folder}/publisher TABELLION_TARGETS_PASSPHRASE={passphrase}
{tabellion} sign {gun}:2.0 --digest sha256:{"ab" * 32} --length 1234
{tabellion} inspect {gun}

Ctrl-C ends it and removes everything."""


def _program() -> str:
    """Give the command as it was called, so that pasted lines find it."""
    called = Path(sys.argv[0])
    if called.name != "tabellion":
        return f"{sys.executable} -m tabellion.cli"
    return str(called.absolute()) if os.sep in sys.argv[0] else "tabellion"
