"""``tabellion docker``: the engine's own command line, on verified images only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import trust_client
from tabellion.cli.context import (
    Settings,
    engine_option,
    offline_option,
    place_options,
    settle,
    trust_options,
)

if TYPE_CHECKING:
    from tabellion.core.names import Digest, Reference
    from tabellion.docker import Sources
    from tabellion.verify import VerifiedImage


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="",
)
@click.argument("argv", metavar="[ENGINE ARGUMENTS]...", nargs=-1, type=click.UNPROCESSED)
@trust_options
@offline_option
@engine_option
@place_options  # not --config: that's docker's own, too
def command(argv: tuple[str, ...]) -> int:
    """Run docker; pull, run, create and build get verified images only.

    The image is verified, pulled by its digest and tagged; then your command runs on exactly
    that. For build, the base images of the Dockerfile. Everything else passes through untouched.
    Unverified: nothing is pulled, exit status 1. Your own command's exit status is the engine's;
    3 is also ours if the engine can't fetch what was verified.

    \b
    Examples:
      tabellion docker pull registry.example/team/app:1.2
      tabellion docker run --rm -it registry.example/team/app:1.2 sh
      tabellion docker build -t mine .
      tabellion docker --engine podman run registry.example/team/app:1.2
      alias docker='tabellion docker'
    """  # noqa: D301  # \b is click's mark
    from tabellion.docker import run_engine  # noqa: PLC0415  # not needed for help

    settings = settle()
    return asyncio.run(run_engine(argv, engine=settings.engine, sources=sources_of(settings)))


def sources_of(settings: Settings) -> Sources:
    """Give who is asked about images: the trust server, and the registry itself."""
    from tabellion.docker import Sources  # noqa: PLC0415  # not needed for help
    from tabellion.registry import RegistryClient  # noqa: PLC0415  # same

    def registry() -> RegistryClient:
        return RegistryClient(insecure=settings.insecure_registries, ca=settings.ca)

    async def verify(image: str) -> VerifiedImage:
        with output.progress(f"verifying {image}"):
            async with trust_client(settings) as trust:
                return await trust.verify(image)

    async def tag_digest(reference: Reference) -> Digest:
        async with registry() as client:
            return (await client.manifest(reference)).digest

    async def speaks_http(host: str) -> bool:
        async with registry() as client:
            return await client.speaks_http(host)

    return Sources(verify, tag_digest, speaks_http)
