"""One serving process: opens the store, answers until told to end, closes the store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from aiohttp import web

from tabellion.errors import ConfigurationError
from tabellion_server.app import make_app
from tabellion_server.door import open_door
from tabellion_server.hangup import ends_at_hangup
from tabellion_server.keys.master_file import open_master_key
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.keys.remote import RemoteOnlineKeys
from tabellion_server.listening import Listening
from tabellion_server.logs import log
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import Store
from tabellion_server.storage.opening import open_store
from tabellion_server.tls import reload_tls, tls_context
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.requests import IN_FLIGHT

_CLOSE_SECONDS: Final = 2.0  # for answers under way to leave, once all handlers are done


@dataclass(frozen=True)
class Place:
    """Where a process serves, beside others that do the same.

    Attributes:
        sockets: Listening already.
        tell_ready: Called once requests are answered.
        watches: This process does what one on each machine has to: sweeps and schedules.
        parent: A pipe's end that closes when the process ends that started this one.
    """

    sockets: Sequence[Listening]
    tell_ready: Callable[[], None] = field(default=lambda: None)
    watches: bool = True
    parent: int | None = None


async def serve(settings: Settings, place: Place) -> None:
    """Open the store, serve until told to end, close the store.

    Raises:
        ConfigurationError: The certificate or the master key can't be used.
        StorageError: The store can't be opened.
    """
    with _told_to_end(place) as stop:
        tls = await asyncio.to_thread(tls_context, settings) if settings.certificate else None
        master = await open_master_key(settings)
        store = await open_store(settings)
        remote = RemoteOnlineKeys(settings.online_signers)
        try:
            await _tell_restored(store)
            online_keys = OnlineKeys(store, master, remote=remote)
            if not await online_keys.fits_store():
                raise ConfigurationError(
                    f"master key file {settings.master_key_file} doesn't open the keys in store "
                    f"{settings.store_name}",
                    hint="restore the key file that this store was filled with from its backup, "
                    "or set keys.master_key_file to it",
                )
            app = make_app(settings, store=store, online_keys=online_keys, watches=place.watches)
            await _answer(settings, app, place, tls, stop)
        finally:
            remote.close()
            await store.close()
    log().info("stopped")


async def _answer(
    settings: Settings,
    app: web.Application,
    place: Place,
    tls: ssl.SSLContext | None,
    stop: asyncio.Event,
) -> None:
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=_CLOSE_SECONDS,
        keepalive_timeout=settings.client_seconds,
    )
    await runner.setup()
    try:
        server = cast("web.Server", runner.server)  # it's set up
        opened = await open_door(settings, server, place.sockets, tls)
        reload = asyncio.create_task(reload_tls(settings, tls)) if tls else None
        place.tell_ready()
        await stop.wait()
        log().info("stopping", reason="signal")
        if reload is not None:
            reload.cancel()
        app[CONTEXT].feed.end()
        for one in opened:
            one.close()
        if not await app[IN_FLIGHT].drain(timeout_seconds=settings.shutdown_seconds):
            log().warning("requests.cut", seconds=settings.shutdown_seconds)
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def _told_to_end(place: Place) -> Iterator[asyncio.Event]:
    """Give what is set by a signal, or by the end of the process that started this one."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    hangup = (signal.SIGHUP,) if ends_at_hangup() else ()
    for number in (signal.SIGTERM, signal.SIGINT, *hangup):
        loop.add_signal_handler(number, stop.set)
    parent = place.parent

    def orphaned() -> None:
        if parent is not None and not os.read(parent, 1):
            loop.remove_reader(parent)
            stop.set()

    if parent is not None:
        loop.add_reader(parent, orphaned)
    try:
        yield stop
    finally:
        if parent is not None:
            loop.remove_reader(parent)


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
