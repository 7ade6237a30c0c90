"""``tabellion convert``: make a Notary GUN a TUF 1.0 GUN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle, trust_options
from tabellion.cli.publishing import as_json, tell
from tabellion.cli.subject import gun_argument, gun_of
from tabellion.core.names import Gun
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.converting import Preview, Wish
    from tabellion.publish.outcome import Published

_SHOWN = 20


@click.command()
@gun_argument
@click.option(
    "--to", "dialect", type=click.Choice(["tuf"]), required=True, help="What it's to speak."
)
@click.option("--as", "beside", metavar="NAME", help="Found this new GUN instead; GUN stays.")
@click.option(
    "--vouch",
    multiple=True,
    metavar="ROLE",
    help="Say in targets what ROLE says, and leave ROLE out.",
)
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@trust_options
@common_options
def command(  # noqa: PLR0917  # click passes by keyword
    name: str | None,
    gun: str | None,
    dialect: str,  # noqa: ARG001  # there's one so far; it's named so that nobody guesses
    beside: str | None,
    vouch: tuple[str, ...],
    dry_run: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
) -> None:
    """Make GUN, which speaks Notary's dialect, a TUF 1.0 GUN. There is no way back.

    Its root is signed by the old root keys, so that those who verify with tabellion follow by
    themselves. docker's and notary's own clients can't read it any more. Every tag keeps the
    digest that docker took for signed. For signers whose keys aren't here a partly signed
    publication is left: each adds a signature with publish --cosign.

    \b
    Examples:
      tabellion convert registry.example/team/app --to tuf --dry-run
      tabellion convert registry.example/team/app --to tuf
      tabellion convert registry.example/team/app --to tuf --vouch alice --yes
      tabellion convert registry.example/team/app --to tuf --as registry.example/team/app2
    """  # noqa: D301  # \b is click's mark
    from tabellion.publish.converting import Wish  # noqa: PLC0415  # not needed for help

    settings, wanted = settle(), gun_of(name, gun)
    wish = Wish(wanted, vouch, _new_gun(beside, gun))
    told: list[Preview] = []

    def agree(preview: Preview) -> None:
        told.append(preview)
        _tell_plan(preview, wish)
        if not yes:
            _ask(wish.beside or wanted)

    async def convert() -> Published:
        async with publisher(settings) as author:
            return await author.convert(wish, agree)

    if dry_run:
        _look(settings, wish)
        return
    if not yes and not output.can_ask():
        raise UsageError(
            f"converting {wanted} can't be undone, and nobody is here to be asked",
            hint="see what changes with --dry-run, then give --yes",
        )
    published = work(convert())  # without a spinner: it may have to ask
    if Options.of().json:
        output.answer_json({**_about(told[-1]), **as_json(published)})
        return
    tell(published, f"{published.gun} speaks TUF 1.0" if published.versions else wanted, wanted)


def _new_gun(name: str | None, gun: str | None) -> Gun | None:
    """Parse the name of a GUN to be founded, by the rules that GUN's own name was given by."""
    if name is None:
        return None
    return gun_of(name, None) if gun is None else gun_of(None, name)


def _look(settings: Settings, wish: Wish) -> None:
    from tabellion.publish.outcome import Published  # noqa: PLC0415  # not needed for help

    async def look() -> Preview:
        async with publisher(settings) as author:
            return await author.preview_conversion(wish)

    preview = work(look(), f"looking at {wish.gun}")
    _tell_plan(preview, wish)
    if Options.of().json:
        planned = as_json(Published(wish.beside or wish.gun, {}, missing=preview.missing))
        output.answer_json({**_about(preview), **planned, "state": "planned"})


def _tell_plan(preview: Preview, wish: Wish) -> None:
    for line in _in_words(preview, wish.beside):
        output.say(line)


def _ask(gun: str) -> None:
    if not click.confirm(output.printable(f"Make {gun} a TUF 1.0 GUN?"), err=True):
        raise UsageError(f"{gun} stays as it is", hint="nothing was signed")


def _in_words(preview: Preview, beside: str | None) -> Iterator[str]:
    """Say what changes, a line each."""
    plan = preview.plan
    if beside is None:
        yield f"{plan.gun} becomes a TUF 1.0 GUN, for good"
        yield "docker's and notary's own clients can't read it any more"
    else:
        yield f"{beside} is founded with what {plan.gun} says; {plan.gun} stays as it is"
    keys = " ".join(keyid[:12] for keyid in plan.root_keys)
    yield f"root: {plan.root_threshold} of the keys {keys}, as before"
    yield "snapshot and timestamp: keys of the server"
    for role in plan.roles.values():
        keys = " ".join(keyid[:12] for keyid in role.keys)
        paths = f" for {' '.join(role.patterns)}" if role.patterns else ""
        signed = f"{role.threshold} of the keys {keys}"
        said = f"{len(role.payload.targets)} targets"
        yield f"{role.was} goes on as {role.name}{paths}: {signed}; {said}"
    if any(role.patterns for role in plan.roles.values()):
        yield "a pattern covers names with as many parts between slashes as it has, and no others"
    for name, reason in plan.left_out.items():
        yield f"{name} is left out: {reason}"
    moved = [f"{path} ({role})" for role, path in plan.moved]
    if moved:
        yield f"targets says in their place: {_listed(moved)}"
    unsaid = [f"{path} ({role})" for role, path in plan.unsaid]
    if unsaid:
        yield f"not taken over, as it wasn't what docker answered: {_listed(unsaid)}"
    for name, number in preview.missing.items():
        yield f"{name}: {number} more of its keys have to sign, which aren't here"


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _about(preview: Preview) -> dict[str, Any]:
    plan = preview.plan
    return {
        "roles": [
            {
                "role": role.name,
                "was": role.was,
                "delegated_by": role.delegator,
                "threshold": role.threshold,
                "keyids": list(role.keys),
                "paths": list(role.patterns),
                "targets": len(role.payload.targets),
            }
            for role in plan.roles.values()
        ],
        "left_out": [{"role": name, "reason": reason} for name, reason in plan.left_out.items()],
        "moved": [{"role": role, "target": path} for role, path in plan.moved],
        "unsaid": [{"role": role, "target": path} for role, path in plan.unsaid],
    }
