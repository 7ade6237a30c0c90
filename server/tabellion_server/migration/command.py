"""``tabellion-server import-notary``: what a Notary server holds, brought over in one go."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tabellion.errors import ConfigurationError
from tabellion_server.keys.master_file import open_master_key
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.migration.held import HeldSource
from tabellion_server.migration.importing import Importer, Outcome, Status, Target
from tabellion_server.migration.rows import Source
from tabellion_server.migration.signer_rows import SignerRow, passphrase_variable
from tabellion_server.migration.sources import open_source, shown
from tabellion_server.settings import Settings, load_settings
from tabellion_server.storage.opening import is_store_there, open_store

_ALIAS: Final = re.compile(r"([^=\s]{1,100})=([A-Za-z_][A-Za-z0-9_]*)")
_SERVER_TABLES: Final = ("tuf_files", "changefeed")
_SIGNER_TABLES: Final = ("private_keys",)
STYLES: Final = {
    Status.IMPORTED: "green",
    Status.REPAIRED: "yellow",
    Status.UNCHANGED: "dim",
    Status.DIVERGED: "red",
    Status.REFUSED: "red",
}


@click.command(
    "import-notary",
    epilog="Example: PGPASSWORD=... tabellion-server import-notary --config server.toml "
    "--server-db postgresql://reader@db/notaryserver "
    "--signer-db postgresql://reader@db/notarysigner --dry-run",
)
@click.option(
    "--server-db",
    help="notary-server's database: postgresql://, mysql://, a dump; without it keys come for what "
    "is here already.",
)
@click.option("--signer-db", help="notary-signer's database, likewise; without it no keys come.")
@click.option(
    "--passphrase-env",
    "variables",
    multiple=True,
    metavar="ALIAS=VARIABLE",
    help="Where the passphrase of an alias is; NOTARY_SIGNER_<ALIAS> by default.",
)
@click.option("--gun", "pattern", default="*", help="Only GUNs like this, such as 'reg.example/*'.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, write nothing.")
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of the server to import into.",
)
def import_notary(
    server_db: str | None,
    signer_db: str | None,
    variables: tuple[str, ...],
    pattern: str,
    *,
    dry_run: bool,
    config: Path | None,
) -> None:
    """Import GUNs, keys and changefeed of a Notary server; may be run again at any time.

    Exit status: 0 all is here, 1 some GUNs couldn't be imported, 2 configuration, 3 trouble.
    """
    if server_db is None and signer_db is None:
        raise ConfigurationError(
            "nothing to import from",
            hint="give --server-db; or --signer-db alone, for the keys of what was mirrored",
        )
    settings = load_settings(config)
    places = _alias_variables(variables)
    outcomes = asyncio.run(
        _import_all(settings, server_db, signer_db, places, pattern, dry_run=dry_run)
    )
    show_summary(outcomes, dry_run=dry_run)
    if any(outcome.status is Status.REFUSED for outcome in outcomes):
        raise click.exceptions.Exit(1)


async def _import_all(
    settings: Settings,
    server_db: str | None,
    signer_db: str | None,
    places: Mapping[str, str],
    pattern: str,
    *,
    dry_run: bool,
) -> list[Outcome]:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    async with AsyncExitStack() as stack:

        async def opened(place: str, tables: Sequence[str]) -> Source:
            console.print(f"reading {escape(shown(place))}")
            source = await asyncio.to_thread(open_source, place, tables)
            stack.push_async_callback(asyncio.to_thread, source.close)
            return source

        source = await opened(server_db, _SERVER_TABLES) if server_db is not None else None
        keys: list[SignerRow] | None = None
        if signer_db is not None:
            same = source if signer_db == server_db else None
            signer = same or await opened(signer_db, _SIGNER_TABLES)
            keys = await asyncio.to_thread(signer.signer_keys)
        target: Target | None = None
        if source is None:
            target = await open_preview(settings, stack)
            source = _held(target, settings)
        guns = await asyncio.to_thread(source.guns)
        chosen = [gun for gun in guns if fnmatch.fnmatchcase(gun, pattern)]
        if not chosen:
            place = shown(server_db) if server_db is not None else f"store {settings.store_name}"
            raise ConfigurationError(
                f"none of the {len(guns)} GUNs of {place} is like {pattern[:100]!r}",
                hint="give another --gun pattern, or another database",
            )
        if target is None:
            target = await (open_preview if dry_run else open_target)(settings, stack)
        importer = Importer(
            source,
            target,
            signer_keys=keys,
            passphrases=_passphrases(keys or (), places),
            clock=lambda: datetime.now(UTC),
            dry_run=dry_run,
        )
        outcomes: list[Outcome] = []
        with console.status("") as status:
            async for outcome in importer.run(chosen):
                outcomes.append(outcome)
                status.update(f"{len(outcomes)} of {len(chosen)} GUNs")
                style = STYLES[outcome.status]
                place = f"[{len(outcomes)}/{len(chosen)}]"
                console.print(
                    f"{escape(place)} {escape(plain(outcome.gun))} "
                    f"[{style}]{outcome.status}[/{style}]"
                )
        return outcomes


def _held(target: Target | None, settings: Settings) -> Source:
    """Give what is here, for which keys alone are to come."""
    if target is None:
        raise ConfigurationError(
            f"there is no store {settings.store_name} yet whose GUNs could get keys",
            hint="give --server-db too, or mirror the server first",
        )
    return HeldSource(target.store)


async def open_preview(settings: Settings, stack: AsyncExitStack) -> Target | None:
    """Open the store if there is one."""
    if not await is_store_there(settings):
        return None
    return await open_target(settings, stack)


async def open_target(settings: Settings, stack: AsyncExitStack) -> Target:
    """Open the store and its master key, as ``serve`` does."""
    master = await open_master_key(settings)
    store = await open_store(settings)
    stack.push_async_callback(store.close)
    online_keys = OnlineKeys(store, master)
    if not await online_keys.fits_store():
        raise ConfigurationError(
            f"master key file {settings.master_key_file} doesn't open the keys in store "
            f"{settings.store_name}",
            hint="restore the key file that this store was filled with from its backup",
        )
    return Target(store, online_keys)


def _alias_variables(given: Iterable[str]) -> dict[str, str]:
    places: dict[str, str] = {}
    for text in given:
        match = _ALIAS.fullmatch(text)
        if match is None:
            # It may be a passphrase given by mistake, so it isn't repeated.
            raise ConfigurationError(
                "--passphrase-env isn't ALIAS=VARIABLE",
                hint="give the name of a variable that holds the passphrase, not the passphrase",
            )
        places[match[1]] = match[2]
    return places


def _passphrases(keys: Iterable[SignerRow], places: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for alias in {row.alias for row in keys}:
        value = os.environ.get(places.get(alias, passphrase_variable(alias)))
        if value is not None:
            found[alias] = value
    return found


def show_summary(outcomes: Sequence[Outcome], *, dry_run: bool) -> None:
    """Print a line for each GUN, and how many ended how."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table("GUN", "result", "files", "keys", "remarks")
    for outcome in outcomes:
        table.add_row(
            escape(plain(outcome.gun)),
            str(outcome.status),
            str(outcome.files),
            str(outcome.keys),
            "\n".join(escape(plain(remark)) for remark in outcome.remarks),
        )
    console.print(table)
    counts = Counter(outcome.status for outcome in outcomes)
    told = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    console.print(f"{'dry run, nothing was written: ' if dry_run else ''}{told}")


def plain(text: str) -> str:
    """Show hostile text on a terminal without what could steer it."""
    return "".join(char if char.isprintable() else "?" for char in text)
