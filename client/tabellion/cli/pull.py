"""``tabellion pull``: verify, pull by digest, tag."""

from __future__ import annotations

import click

from tabellion.cli.context import (
    common_options,
    engine_option,
    offline_option,
    settle,
    trust_options,
)
from tabellion.cli.docker import run_on_verified
from tabellion.core.names import parse_reference


@click.command()
@click.argument("image")
@click.option("--platform", metavar="OS/ARCH", help="Pull for this platform.")
@trust_options
@offline_option
@engine_option
@common_options
def command(image: str, platform: str | None) -> int:
    """Verify IMAGE, pull exactly the signed bytes with docker, and tag them.

    \b
    Examples:
      tabellion pull registry.example/team/app:1.2
      tabellion pull --engine podman registry.example/team/app:1.2
    """  # noqa: D301  # \b is click's mark
    parse_reference(image)
    platform_arguments = () if platform is None else ("--platform", platform)
    return run_on_verified(settle(), ("pull", *platform_arguments, image))
