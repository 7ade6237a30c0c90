"""``tabellion history``: what a tag meant when."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle
from tabellion.cli.subject import Subject, image_argument, subject_of

if TYPE_CHECKING:
    from tabellion.publish.server_api import HistoryEntry


@click.command()
@image_argument
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@common_options
def command(image: str, gun: str | None, limit: int) -> None:
    """Show what a tag meant when, newest first, as the server recorded it.

    Each line cites the metadata that says so: role, version and sha256. The server's record is a
    help to people, not a proof: what is signed now, `tabellion verify` says.

    \b
    Examples:
      tabellion history registry.example/team/app:1.2
      tabellion history --gun models.example/llm weights.bin --json
    """  # noqa: D301  # \b is click's mark
    settings, subject = settle(), subject_of(image, gun)
    entries = work(_history(settings, subject, limit), f"asking for {subject}")
    if Options.of().json:
        output.answer_json(
            [asdict(entry) | {"at": entry.at.isoformat(), "id": entry.id} for entry in entries]
        )
        return
    if not entries:
        output.say(f"{subject} was never signed here")
    rows = [
        (
            f"{entry.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z",
            entry.kind,
            next((f"{name}:{value}" for name, value in sorted(entry.digests.items())), "-"),
            f"{entry.role} version {entry.version}",
            entry.metadata_sha256[:16],
        )
        for entry in entries
    ]
    output.table(("AT", "WHAT", "DIGEST", "SAID BY", "METADATA"), rows)


async def _history(settings: Settings, subject: Subject, limit: int) -> list[HistoryEntry]:
    async with publisher(settings) as author:
        return await author.history(subject.gun, target=subject.target, limit=limit)
