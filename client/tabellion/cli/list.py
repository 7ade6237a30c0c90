"""``tabellion list``: what is signed in a GUN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tabellion.cli import output
from tabellion.cli.clients import trust_client, work
from tabellion.cli.context import (
    Options,
    Settings,
    common_options,
    offline_option,
    settle,
    trust_options,
)
from tabellion.cli.subject import gun_argument, gun_of
from tabellion.core.names import Gun

if TYPE_CHECKING:
    from tabellion.core.role_requests import TargetMatch

if TYPE_CHECKING:
    from tabellion.verify import Listing


@click.command()
@gun_argument
@trust_options
@offline_option
@common_options
def command(name: str | None, gun: str | None) -> None:
    """List every signed target of GUN: name, digest, length, signing role. All is verified.

    \b
    Examples:
      tabellion list registry.example/team/app
      tabellion list --json --gun models.example/llm
    """  # noqa: D301  # \b is click's mark
    settings, wanted = settle(), gun_of(name, gun)
    listing = work(_targets(settings, wanted, released=gun is None), f"reading {wanted}")
    matches = listing.targets
    for error in listing.left_out:
        output.warn(f"left out: {error.message}")
    if Options.of().json:
        output.answer_json([as_json(match) for match in matches])
        return
    if not matches:
        output.say(f"nothing is signed in {wanted} yet")
    rows = [
        (match.path, output.digest(match.target.hashes), match.target.length, match.role.role)
        for match in matches
    ]
    output.table(("TARGET", "DIGEST", "LENGTH", "SIGNED BY"), rows)


async def _targets(settings: Settings, gun: Gun, *, released: bool) -> Listing:
    async with trust_client(settings) as trust:
        return await trust.targets(gun, released=released)


def as_json(match: TargetMatch) -> dict[str, Any]:
    """Give a target with the role that signed it."""
    custom = match.target.unrecognized_fields.get("custom")
    return {
        "target": match.path,
        "digest": output.digest(match.target.hashes),
        "length": match.target.length,
        "custom": custom if isinstance(custom, dict) else {},
        "role": match.role.role,
        "delegated_by": match.delegated_by,
        "version": match.role.version,
        "expires": match.role.expires_at,
    }
