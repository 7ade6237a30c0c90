"""Signers of a whole namespace: ``signer add|remove --gun-prefix``, and ``signer declared``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle, trust_options
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.changes import AddSigner
    from tabellion.publish.declared import Declaration, GunPrefix
    from tabellion.publish.rollout import Journal, Progress, Rollout, SignerChange

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN = 20
_LACKING = 1


def namespace_options(function: F) -> F:
    """Add ``--gun-prefix --resume --dry-run``."""
    for decorate in (
        click.option("--dry-run", is_flag=True, help="With --gun-prefix: only tell what would be."),
        click.option("--resume", is_flag=True, help="With --gun-prefix: go on after failures."),
        click.option(
            "--gun-prefix",
            "prefix",
            metavar="PREFIX/**",
            help="In all GUNs under it, those founded here later, too; leave GUN out then.",
        ),
    ):
        function = decorate(function)
    return function


def check_options(*, prefix: str | None, gun: str | None, single: bool) -> None:
    """Refuse options that don't go together.

    Raises:
        UsageError: They don't.
    """
    if prefix is None and single:
        raise UsageError("--resume and --dry-run are for --gun-prefix", hint="leave them out")
    if prefix is not None and gun is not None:
        raise UsageError("--gun and --gun-prefix are both given", hint="give one of them")


def add_everywhere(
    settings: Settings, prefix: GunPrefix, signer: AddSigner, *, resume: bool, dry_run: bool
) -> None:
    """Declare a signer of all GUNs under a prefix, and add it to those there are."""
    from tabellion.publish.declared import Declaration, Declared  # noqa: PLC0415  # not for help

    if not dry_run:
        Declared(settings.home).put(Declaration(prefix, signer))
        output.say(f"declared: {signer.name} signs in every GUN under {prefix}")
    _roll_out(settings, prefix, signer, resume=resume, dry_run=dry_run)


def remove_everywhere(
    settings: Settings, prefix: GunPrefix, name: str, *, resume: bool, dry_run: bool
) -> None:
    """Withdraw the declaration, and the signer from all GUNs under a prefix."""
    from tabellion.publish.changes import RemoveSigner  # noqa: PLC0415  # not needed for help
    from tabellion.publish.declared import Declared  # noqa: PLC0415  # same

    if not dry_run and Declared(settings.home).drop(prefix, name):
        output.say(f"not declared any more: {name} under {prefix}")
    _roll_out(settings, prefix, RemoveSigner(name), resume=resume, dry_run=dry_run)


def begun(settings: Settings, prefix: GunPrefix, name: str) -> Rollout:
    """Give what is to be resumed; raises UsageError if nothing is."""
    return _journal(settings, prefix, name).read()


@click.command("declared")
@click.option("--check", "must_check", is_flag=True, help="Ask which GUNs lack them: exit 1 then.")
@trust_options
@common_options
def declared(must_check: bool) -> None:  # noqa: FBT001  # click passes by keyword
    """List the signers declared for whole namespaces, with --check the GUNs that lack them.

    \b
    Examples:
      tabellion signer declared
      tabellion signer declared --check
    """  # noqa: D301  # \b is click's mark
    from tabellion.publish.declared import Declared  # noqa: PLC0415  # not needed for help

    settings = settle()
    held = Declared(settings.home).all()
    lacking = [_lacking(settings, each) if must_check else {} for each in held]
    if Options.of().json:
        output.answer_json(
            [
                {**_as_json(each), "lacking": gone if must_check else None}
                for each, gone in zip(held, lacking, strict=True)
            ]
        )
    else:
        if not held:
            output.say("no signers are declared for namespaces")
        rows = [
            (it.prefix, it.signer.name, it.signer.threshold or 1, " ".join(it.signer.paths or "*"))
            for it in held
        ]
        output.table(("PREFIX", "SIGNER", "THRESHOLD", "PATHS"), rows)
        for each, gone in zip(held, lacking, strict=True):
            for gun, why in gone.items():
                output.warn(f"{gun} lacks {each.signer.name}" + (f": {why}" if why else ""))
    if any(lacking):
        output.hint("add them with: tabellion signer add --gun-prefix PREFIX NAME FILE...")
        click.get_current_context().exit(_LACKING)


def _lacking(settings: Settings, declaration: Declaration) -> dict[str, str]:
    seen = _look(settings, declaration.prefix, declaration.signer)
    return {gun: it.why for gun, it in seen.guns.items() if it.state != "unchanged"}


def _look(settings: Settings, prefix: GunPrefix, change: SignerChange) -> Rollout:
    from tabellion.publish import rollout  # noqa: PLC0415  # not needed for help

    async def look() -> Rollout:
        async with publisher(settings) as author:
            return await rollout.look(author, await rollout.begin(author, prefix, change))

    return work(look(), f"reading the GUNs under {prefix}")


def _roll_out(
    settings: Settings, prefix: GunPrefix, change: SignerChange, *, resume: bool, dry_run: bool
) -> None:
    from tabellion.publish import rollout  # noqa: PLC0415  # not needed for help

    if dry_run:
        _tell(_look(settings, prefix, change), dry_run=True)
        return
    journal = _journal(settings, prefix, change.name)
    held = journal.read() if resume else None
    if held is not None and held.change != change:
        raise UsageError(
            f"what was begun is to {held.change}, not to {change}",
            hint="leave --resume out to begin anew; what is so already is left alone",
        )

    before: dict[str, Progress] = {}

    async def run() -> Rollout:
        async with publisher(settings) as author:
            wanted = await rollout.begin(author, prefix, change)
            if held is not None:
                wanted.guns |= held.guns
            before.update(wanted.guns)
            number, total = 0, len(wanted.left())

            def tell(gun: str, progress: Progress) -> None:
                nonlocal number
                number += 1
                if progress.state == "failed":
                    output.warn(f"{gun}: {progress.why}")
                elif sys.stderr.isatty():
                    output.say(f"{number} of {total}: {gun}: {progress.state}")

            await rollout.run(author, wanted, journal, tell=tell)
            return wanted

    try:
        done = work(run())
    except KeyboardInterrupt:
        output.hint("go on where it stopped: the same command with --resume")
        raise
    _tell(done, dry_run=False, before=before)


def _tell(done: Rollout, *, dry_run: bool, before: Mapping[str, Progress] | None = None) -> None:
    """Tell how a rollout stands; what was done already ``before`` isn't counted as changed."""
    failed = {gun: it.why for gun, it in done.guns.items() if it.state == "failed"}
    if Options.of().json:
        guns = [
            {"gun": gun, "state": it.state, "why": it.why or None} for gun, it in done.guns.items()
        ]
        output.answer_json({"prefix": done.prefix.text, "change": str(done.change), "guns": guns})
    elif not done.guns:
        from tabellion.publish.changes import AddSigner  # noqa: PLC0415  # not needed for help

        output.warn(f"the server holds no GUN under {done.prefix}: nothing was to be changed")
        if isinstance(done.change, AddSigner) and not dry_run:
            output.say(f"GUNs founded under it from this home get {done.change.name} then")
    elif dry_run:
        rows = [
            (gun, "would change" if it.state == "pending" else it.state, it.why)
            for gun, it in done.guns.items()
        ]
        output.table(("GUN", "STATE", "WHY NOT"), rows)
    else:
        earlier = {gun for gun, it in (before or {}).items() if it.state == "done"}
        changed = sum(it.state == "done" and gun not in earlier for gun, it in done.guns.items())
        output.say(
            f"{done.change}: {changed} GUNs changed, {done.count('unchanged') + len(earlier)} had "
            f"it so already, {len(failed)} failed"
        )
    if failed:
        if not dry_run:
            some = list(failed)[:_SHOWN]
            more = f" and {len(failed) - len(some)} more" if len(failed) > len(some) else ""
            output.error(
                f"{len(failed)} of {len(done.guns)} GUNs failed: {', '.join(some)}{more}",
                "mend what the warnings say, then give the same command with --resume",
            )
        click.get_current_context().exit(max(it.exit_status for it in done.guns.values()))


def _journal(settings: Settings, prefix: GunPrefix, name: str) -> Journal:
    from tabellion.publish.rollout import Journal  # noqa: PLC0415  # not needed for help

    return Journal(settings.home, prefix, name)


def _as_json(declaration: Declaration) -> dict[str, object]:
    signer = declaration.signer
    return {
        "prefix": declaration.prefix.text,
        "role": signer.name,
        "keyids": [key.keyid for key in signer.keys],
        "paths": list(signer.paths or "*"),
        "threshold": signer.threshold or 1,
        "terminating": bool(signer.terminating),
    }
