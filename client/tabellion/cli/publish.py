"""``tabellion publish``: publish what was staged, or add signatures to what waits for some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import common_options, settle, trust_options
from tabellion.cli.publishing import tell
from tabellion.cli.subject import gun_of, optional_gun_argument
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.outcome import Published


@click.command()
@optional_gun_argument
@click.option(
    "--cosign",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add the signatures of keys here to FILE, and publish it when there are enough.",
)
@trust_options
@common_options
def command(name: str | None, gun: str | None, cosign: Path | None) -> None:
    """Publish the staged changes of GUN, all of them at once or none; or what FILE holds.

    With --cosign, what FILE changes is told before it's signed. FILE is rewritten while more
    signatures are missing, and removed once it's published.

    \b
    Examples:
      tabellion publish registry.example/team/app
      tabellion publish --cosign app-targets-7.json
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    if cosign is not None and (name is not None or gun is not None):
        raise UsageError("--cosign takes no GUN", hint="FILE names its GUN: leave it out")
    wanted = None if cosign is not None else gun_of(name, gun)

    async def publish() -> Published:
        async with publisher(settings) as author:
            if cosign is not None:
                return await author.cosign(cosign, show=_show)
            return await author.publish(str(wanted))

    published = work(publish(), f"publishing {wanted or cosign}")
    tell(published, str(wanted or published.gun), published.gun)


def _show(changes: Sequence[str]) -> None:
    for line in changes:
        output.say(line)
