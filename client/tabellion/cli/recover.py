"""``tabellion recover``: the ways out after a loss or a theft."""

from __future__ import annotations

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, common_options, settle, trust_options
from tabellion.cli.subject import gun_of


@click.group()
def command() -> None:
    """Recover from a loss or a theft."""


@command.command()
@click.argument("word", metavar="GUN", required=False)
@click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")
@trust_options
@common_options
def lost(word: str | None, gun: str | None) -> None:
    """Publish again what the server lost of GUN when an old backup was restored.

    What this home has read or published is uploaded as it was signed; no key is needed. The
    server's operator runs `tabellion-server accept-restore` first.

    \b
    Examples:
      tabellion recover lost registry.example/team/app
    """  # noqa: D301  # \\b is click's mark
    settings = settle()
    wanted = gun_of(word, gun)

    async def bring_back() -> dict[str, int]:
        async with publisher(settings) as author:
            return await author.bring_back(wanted)

    brought = work(bring_back(), f"looking for what the server lacks of {wanted}")
    if Options.of().json:
        output.answer_json({"gun": wanted, "versions": brought})
        return
    versions = ", ".join(f"{role} version {number}" for role, number in brought.items())
    output.say(
        f"{wanted} has again: {versions}"
        if brought
        else f"the server holds all that this home knows of {wanted}"
    )
