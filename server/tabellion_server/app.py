"""The application: wiring only, no port is opened here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from aiohttp import web

from tabellion.core.expiry import Margins
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services.clocks import ClockWatch
from tabellion_server.services.expiry import ExpiryJudge, ExpiryWatch
from tabellion_server.services.feed import Feed
from tabellion_server.services.files import MetadataFiles
from tabellion_server.services.first_bins import FirstBins
from tabellion_server.services.heads import Heads
from tabellion_server.services.key_schedule import KeySchedule
from tabellion_server.services.locks import GunLocks
from tabellion_server.services.pending import Pendings
from tabellion_server.services.publishing import Publisher
from tabellion_server.services.signing import Clock, Lives, ReleaseSigner
from tabellion_server.services.timestamping import Renewer
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import Change, Store
from tabellion_server.web.access import GUARD, Guard, access
from tabellion_server.web.context import CONTEXT, Context
from tabellion_server.web.metrics import METRICS, Metrics, counted
from tabellion_server.web.problems import problems
from tabellion_server.web.requests import IN_FLIGHT, InFlight, requests
from tabellion_server.web.routes import add_routes
from tabellion_server.web.tokens import TokenVerifier

_CANCEL_SECONDS: Final = 1.0
_CANCELS: Final = 10


def utc_now() -> datetime:
    """Give the present moment."""
    return datetime.now(UTC)


def make_app(
    settings: Settings,
    *,
    store: Store,
    online_keys: OnlineKeys,
    clock: Clock = utc_now,
    watches: bool = True,
) -> web.Application:
    """Make the application; store and keys stay the caller's to close.

    Args:
        settings: What the operator decides.
        store: The store.
        online_keys: The server's keys.
        clock: Gives the current moment, aware.
        watches: Sweep, and keep schedules: what one process of a machine does.
    """
    heads = Heads(store, serve_known=settings.serve_known)
    files, locks = MetadataFiles(store, cache_bytes=settings.cache_bytes), GunLocks()
    metrics = Metrics()
    clocks = ClockWatch(store, clock=clock, report=metrics.tell_clock)
    signer = ReleaseSigner(
        online_keys,
        tuf=Lives(snapshot=settings.snapshot_life, timestamp=settings.timestamp_life),
        notary=Lives(
            snapshot=settings.notary_snapshot_life, timestamp=settings.notary_timestamp_life
        ),
        verify_expiry=clocks.verify,
    )
    publisher = Publisher(
        store,
        files,
        signer,
        locks,
        clock=clock,
        allow_example_keys=settings.is_loopback_only,
    )
    pendings = Pendings(
        store,
        files,
        signer,
        publisher,
        locks,
        clock=clock,
        life=settings.pending_life,
        report=metrics.count_expired_proposals,
    )
    renewer = Renewer(store, heads, files, signer, locks, clock=clock, clocks=clocks)

    async def follow(changes: Sequence[Change]) -> None:
        await files.follow(changes, heads)
        heads.are_current()

    app = web.Application(middlewares=[requests, counted, problems, access])
    margins = Margins(settings.expiry_warn, settings.expiry_critical)
    judge = ExpiryJudge(signer, margins, FirstBins(store))
    app[CONTEXT] = Context(
        settings,
        store,
        online_keys,
        heads,
        files,
        Feed(store, follow=follow),
        publisher,
        pendings,
        renewer,
        locks,
        judge,
        clock,
        clocks,
    )
    if settings.auth is not None:
        app[GUARD] = Guard(TokenVerifier(settings.auth), clock)
    app[IN_FLIGHT] = InFlight()
    app[METRICS] = metrics
    add_routes(app)
    app.cleanup_ctx.append(partial(_background, watches=watches))
    return app


async def _background(app: web.Application, *, watches: bool) -> AsyncIterator[None]:
    """Watch while the application lives; at its end, let what was begun finish."""
    context = app[CONTEXT]
    await context.clocks.begin()
    each = [context.feed.watch_forever(), context.clocks.watch_forever()]
    forever = [*each, *(_watches(app) if watches else ())]
    tasks = [asyncio.create_task(one) for one in forever]
    yield
    waiting = set(tasks)
    for _ in range(_CANCELS):  # what a driver does may swallow one
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_CANCEL_SECONDS)
        if not waiting:
            break
    await context.publisher.drain()
    await context.renewer.drain()


def _watches(app: web.Application) -> Iterator[Coroutine[None, None, None]]:
    context = app[CONTEXT]
    yield context.renewer.sweep_forever()
    watch = ExpiryWatch(
        context.store,
        context.judge,
        context.renewer,
        clock=context.clock,
        report=app[METRICS].tell_expiry,
    )
    yield watch.watch_forever()
    yield context.pendings.expire_forever()
    if context.settings.rotate_after is not None:
        schedule = KeySchedule(
            context.store,
            context.files,
            context.online,
            context.pendings,
            clock=context.clock,
            after=context.settings.rotate_after,
        )
        yield schedule.run_forever()
