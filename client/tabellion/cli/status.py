"""``tabellion status``: staged changes, versions, expiry, and what the keys here can sign."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle, trust_options
from tabellion.cli.subject import gun_of, optional_gun_argument
from tabellion.core.names import Gun
from tabellion.errors import TabellionError, UsageError

if TYPE_CHECKING:
    from tabellion.core.expiry import Margins
    from tabellion.publish.outcome import Status

_MAX_DAYS = 36_500


@click.command()
@optional_gun_argument
@click.option("--all", "is_all", is_flag=True, help="Every GUN of the server.")
@click.option("--offline", "is_offline", is_flag=True, help="Don't ask the server.")
@click.option(
    "--warn",
    "warn_days",
    type=click.IntRange(0, _MAX_DAYS),
    metavar="DAYS",
    help="Warn of what people have to renew this long before.  [default: 30]",
)
@click.option(
    "--critical",
    "critical_days",
    type=click.IntRange(0, _MAX_DAYS),
    metavar="DAYS",
    help="From when on that is critical.  [default: 7]",
)
@click.option("--check", "is_check", is_flag=True, help="One line and exit status for monitoring.")
@click.option("--ical", "is_ical", is_flag=True, help="Give the expiries as an iCalendar file.")
@trust_options
@common_options
def command(  # noqa: PLR0917  # click passes by keyword
    name: str | None,
    gun: str | None,
    is_all: bool,  # noqa: FBT001  # same
    is_offline: bool,  # noqa: FBT001  # same
    warn_days: int | None,
    critical_days: int | None,
    is_check: bool,  # noqa: FBT001  # same
    is_ical: bool,  # noqa: FBT001  # same
) -> int:
    """Show what is staged for GUN, and how its roles stand; without GUN, all staged changes.

    Of each role: until when it's valid, how many keys it needs and how many can sign. Then what
    breaks first, when, and what to run. With --all, a GUN whose root isn't trusted here is shown by
    the server's word, and marked so.

    Exit status 1 if something is critical, expired or refused. With --check as monitors have it: 0
    fine, 1 warning, 2 critical, expired or refused, 3 couldn't find out.

    \b
    Examples:
      tabellion status
      tabellion status registry.example/team/app
      tabellion status --json registry.example/team/app
      tabellion status --all --check --warn 60
      tabellion status --all --ical > expiry.ics
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    named = name is not None or gun is not None
    wanted = gun_of(name, gun) if named else None
    _check_usage(named=named, everything=is_all, offline=is_offline, judged=is_check or is_ical)
    margins = _margins(warn_days, critical_days)
    if is_ical and (is_check or Options.of().json):
        raise UsageError("the answer has one form", hint="give one of --ical, --check and --json")
    found: list[Status]
    if is_all:
        found = work(_everything(settings, margins), "reading every GUN")
    elif wanted is None or is_offline:
        found = _staged(settings, wanted)
    else:
        found = [work(_online(settings, wanted, margins, keeps=is_check), f"reading {wanted}")]
    from tabellion.cli import standing  # noqa: PLC0415  # not needed for help

    if is_ical:
        standing.tell_calendar(found, margins)
    elif Options.of().json:
        output.answer_json([standing.as_json(status) for status in found])
    elif is_check:
        standing.tell_check(found)
    else:
        if not found:
            output.say("the server has no GUN" if is_all else "nothing is staged")
        for each in found:
            standing.show(each)
    return standing.exit_status(found, check=is_check)


def _check_usage(*, named: bool, everything: bool, offline: bool, judged: bool) -> None:
    if everything and (named or offline):
        raise UsageError("--all is every GUN of the server", hint="leave GUN and --offline out")
    if judged and (offline or not (named or everything)):
        raise UsageError("the server has to be asked for that", hint="give a GUN, or --all")


def _margins(warn_days: int | None, critical_days: int | None) -> Margins:
    from tabellion.core.expiry import Margins  # noqa: PLC0415  # not needed for help

    usual = Margins()
    warn = usual.warn if warn_days is None else timedelta(days=warn_days)
    critical = timedelta(days=critical_days) if critical_days is not None else usual.critical
    if critical_days is None:
        critical = min(critical, warn)
    elif critical > warn:
        raise UsageError("--critical is before --warn", hint="give fewer days for --critical")
    return Margins(warn, critical)


def _staged(settings: Settings, gun: Gun | None) -> list[Status]:
    """Tell what this home folder knows; no server is needed."""
    from tabellion.publish.changes import Staged  # noqa: PLC0415  # not needed for help
    from tabellion.publish.outcome import Status  # noqa: PLC0415  # same

    staged = Staged(settings.home)
    guns = [gun] if gun is not None else staged.guns()
    return [Status(each, tuple(staged.read(each))) for each in guns]


async def _online(settings: Settings, gun: Gun, margins: Margins, *, keeps: bool) -> Status:
    """Read one GUN; ``keeps`` makes a refusal part of the answer."""
    from tabellion.publish.outcome import Status  # noqa: PLC0415  # not needed for help

    async with publisher(settings) as author:
        try:
            return await author.status(gun, margins=margins)
        except TabellionError as error:
            if not keeps or isinstance(error, UsageError):
                raise
            return Status(gun, (), problem=error)


async def _everything(settings: Settings, margins: Margins) -> list[Status]:
    trusts_new = settings.root_key is not None or settings.root is not None or settings.first_use
    async with publisher(settings) as author:
        overview = author.overview(trusts_new=trusts_new, margins=margins)
        return [status async for status in overview.statuses()]
