"""``tabellion rotate``: another key for a top-level role."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import common_options, settle, trust_options
from tabellion.cli.publishing import tell
from tabellion.cli.subject import gun_of
from tabellion.core.names import Gun
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.outcome import Published


@click.command()
@click.argument("words", metavar="GUN ROLE...", nargs=-1, required=True)
@click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Its new key; else one is made.")
@click.option(
    "--server-managed", "online", is_flag=True, help="Let the server hold the snapshot key."
)
@trust_options
@common_options
def command(words: tuple[str, ...], gun: str | None, keys: tuple[str, ...], online: bool) -> None:  # noqa: FBT001  # click passes by keyword
    """Give each ROLE of GUN another key by one new root, and sign anew what depends on it.

    ROLE is root, targets, snapshot or timestamp; several change in one root. It is signed by the
    old and the new root keys, so that all who trust the old one follow. With more of them needed
    than are here, it waits for their holders (`tabellion cosign`). Of a role of several holders the
    keys that are here are replaced, the others stay. Hash bins that have the keys of targets get
    the new ones with it. The timestamp's key is the server's. A GUN that was mirrored from another
    server is taken over by the last example.

    \b
    Examples:
      tabellion rotate registry.example/team/app targets
      tabellion rotate registry.example/team/app root --key 3f1c
      tabellion rotate registry.example/team/app snapshot timestamp --server-managed
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    name, roles = (None, words) if gun is not None else (words[0], words[1:])
    if not roles:
        raise UsageError("a GUN and a role are needed", hint="give GUN ROLE")
    wanted = gun_of(name, gun)

    async def rotate() -> Published:
        async with publisher(settings) as author:
            return await author.rotate(wanted, *roles, keys=keys, server=online)

    done, said = work(rotate(), f"rotating {' and '.join(roles)}"), " and ".join(roles)
    has = "has a new key" if len(roles) == 1 else "have new keys"
    for info in done.made:
        output.say(f"made {info.role} key {info.keyid[:16]} in {settings.home / 'keys'}")
        output.say(f"its fingerprint is {info.fingerprint}")
    tell(done, f"{said} of {wanted} {has}", wanted)
    if any(info.role == "root" for info in done.made):
        output.hint("back up the new root key, and keep it off the machine that signs releases")
    for role, keyids in done.stay.items():
        output.hint(
            f"{role} keeps the keys of others ({', '.join(keyid[:16] for keyid in keyids)}); each "
            f"replaces their own, or: tabellion root prepare {wanted} --remove-key ID"
        )
    if done.own_bins:
        output.warn(f"the {done.own_bins} hash bins of {wanted} keep keys of their own")
        output.hint(
            f"change them: tabellion rebin --gun {wanted} --bins {done.own_bins} --bins-key KEY"
        )
    if "snapshot" in roles and not online:
        output.warn(
            "the snapshot key is held here now, not by the server: whoever publishes needs it"
        )
        output.hint(f"give it back: tabellion rotate {wanted} snapshot --server-managed")
    if {"root", "targets"} & set(roles) and _is_notary(settings.home, wanted):
        output.hint(
            "keys given to docker or notary before are stale: tabellion key export KEYID --docker"
        )


def _is_notary(home: Path, gun: Gun) -> bool:
    from tabellion.core.dialect import NOTARY, dialect_of  # noqa: PLC0415  # not needed for help
    from tabellion.verify.cache import MetadataCache  # noqa: PLC0415

    root = MetadataCache.of(home, gun).load("root")
    return root is not None and dialect_of(root) is NOTARY
