"""``tabellion reset``: drop staged changes."""

from __future__ import annotations

import click

from tabellion.cli import output
from tabellion.cli.context import Options, common_options, settle
from tabellion.cli.subject import gun_argument, gun_of


@click.command()
@gun_argument
@common_options
def command(name: str | None, gun: str | None) -> None:
    """Drop the staged changes of GUN. What is published stays.

    \b
    Examples:
      tabellion reset registry.example/team/app
    """  # noqa: D301  # \b is click's mark
    settings, wanted = settle(), gun_of(name, gun)

    from tabellion.publish.changes import Staged  # noqa: PLC0415  # not needed for help

    dropped = Staged(settings.home).reset(wanted)
    if Options.of().json:
        output.answer_json({"gun": wanted, "dropped": dropped})
    else:
        output.say(f"{wanted}: {dropped} staged change{'' if dropped == 1 else 's'} dropped")
