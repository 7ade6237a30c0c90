"""``tabellion pull``: verify, pull by digest, tag."""

from __future__ import annotations

import asyncio

import click

from tabellion.cli import output
from tabellion.cli.context import (
    Options,
    common_options,
    engine_option,
    offline_option,
    registry_options,
    settle,
    trust_options,
)
from tabellion.cli.docker import sources_of
from tabellion.core.names import parse_reference


@click.command()
@click.argument("image")
@click.option("--platform", metavar="OS/ARCH", help="Pull for this platform.")
@trust_options
@offline_option
@engine_option
@registry_options
@common_options
def command(image: str, platform: str | None) -> None:
    """Verify IMAGE, pull exactly the signed bytes with docker, and tag them.

    Exit status 1: it isn't verified, nothing was pulled; 3: server, registry or engine trouble.

    \b
    Examples:
      tabellion pull registry.example/team/app:1.2
      tabellion pull --engine podman registry.example/team/app:1.2
    """  # noqa: D301  # \b is click's mark
    from tabellion.docker import pull_image  # noqa: PLC0415  # not needed for help

    parse_reference(image)
    settings, as_json = settle(), Options.of().json
    pulled = asyncio.run(
        pull_image(
            image,
            engine=settings.engine,
            sources=sources_of(settings),
            platform=platform,
            quiet=as_json,
        )
    )
    if as_json:
        output.answer_json(
            {
                "reference": str(pulled.reference),
                "digest": str(pulled.digest),
                "image": pulled.pinned,
                "tagged": pulled.tagged,
                "engine": settings.engine,
            }
        )
