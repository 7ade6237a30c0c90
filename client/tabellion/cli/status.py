"""``tabellion status``: staged changes, versions, expiry, and what the keys here can sign."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle, trust_options
from tabellion.cli.subject import gun_of, optional_gun_argument
from tabellion.core.names import Gun

if TYPE_CHECKING:
    from tabellion.publish.outcome import Status

_SOON = timedelta(days=30)
_SERVER_ROLES = frozenset({"timestamp", "snapshot"})


@click.command()
@optional_gun_argument
@click.option("--offline", "is_offline", is_flag=True, help="Don't ask the server.")
@trust_options
@common_options
def command(name: str | None, gun: str | None, is_offline: bool) -> None:  # noqa: FBT001
    """Show what is staged for GUN, and how its roles stand; without GUN, all staged changes.

    \b
    Examples:
      tabellion status
      tabellion status registry.example/team/app
      tabellion status --json registry.example/team/app
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    wanted = None if name is None and gun is None else gun_of(name, gun)

    if wanted is None or is_offline:
        found = _staged(settings, wanted)
    else:
        found = [work(_online(settings, wanted), f"reading {wanted}")]
    if Options.of().json:
        output.answer_json([_as_json(status) for status in found])
        return
    if not found:
        output.say("nothing is staged")
    for each in found:
        _show(each)


def _staged(settings: Settings, gun: Gun | None) -> list[Status]:
    """Tell what this home folder knows; no server is needed."""
    from tabellion.publish.changes import Staged  # noqa: PLC0415  # not needed for help
    from tabellion.publish.outcome import Status  # noqa: PLC0415  # same

    staged = Staged(settings.home)
    guns = [gun] if gun is not None else staged.guns()
    return [Status(each, tuple(staged.read(each))) for each in guns]


async def _online(settings: Settings, gun: Gun) -> Status:
    async with publisher(settings) as author:
        return await author.status(gun)


def _show(status: Status) -> None:
    output.answer(status.gun)
    for change in status.staged:
        output.answer(f"  staged    {change}")
    if not status.staged:
        output.answer("  staged    nothing")
    for role, version in status.versions.items():
        expires_at = status.expires.get(role)
        until = f", until {expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if expires_at else ""
        here = ", key here" if role in status.can_sign else ""
        output.answer(f"  {role:<9} version {version}{until}{here}")
        if (
            expires_at is not None
            and role not in _SERVER_ROLES
            and expires_at - datetime.now(UTC) < _SOON
        ):
            output.warn(f"{role} of {status.gun} expires soon: sign and publish something with it")
    if status.staged:
        output.hint(f"tabellion publish {status.gun}, or drop it: tabellion reset {status.gun}")


def _as_json(status: Status) -> dict[str, object]:
    return {
        "gun": status.gun,
        "staged": [str(change) for change in status.staged],
        "versions": dict(status.versions),
        "expires": dict(status.expires),
        "can_sign": list(status.can_sign),
    }
