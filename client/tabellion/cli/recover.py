"""``tabellion recover``: the ways out after a loss or a theft."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle, trust_options
from tabellion.cli.publishing import tell, warn_still_trusted
from tabellion.cli.subject import gun_of
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tabellion.core.names import Gun
    from tabellion.publish.lost import BroughtBack
    from tabellion.publish.outcome import Published
    from tabellion.publish.still_trusted import StillTrusted
    from tabellion.publish.stolen import Doubt

_MEANING = {
    "kept": "kept: as it was before",
    "changed": "goes back to what it was",
    "added": "withdrawn",
    "removed": "stays withdrawn",
}


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

    What this home has read or published is uploaded as it was signed. If the server's keys were
    rotated since the backup, they are lost, too: then a new root is signed, by the root keys here.
    The server's operator runs `tabellion-server accept-restore` first.

    \b
    Examples:
      tabellion recover lost registry.example/team/app
    """  # noqa: D301  # \\b is click's mark
    settings = settle()
    wanted = gun_of(word, gun)

    async def bring_back() -> BroughtBack:
        async with publisher(settings) as author:
            return await author.bring_back(wanted)

    brought = work(bring_back(), f"looking for what the server lacks of {wanted}")
    if brought.behind:
        output.warn(
            f"{_versions(brought.behind)}: lost as well, and not kept in this home. Readers who "
            f"saw that refuse {wanted} until it's back"
        )
        output.hint(
            f"in the home folder that {_names(brought.behind)} published from: "
            f"tabellion recover lost {wanted}"
        )
    if brought.removed:
        output.warn(
            f"{_versions(brought.removed)}: lost, and nothing delegates to that now. Readers who "
            f"saw it refuse {wanted}, as it can't be listed any more"
        )
    if brought.behind or brought.removed:
        last = "if that's lost for good" if not brought.removed else "after all else"
        output.hint(
            f"{last}, make readers forget: tabellion rotate {wanted} snapshot timestamp "
            "--server-managed"
        )
    if Options.of().json:
        output.answer_json({"gun": wanted, **asdict(brought)})
        return
    if brought.rekeyed:
        output.say("the server's keys were lost as well: a new root names new ones")
    output.say(
        f"{wanted} has again: {_versions(brought.versions)}"
        if brought.versions
        else f"the server holds all that this home knows of {wanted}"
    )


def _versions(versions: Mapping[str, int]) -> str:
    return ", ".join(f"{role} version {number}" for role, number in versions.items())


def _names(versions: Mapping[str, int]) -> str:
    return ", ".join(versions)


@command.command()
@click.argument("words", metavar="GUN NAME", nargs=-1, required=True)
@click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")
@click.option(
    "--since", required=True, metavar="DATE", help="When the key was stolen: 2026-11-27T08:00Z."
)
@click.option(
    "--vouch",
    "vouched",
    multiple=True,
    metavar="TARGET@DIGEST",
    help="Signed since, but all right: just these bytes.",
)
@click.option("--yes", is_flag=True, help="Do it; without, only show what would be done.")
@trust_options
@common_options
def signer(
    words: tuple[str, ...],
    gun: str | None,
    since: str,
    vouched: tuple[str, ...],
    yes: bool,  # noqa: FBT001  # click passes by keyword
) -> None:
    """Take over from the signer NAME of GUN, whose key was stolen.

    Shows what NAME signed since DATE. With --yes the delegation is withdrawn, and the holder of
    the targets key signs what NAME had signed before, as it was then, and what --vouch names.
    A digest goes with it, as the thief may sign something else meanwhile; what is signed beside
    it since DATE, as the parts of an index, doesn't stay. NAME comes back with a new key by
    `tabellion signer request`.

    \b
    Examples:
      tabellion recover signer registry.example/team/app alice --since 2026-11-27
      tabellion recover signer registry.example/team/app alice --since 2026-11-27 \\
        --vouch 1.3@sha256:... --yes
    """  # noqa: D301  # \b is click's mark
    settings, moment = settle(), _moment(since)
    name, rest = (None, words) if gun is not None else (words[0], words[1:])
    if len(rest) != 1:
        raise UsageError("a GUN and one signer are needed", hint="give GUN NAME")
    wanted, role, given = gun_of(name, gun), rest[0], dict(map(_vouched, vouched))
    doubts, elsewhere, published = work(
        _take_over(settings, wanted, role, moment, given, does=yes), f"looking at {role}"
    )
    if Options.of().json:
        output.answer_json([_as_json(doubt, given) for doubt in doubts])
    else:
        rows = [_row(doubt, given) for doubt in doubts]
        output.table(("TARGET", "SINCE", "BEFORE", "NOW", "THEN"), rows)
    if published is None:
        warn_still_trusted(elsewhere, wanted)
        output.say("nothing is changed yet")
        output.hint("once the list is right, say --yes")
    elif Options.of().json:
        warn_still_trusted(published.still_trusted, wanted)
    else:
        tell(published, f"{role} has no say in {wanted} any more", wanted)


async def _take_over(
    settings: Settings,
    gun: Gun,
    role: str,
    since: datetime,
    vouched: Mapping[str, str],
    *,
    does: bool,
) -> tuple[list[Doubt], list[StillTrusted], Published | None]:
    async with publisher(settings) as author:
        doubts = await author.signed_since(gun, role, since)
        for doubt in doubts:
            _verify_vouched(doubt, vouched)
        if does:
            return doubts, [], await author.take_over(gun, role, doubts, vouched)
        return doubts, await author.also_trusts(gun, role), None


def _vouched(text: str) -> tuple[str, str]:
    target, at, digest = text.rpartition("@")
    if not at or not target or ":" not in digest:
        raise UsageError(
            f"--vouch {text[:80]!r} doesn't say for which bytes",
            hint="give TARGET@DIGEST, as the list shows it under NOW once you looked at it",
        )
    return target, digest


def _verify_vouched(doubt: Doubt, vouched: Mapping[str, str]) -> None:
    """Refuse to vouch for what was signed since somebody looked."""
    now = output.digest(doubt.now.hashes) if doubt.now is not None else "nothing"
    if vouched.get(doubt.target, now) != now:
        raise UsageError(
            f"{doubt.target[:80]} is signed as {now} by now, not as what you vouch for",
            hint="look at the list again",
        )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text[:40]!r} isn't a moment", hint="give it as 2026-11-27 or 2026-11-27T08:00Z"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _row(doubt: Doubt, vouched: Collection[str]) -> tuple[str, ...]:
    before, now = (
        "-" if target is None else output.digest(target.hashes)
        for target in (doubt.before, doubt.now)
    )
    becomes = _MEANING[doubt.since]
    if doubt.target in vouched:
        is_whole = doubt.vouchable == doubt.now
        becomes = "vouched for: stays" + ("" if is_whole else ", without what is said beside it")
    return doubt.target, doubt.since, before, now, becomes


def _as_json(doubt: Doubt, vouched: Collection[str]) -> dict[str, object]:
    return {
        "target": doubt.target,
        "since": doubt.since,
        "before": doubt.before and output.digest(doubt.before.hashes),
        "now": doubt.now and output.digest(doubt.now.hashes),
        "vouched": doubt.target in vouched,
    }
