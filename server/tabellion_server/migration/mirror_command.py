"""``tabellion-server mirror``: GUNs of a Notary server that only answers HTTP, copied and kept."""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.markup import escape

from tabellion.errors import ConfigurationError, TabellionError
from tabellion.transport.addresses import server_url_fault
from tabellion.transport.fetcher import HttpFetcher
from tabellion_server.migration.command import STYLES, open_target, plain, show_summary
from tabellion_server.migration.importing import Outcome
from tabellion_server.migration.mirror import Mirror
from tabellion_server.migration.mirror_site import NotarySite
from tabellion_server.settings import Settings, load_settings

_RATE: Final = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)(?:/s)?")
_EVERY: Final = re.compile(r"([1-9]\d{0,4})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PATTERN: Final = re.compile(r"[*?\[]")
_MAX_LIST_BYTES: Final = 64 * 1024**2


@click.command(
    "mirror",
    epilog="Example: tabellion-server mirror https://notary.example --gun "
    "'registry.example/team/*' --every 1h --config server.toml",
)
@click.argument("url")
@click.option("--gun", "guns", multiple=True, help="A GUN, or a pattern; may be repeated.")
@click.option(
    "--guns-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file of GUNs or patterns, one a line.",
)
@click.option("--rate", default="10/s", metavar="N/s", help="Requests a second at most.")
@click.option(
    "--concurrency", type=click.IntRange(1, 64), default=4, help="Requests at a time at most."
)
@click.option(
    "--ca", type=click.Path(path_type=Path, dir_okay=False), help="PEM file of the URL's CA."
)
@click.option("--once", is_flag=True, help="One round; so it is without --every, too.")
@click.option("--every", metavar="1h", help="Begin another round so long after the last one.")
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of the server to mirror into.",
)
def mirror(
    url: str,
    *,
    guns: tuple[str, ...],
    guns_file: Path | None,
    rate: str,
    concurrency: int,
    ca: Path | None,
    once: bool,
    every: str | None,
    config: Path | None,
) -> None:
    """Copy GUNs of the Notary server at URL; only what isn't here yet is fetched.

    Exit status: 0 all is here, 1 some GUNs aren't, 2 configuration, 3 trouble.
    """
    settings = load_settings(config)
    if fault := server_url_fault(url):
        raise ConfigurationError(fault[0], hint=fault[1])
    if once and every:
        raise ConfigurationError("--once and --every exclude each other", hint="give one of them")
    wanted = [*guns, *(_read_list(guns_file) if guns_file else ())]
    if not wanted:
        raise ConfigurationError("no GUN is named", hint="give --gun or --guns-file")
    pause = _seconds(every) if every else None
    per_second = _per_second(rate)

    async def rounds() -> int:
        async with AsyncExitStack() as stack:
            fetcher = await stack.enter_async_context(HttpFetcher(ca=ca))
            site = NotarySite(url, fetcher, rate=per_second, concurrency=concurrency)
            while True:
                try:
                    status = await _round(settings, site, wanted, concurrency)
                except TabellionError as error:
                    if pause is None or isinstance(error, ConfigurationError):
                        raise
                    click.echo(f"tabellion-server: {error.message}", err=True)
                    status = error.exit_status
                if pause is None:
                    return status
                await asyncio.sleep(pause)

    if status := asyncio.run(rounds()):
        raise click.exceptions.Exit(status)


async def _round(
    settings: Settings, site: NotarySite, wanted: Sequence[str], concurrency: int
) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    chosen = await _choose(site, wanted)
    async with AsyncExitStack() as stack:
        target = await open_target(settings, stack)
        done = 0
        with console.status("") as shown:

            def tell(outcome: Outcome) -> None:
                nonlocal done
                done += 1
                shown.update(f"{done} of {len(chosen)} GUNs")
                style = STYLES[outcome.status]
                console.print(
                    f"{escape(f'[{done}/{len(chosen)}]')} {escape(plain(outcome.gun))} "
                    f"[{style}]{outcome.status}[/{style}]"
                )

            run = Mirror(site, target, clock=lambda: datetime.now(UTC)).run
            outcomes, status = await run(chosen, concurrency=concurrency, tell=tell)
    show_summary(outcomes, dry_run=False)
    return status


async def _choose(site: NotarySite, wanted: Sequence[str]) -> list[str]:
    """Give exact names as they are, and the GUNs of the changefeed that are like a pattern."""
    patterns = [text for text in wanted if _PATTERN.search(text)]
    chosen = {text for text in wanted if not _PATTERN.search(text)}
    if patterns:
        alive: set[str] = set()
        async for gun, is_there in site.feed():
            if is_there:
                alive.add(gun)
            else:
                alive.discard(gun)
        like = {gun for gun in alive if any(fnmatch.fnmatchcase(gun, p) for p in patterns)}
        if not like and not chosen:
            raise ConfigurationError(
                f"none of the server's {len(alive)} GUNs is like {patterns[0][:100]!r}",
                hint="give another --gun pattern",
            )
        chosen |= like
    return sorted(chosen)


def _read_list(path: Path) -> list[str]:
    try:
        with path.open("rb") as opened:
            data = opened.read(_MAX_LIST_BYTES + 1)
        if len(data) > _MAX_LIST_BYTES:
            raise ConfigurationError(f"{path} is too long", hint="split it")
        lines = data.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} can't be read: {getattr(error, 'strerror', None) or 'it is no UTF-8'}",
            hint="give a text file with a GUN on each line",
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _per_second(text: str) -> float:
    match = _RATE.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise ConfigurationError(f"--rate {text[:40]!r} is no rate", hint="such as 10/s or 0.5/s")
    return float(match[1])


def _seconds(text: str) -> int:
    match = _EVERY.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"--every {text[:40]!r} is no time", hint="such as 30m, 1h or 1d")
    return int(match[1]) * _SECONDS[match[2]]
