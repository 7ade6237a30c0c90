"""``tabellion rebin``: hash bins for a GUN with very many targets, or other ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tabellion.cli.clients import publisher, work
from tabellion.cli.context import common_options, settle, trust_options
from tabellion.cli.publishing import tell
from tabellion.cli.subject import gun_argument, gun_of

if TYPE_CHECKING:
    from tabellion.publish.outcome import Published


@click.command()
@gun_argument
@click.option("--bins", type=int, required=True, metavar="N", help="How many: 2, 4, ... 8192.")
@click.option("--bins-key", "keys", multiple=True, metavar="KEY", help="Sign the bins with it.")
@trust_options
@common_options
def command(name: str | None, gun: str | None, bins: int, keys: tuple[str, ...]) -> None:
    """Spread all targets of GUN over N hash bins, in one publication.

    Each bin holds the targets whose names' hashes begin alike, so that signing one target signs a
    small file. With as many bins as there are, it signs anew those that expire soon, or all of
    them with other keys: those of --bins-key, else those of the targets role.

    \b
    Examples:
      tabellion rebin --gun packages.example --bins 1024
    """  # noqa: D301  # \b is click's mark
    settings, wanted = settle(), gun_of(name, gun)
    from tabellion.publish.keystore import KeyStore  # noqa: PLC0415  # not needed for help

    store = KeyStore(settings.home)
    own = [store.find(text).key for text in keys]

    async def spread() -> Published:
        async with publisher(settings) as author:
            return await author.rebin(wanted, bins, keys=own)

    tell(work(spread(), f"filling {bins} bins"), f"{wanted} has {bins} bins", wanted)
