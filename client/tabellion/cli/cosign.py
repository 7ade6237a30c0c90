"""``tabellion cosign``: add a signature to what waits for some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, common_options, settle, trust_options
from tabellion.cli.proposals import asker, is_file, yes_option
from tabellion.cli.publishing import tell
from tabellion.cli.subject import gun_of
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.outcome import Published


@click.command()
@click.argument("words", metavar="GUN|FILE [ID]", nargs=-1)
@click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")
@yes_option
@trust_options
@common_options
def command(words: tuple[str, ...], gun: str | None, yes: bool) -> None:  # noqa: FBT001
    """Sign what is pending for GUN, or in FILE, with the keys here; publish it if that's enough.

    What it changes is told before it's signed. ID is needed if several are pending. FILE is
    rewritten while more signatures are missing, and removed once it's published.

    \b
    Examples:
      tabellion cosign registry.example/team/app
      tabellion cosign registry.example/team/app 3f1c9a02 --yes
      tabellion cosign app-targets-7.json
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    file = is_file(words[0]) if gun is None and len(words) == 1 else None
    name, rest = (None, words) if gun is not None else (words[0] if words else None, words[1:])
    if len(rest) > 1:
        raise UsageError("one proposal is signed at a time", hint="give GUN ID, or FILE")
    wanted = None if file is not None else gun_of(name, gun)

    async def sign() -> Published:
        async with publisher(settings) as author:
            if file is not None:
                return await author.cosign(file, show=asker(yes))
            return await author.proposals.cosign(str(wanted), *rest, show=asker(yes))

    published = work(sign(), f"signing {wanted or file}")
    tell(published, str(wanted or published.gun), published.gun)
    if published.founds and not published.pending and not Options.of().json:
        output.say("those who verify start from one of these root keys:")
        for fingerprint in published.founds:
            output.answer(fingerprint)
