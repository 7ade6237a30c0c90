"""``tabellion-server backup``, ``restore``, ``check`` and ``gc``: caring for a store."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console

from tabellion.errors import ConfigurationError, UsageError
from tabellion_server.keys.master_file import open_master_key
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.keys.remote import RemoteOnlineKeys
from tabellion_server.migration.command import plain
from tabellion_server.scratch import scratch_folder
from tabellion_server.services.absences import Absent
from tabellion_server.services.checking import Finding, check_gun
from tabellion_server.services.retention import MARGIN, SIGNED_MARGIN, Margins, Old, old_of
from tabellion_server.services.row_checks import check_rows
from tabellion_server.settings import Settings, load_settings
from tabellion_server.settings_values import CONVERT
from tabellion_server.storage.copying import BYTES, FILES, GUNS, ROWS, copy_store
from tabellion_server.storage.interface import StorageError, Store
from tabellion_server.storage.opening import is_store_there, migrate, open_store
from tabellion_server.storage.sqlite import SqliteStore
from tabellion_server.storage.sqlite_file import copy_file, seal
from tabellion_server.storage.walking import GunPages

_KILOBYTE = 1000
_MEGABYTE = 1_000_000
_config = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of the server.",
)
_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


class _Margin(click.ParamType[timedelta]):
    name = "DURATION"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            found = CONVERT["duration"](value, Path())
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return found if isinstance(found, timedelta) else timedelta()


@click.command(epilog="Example: tabellion-server backup --config server.toml trust-2026-11-27.db")
@_file
@_config
def backup(file: Path, config: Path | None) -> None:
    """Write all of the store to FILE, which must not exist yet; the server may go on meanwhile.

    FILE is complete, consistent and read back once it's there. It holds the server's keys sealed:
    keep the master key elsewhere. It's a SQLite store, whatever engine it comes from.
    """
    settings = load_settings(config)
    counts = asyncio.run(_backup(settings, file))
    click.echo(f"{file} has all of {settings.store_name}: {_told(counts)}")


@click.command(epilog="Example: tabellion-server restore --config server.toml trust-2026-11-27.db")
@_file
@_config
def restore(file: Path, config: Path | None) -> None:
    """Fill the empty store that the configuration names from a backup, or a SQLite store, FILE.

    The engines may differ: so one also goes from one to another. The master key stays the same.
    """
    settings = load_settings(config)
    counts, missing = asyncio.run(_restore(settings, file))
    click.echo(f"{settings.store_name} has all of {file}: {_told(counts)}")
    if missing:
        click.echo(
            f"it lacks up to {missing} changes that were told since: nothing is signed before\n"
            "  tabellion-server accept-restore"
        )


@click.command(epilog="Example: tabellion-server check --config server.toml")
@_config
def check(config: Path | None) -> None:
    """Read every file of the store, follow every GUN's chain as a client would, try every key.

    Exit status: 0 no damage, 1 damage, 2 configuration, 3 the store can't be read.
    """
    settings = load_settings(config)
    findings, counts = asyncio.run(_check(settings))
    for finding in findings:
        word = "DAMAGED" if finding.is_damage else "note"
        where = plain(finding.gun) or "the store"
        problem = finding.problem.removeprefix(f"{finding.gun}: ")
        click.echo(f"{word} {where}: {plain(problem)}")
    damaged = len({finding.gun for finding in findings if finding.is_damage})
    click.echo(f"{_told(counts)}; {damaged or 'none'} damaged")
    if damaged:
        raise click.exceptions.Exit(1)


@click.command(epilog="Example: tabellion-server gc --config server.toml --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would go, let nothing go.")
@click.option(
    "--margin",
    type=_Margin(),
    default=MARGIN,
    show_default="7d",
    help="How long after the last snapshot that names a file expired it stays.",
)
@click.option(
    "--signed-margin",
    type=_Margin(),
    default=SIGNED_MARGIN,
    show_default="400d",
    help="How long what people signed stays at least, for `tabellion recover signer` and the like.",
)
@click.option("--gun-prefix", default="", help="Only GUNs that begin like this.")
@_config
def gc(
    config: Path | None,
    margin: timedelta,
    signed_margin: timedelta,
    gun_prefix: str,
    *,
    dry_run: bool,
) -> None:
    """Let go of old versions that no client can ask for any more; roots stay for ever.

    History still tells what a tag meant, and their numbers stay taken. The space is used again.
    """
    settings = load_settings(config)
    found = asyncio.run(
        _collect(settings, Margins(margin, signed_margin), gun_prefix, dry_run=dry_run)
    )
    for old in found:
        if old.files:
            click.echo(
                f"{plain(old.gun)}: {len(old.files)} of {len(old.files) + old.kept} files, "
                f"{_size(old.length)}"
            )
    gone = sum(len(old.files) for old in found)
    length = sum(old.length for old in found)
    kept, kept_bytes = sum(old.kept for old in found), sum(old.kept_bytes for old in found)
    word = "would go" if dry_run else "let go"
    click.echo(f"{word}: {gone} files, {_size(length)}; kept: {kept} files, {_size(kept_bytes)}")


async def _backup(settings: Settings, file: Path) -> Counter[str]:
    if await asyncio.to_thread(file.exists):
        raise UsageError(f"{file} is there already", hint="give a new name, or delete it first")
    if not await asyncio.to_thread(file.parent.is_dir):
        raise UsageError(f"there is no folder {file.parent}", hint="make it, or check the name")
    async with _opened(settings) as source:
        # In a folder of its own: another backup to the same name may be under way.
        with _folder_beside(file) as folder:
            partial = folder / "store.db"
            target = await SqliteStore.open(partial)
            try:
                counts = await _copy(source, target)
            finally:
                await target.close()
            await asyncio.to_thread(seal, partial, file)
    return counts


async def _restore(settings: Settings, file: Path) -> tuple[Counter[str], int]:
    if not await asyncio.to_thread(_has_content, file):
        raise UsageError(f"{file} isn't a file, or is empty", hint="give a backup")
    # Read from a copy: opening a store may bring it to this release's schema.
    with scratch_folder("tabellion-restore-") as folder:
        copy = folder / "store.db"
        await asyncio.to_thread(copy_file, file, copy)
        try:
            source = await SqliteStore.open(copy)
        except StorageError as error:
            raise UsageError(
                f"{file} isn't a whole backup: {error.message.replace(str(copy), 'it')}",
                hint="give a file that tabellion-server backup wrote, or another release's server",
            ) from error
        try:
            await migrate(settings)
            target = await open_store(settings)
            try:
                return await _copy(source, target), await target.missing_changes()
            finally:
                await target.close()
        finally:
            await source.close()


async def _check(settings: Settings) -> tuple[list[Finding], Counter[str]]:
    findings: list[Finding] = []
    absent: dict[str, Collection[Absent]] = {}
    counts: Counter[str] = Counter()
    async with _opened(settings) as store:
        with _console().status("") as status:
            async for page in GunPages(store):
                for head in page:
                    checked = await check_gun(store, head, now=datetime.now(UTC))
                    findings += checked.findings
                    if checked.absent:
                        absent[head.gun] = checked.absent
                    counts += Counter({GUNS: 1, FILES: checked.files, BYTES: checked.length})
                    status.update(_told(counts))
            keys = await _keys(settings, store, findings)
            rows = await check_rows(store, keys, absent)
            findings = list(dict.fromkeys([*findings, *rows]))
    return findings, counts


async def _keys(settings: Settings, store: Store, findings: list[Finding]) -> OnlineKeys | None:
    """Give what opens sealed keys; without a master key, none, which is found."""
    try:
        master = await open_master_key(settings)
    except ConfigurationError as error:
        findings.append(Finding("", error.message, is_damage=False))
        return None
    return OnlineKeys(store, master, remote=RemoteOnlineKeys(settings.online_signers))


async def _collect(
    settings: Settings, margins: Margins, prefix: str, *, dry_run: bool
) -> list[Old]:
    found: list[Old] = []
    async with _opened(settings) as store:
        with _console().status("") as status:
            async for page in GunPages(store, prefix=prefix):
                for head in page:
                    old = await old_of(store, head, now=datetime.now(UTC), margins=margins)
                    if old.files and not dry_run:
                        await store.collect(old.gun, [(one.role, one.version) for one in old.files])
                    found.append(old)
                    status.update(_number(len(found), "GUN"))
    return found


async def _copy(source: Store, target: Store) -> Counter[str]:
    with _console().status("") as status:
        return await copy_store(source, target, tell=lambda counts: status.update(_told(counts)))


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Store]:
    if not await is_store_there(settings):
        raise ConfigurationError(f"there is no store {settings.store_name}", hint="check --config")
    store = await open_store(settings)
    try:
        yield store
    finally:
        await store.close()


def _console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def _told(counts: Counter[str]) -> str:
    parts = [_number(counts[GUNS], "GUN"), _number(counts[FILES], "file")]
    parts.append(_size(counts[BYTES]))
    if counts[ROWS]:
        parts.append(f"{_number(counts[ROWS], 'row')} in all")
    return ", ".join(parts)


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(length: int) -> str:
    if length < _MEGABYTE // 10:
        return f"{-(-length // _KILOBYTE)} kB"
    return f"{length / _MEGABYTE:.1f} MB"


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


@contextmanager
def _folder_beside(file: Path) -> Iterator[Path]:
    try:
        made = tempfile.TemporaryDirectory(prefix=f".{file.name}.partial-", dir=file.parent)
    except OSError as error:
        raise StorageError(
            f"{file} can't be written: {error.strerror or error}", hint="give another place"
        ) from error
    with made as folder:
        yield Path(folder)
