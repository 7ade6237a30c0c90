"""``tabellion witness``: sign roles anew as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tabellion.cli.clients import publisher, work
from tabellion.cli.context import common_options, settle, trust_options
from tabellion.cli.publishing import no_publish_option, tell
from tabellion.cli.subject import gun_of
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.outcome import Published


@click.command()
@click.argument("words", metavar="GUN ROLE...", nargs=-1, required=True)
@click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")
@no_publish_option
@trust_options
@common_options
def command(words: tuple[str, ...], gun: str | None, staged: bool) -> None:  # noqa: FBT001
    """Sign each ROLE of GUN anew as it is: another version, a new expiry.

    ROLE is root, targets or a signer's. It renews what expires soon, and revives what expired, or
    what a signer left behind with too few valid signatures.

    \b
    Examples:
      tabellion witness registry.example/team/app targets
      tabellion witness registry.example/team/app root
      tabellion witness registry.example/team/app targets/alice targets/releases
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    name, roles = (None, words) if gun is not None else (words[0], words[1:])
    if not roles:
        raise UsageError("no role is named", hint="give GUN ROLE...")
    wanted = gun_of(name, gun)

    async def witness() -> Published:
        async with publisher(settings) as author:
            return await author.witness(wanted, roles, publish=not staged)

    shown = ", ".join(roles)
    tell(work(witness(), f"signing {shown}"), f"{shown} of {wanted} is signed anew", wanted)
