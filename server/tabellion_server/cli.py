"""``tabellion-server``: serve, check-config, accept-restore, import-notary, mirror."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from aiohttp import web

from tabellion.errors import ConfigurationError, TabellionError
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.keys.remote import RemoteOnlineKeys
from tabellion_server.logs import configure_logs, log
from tabellion_server.migration.command import import_notary
from tabellion_server.migration.mirror_command import mirror
from tabellion_server.settings import Settings, load_settings
from tabellion_server.storage.interface import Store
from tabellion_server.storage.opening import is_store_there, open_store
from tabellion_server.web.requests import IN_FLIGHT

_TLS_POLL_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 2.0  # for answers under way to leave, once all handlers are done
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


@commands.command(epilog="Example: tabellion-server serve --config /etc/tabellion/server.toml")
@_CONFIG
def serve(config: Path | None) -> None:
    """Serve until SIGTERM or SIGINT; publications in progress are finished."""
    settings = load_settings(config)
    configure_logs(settings)
    asyncio.run(run_server(settings))


@commands.command("check-config")
@_CONFIG
def check_config(config: Path | None) -> None:
    """Read the configuration, say what is wrong with it, start nothing.

    Online keys that live elsewhere are asked to sign something harmless.
    """
    settings = load_settings(config)
    if settings.certificate is not None:
        _tls_context(settings)
    for role, found in RemoteOnlineKeys(settings.online_signers).probe().items():
        click.echo(f"{role} key {found.key.keyid} ({found.key.keytype}) signs at {found.uri}")
    click.echo("the configuration is fine")


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


async def run_server(settings: Settings) -> None:
    """Open the store, serve until told to end, close the store.

    Raises:
        ConfigurationError: An address, the certificate or the master key can't be used.
        StorageError: The store can't be opened.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tls = await asyncio.to_thread(_tls_context, settings) if settings.certificate else None
    # A missing master key beside a store that is there is a loss, not a first start.
    is_first_start = not await is_store_there(settings)
    if not is_first_start and not await asyncio.to_thread(settings.master_key_file.exists):
        raise ConfigurationError(
            f"master key file {settings.master_key_file} is gone, but the store is here",
            hint="restore the key file from its backup; a new one can't open the keys in the store",
        )
    master = await asyncio.to_thread(
        MasterKey.load_or_create, settings.master_key_file, create=is_first_start
    )
    store = await open_store(settings)
    remote = RemoteOnlineKeys(settings.online_signers)
    try:
        await _tell_restored(store)
        online_keys = OnlineKeys(store, master, remote=remote)
        if not await online_keys.fits_store():
            raise ConfigurationError(
                f"master key file {settings.master_key_file} doesn't open the keys in store "
                f"{settings.store_name}",
                hint="restore the key file that this store was filled with from its backup, or "
                "set keys.master_key_file to it",
            )
        app = make_app(settings, store=store, online_keys=online_keys)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_CLOSE_SECONDS,
            keepalive_timeout=30,
        )
        await runner.setup()
        try:
            await _listen(runner, settings, tls)
            reload = asyncio.create_task(_reload_tls(settings, tls)) if tls else None
            await stop.wait()
            log().info("stopping", reason="signal")
            if reload is not None:
                reload.cancel()
            for site in list(runner.sites):
                await site.stop()
            if not await app[IN_FLIGHT].drain(timeout_seconds=settings.shutdown_seconds):
                log().warning("requests.cut", seconds=settings.shutdown_seconds)
        finally:
            await runner.cleanup()
    finally:
        remote.close()
        await store.close()
    log().info("stopped")


async def _tell_restored(store: Store) -> None:
    """Say that nothing can be published; what is there is served as long as it's valid."""
    missing = await store.missing_changes()
    if missing:
        log().error(
            "store.restored",
            missing=missing,
            problem="the store is an old backup: nothing is signed or published",
            hint="if it's the store to go on with: tabellion-server accept-restore",
        )


async def _listen(runner: web.AppRunner, settings: Settings, tls: ssl.SSLContext | None) -> None:
    scheme = "https" if tls else "http"
    for address in settings.listen:
        site = web.TCPSite(runner, address.host, address.port, ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"can't listen on {address.host}:{address.port}: {error.strerror or error}",
                hint="end what listens there, or change server.listen",
            ) from error
    if tls is None and not settings.is_loopback_only:
        log().warning("no_tls", hint="put a TLS proxy in front, or set server.tls")
    if settings.is_open and not settings.is_loopback_only:
        log().warning(
            "open_to_all",
            problem="whoever reaches this server may publish, rotate its keys and delete GUNs",
            hint="let only publishers reach it, or set server.write_token_file or a token service",
        )
    for bound in runner.addresses:
        host, port = bound[0], bound[1]
        shown = f"[{host}]" if ":" in host else host
        log().info("listening", url=f"{scheme}://{shown}:{port}")


def _tls_context(settings: Settings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, settings)
    return context


def _load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    certificate, key = settings.certificate, settings.certificate_key
    if certificate is None or key is None:
        return
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"server.tls: {certificate} and {key} can't be used: {error}",
            hint="give a PEM certificate chain and its unencrypted PEM key",
        ) from error


async def _reload_tls(settings: Settings, context: ssl.SSLContext) -> None:
    """Take a changed certificate for new connections; a broken one is logged, not taken."""
    seen = refused = await asyncio.to_thread(_tls_stamp, settings)
    while True:
        await asyncio.sleep(_TLS_POLL_SECONDS)
        found = await asyncio.to_thread(_tls_stamp, settings)
        if found == seen:
            continue
        try:
            # Tried on a context of its own: a pair half replaced must not reach the live one.
            await asyncio.to_thread(_tls_context, settings)
            await asyncio.to_thread(_load_certificate, context, settings)
        except ConfigurationError as error:
            # Tried again at each turn, as a change of mode may mend it; told once.
            if found != refused:
                log().error("certificate.not_reloaded", problem=error.message, hint=error.hint)
            refused = found
            continue
        seen = found
        log().info("certificate.reloaded")


def _tls_stamp(settings: Settings) -> list[tuple[int, int, int]]:
    stamps: list[tuple[int, int, int]] = []
    for path in (settings.certificate, settings.certificate_key):
        with contextlib.suppress(OSError):
            found = path.stat() if path else None
            if found:
                stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
    return stamps


def main() -> None:
    """Run the command line: exit 0 fine, 1 not all of it, 2 configuration, 3 trouble."""
    try:
        # A command's Exit doesn't come as an exception then, but as the value.
        sys.exit(commands(standalone_mode=False))
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except TabellionError as error:
        for line in error.message.splitlines():
            click.echo(f"tabellion-server: {line}", err=True)
        if error.hint:
            click.echo(f"  hint: {error.hint}", err=True)
        sys.exit(error.exit_status)
