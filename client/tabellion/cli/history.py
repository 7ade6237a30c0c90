"""``tabellion history``: what a tag meant when."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle
from tabellion.cli.subject import gun_of, is_image, subject_of
from tabellion.core.names import Gun

if TYPE_CHECKING:
    from tabellion.publish.server_api import HistoryEntry


@click.command()
@click.argument("subject", metavar="IMAGE|GUN", required=False)
@click.option("--gun", metavar="NAME", help="This exact GUN; a name before it is a target in it.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=50,
    help="Show the newest N entries, 50 by default, at most 1000.",
)
@common_options
def command(subject: str | None, gun: str | None, limit: int) -> None:
    """Show what a tag, or every tag of a GUN, meant when; newest first, as the server recorded it.

    Each line cites the metadata that says so: role, version and sha256. The server's record is a
    help to people, not a proof: what is signed now, `tabellion verify` says.

    \b
    Examples:
      tabellion history registry.example/team/app:1.2
      tabellion history registry.example/team/app
      tabellion history weights.bin --gun models.example/llm --json
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    if subject is not None and (gun is not None or is_image(subject)):
        named = subject_of(subject, gun)
        wanted, target, what = named.gun, named.target, str(named)
    else:
        wanted, target = gun_of(subject, gun), None
        what = wanted
    entries = work(_history(settings, wanted, target, limit), f"asking for {what}")
    if Options.of().json:
        output.answer_json([_as_json(entry) for entry in entries])
        return
    if not entries:
        output.say(f"{what} was never signed here")
    rows = [
        (
            "-" if entry.at is None else f"{entry.at.astimezone(UTC):%Y-%m-%d %H:%M}Z",
            entry.kind,
            entry.target,
            output.digest(entry.digests),
            f"{entry.role} version {entry.version}",
            entry.metadata_sha256[:16],
        )
        for entry in entries
    ]
    output.table(("AT", "WHAT", "TARGET", "DIGEST", "SAID BY", "METADATA"), rows)


async def _history(
    settings: Settings, gun: Gun, target: str | None, limit: int
) -> list[HistoryEntry]:
    async with publisher(settings) as author:
        return await author.history(gun, target=target, limit=limit)


def _as_json(entry: HistoryEntry) -> dict[str, object]:
    return {
        "at": entry.at,
        "kind": entry.kind,
        "target": entry.target,
        "digest": output.digest(entry.digests),
        "length": entry.length,
        "role": entry.role,
        "version": entry.version,
        "metadata_sha256": entry.metadata_sha256,
    }
