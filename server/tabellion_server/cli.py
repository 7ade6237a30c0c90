"""``tabellion-server``: serving a store, caring for it, filling it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from tabellion.errors import ConfigurationError, TabellionError
from tabellion_server.hangup import ends_at_hangup, ignore_hangup
from tabellion_server.keys.remote import RemoteOnlineKeys
from tabellion_server.listening import listen, tell_listening
from tabellion_server.logs import configure_logs, log
from tabellion_server.migration.command import import_notary
from tabellion_server.migration.mirror_command import mirror
from tabellion_server.settings import Settings, load_settings
from tabellion_server.storage.opening import check_files, is_store_there, migrate, open_store
from tabellion_server.store_commands import backup, check, gc, restore
from tabellion_server.tls import tls_context
from tabellion_server.workers import Supervisor, Worker

_CONFIG = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file; without one, defaults and TABELLION_SECTION__KEY variables.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tabellion", prog_name="tabellion-server")
def commands() -> None:
    """Run a Tabellion trust server."""


@commands.command(
    "serve", epilog="Example: tabellion-server serve --config /etc/tabellion/server.toml"
)
@_CONFIG
def serve_command(config: Path | None) -> None:
    """Serve until SIGTERM or SIGINT; publications in progress are finished."""
    settings = load_settings(config)
    configure_logs(settings)
    log().info("starting", config=str(config or "none"), store=settings.store_name)
    if not ends_at_hangup():
        ignore_hangup()
    sockets = listen(settings)

    def work(worker: Worker) -> None:
        # Imported in the process that serves: what it counts by is chosen at the import.
        from tabellion_server.serving import Place, serve  # noqa: PLC0415

        place = Place(sockets, worker.tell_ready, worker.number == 0, worker.parent)
        asyncio.run(serve(settings, place))

    def tell_ready() -> None:
        tell_listening(settings, sockets)

    if settings.workers == 1:
        work(Worker(0, None, tell_ready))
        return
    supervisor = Supervisor(
        settings.workers,
        lambda worker: _told(lambda: work(worker)),
        tell_ready=tell_ready,
        shutdown_seconds=settings.shutdown_seconds,
    )
    sys.exit(supervisor.run())


@commands.command("check-config")
@_CONFIG
def check_config(config: Path | None) -> None:
    """Read the configuration, say what is wrong with it, start nothing.

    Online keys that live elsewhere are asked to sign something harmless.
    """
    settings = load_settings(config)
    if settings.certificate is not None:
        tls_context(settings)
    check_files(settings)
    for role, found in RemoteOnlineKeys(settings.online_signers).probe().items():
        click.echo(f"{role} key {found.key.keyid} ({found.key.keytype}) signs at {found.uri}")
    click.echo("the configuration is fine")


@commands.command("migrate", epilog="Example: tabellion-server migrate --config server.toml")
@_CONFIG
def migrate_store(config: Path | None) -> None:
    """Bring the store's tables to this release; may be run again at any time.

    On PostgreSQL this is needed once before the first start, and with releases that say so. SQLite
    needs it never.
    """
    click.echo(asyncio.run(migrate(load_settings(config))))


@commands.command("accept-restore")
@_CONFIG
@click.option(
    "--skip",
    type=click.IntRange(1, 2**31),
    help="Publications to take for lost, where the high-water mark is lost, too.",
)
def accept_restore(config: Path | None, skip: int | None) -> None:
    """Go on from a restored backup of the store.

    Version numbers that may have been signed since the backup are passed over. Publishers then
    bring back what is lost: tabellion recover lost GUN. A running server goes on by itself.
    """
    settings = load_settings(config)
    missing = asyncio.run(_accept_restore(settings, skip))
    if missing:
        click.echo(f"passed over {missing} versions; publishing goes on")
    else:
        click.echo("the store lacks nothing that the high-water mark knows of")


commands.add_command(import_notary)
commands.add_command(mirror)
for _command in (backup, restore, check, gc):
    commands.add_command(_command)


async def _accept_restore(settings: Settings, skip: int | None) -> int:
    if not await is_store_there(settings):
        raise ConfigurationError(
            f"there is no store {settings.store_name}", hint="restore it first, or check --config"
        )
    store = await open_store(settings)
    try:
        return await store.accept_restore(skip=skip, at=datetime.now(UTC))
    finally:
        await store.close()


def main() -> None:
    """Run the command line: exit 0 fine, 1 not all of it, 2 configuration, 3 trouble."""
    # A command's Exit doesn't come as an exception then, but as the value.
    sys.exit(_told(lambda: commands(standalone_mode=False)))


def _told(work: Callable[[], int | None]) -> int:
    """Do something and give its exit status, after saying what is wrong."""
    try:
        return work() or 0
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except TabellionError as error:
        for line in error.message.splitlines():
            click.echo(f"tabellion-server: {line}", err=True)
        if error.hint:
            click.echo(f"  hint: {error.hint}", err=True)
        return error.exit_status
