"""Handlers that operators' tools ask: alive, ready, and the API's version check."""

from __future__ import annotations

from aiohttp import web

from tabellion_server.logs import log
from tabellion_server.storage.interface import StorageError
from tabellion_server.web.context import CONTEXT

_NO_STORE = {"Cache-Control": "no-store"}


async def api_version(_request: web.Request) -> web.Response:
    """Answer ``/v2/``: Notary's clients look here first."""
    return web.Response(text="{}", headers=_NO_STORE)


async def alive(_request: web.Request) -> web.Response:
    """Answer ``/healthz``: the process answers."""
    return web.json_response({"status": "ok"}, headers=_NO_STORE)


async def ready(request: web.Request) -> web.Response:
    """Answer ``/readyz``: the store can be read, and what would be signed isn't expired already."""
    context = request.app[CONTEXT]
    await context.store.check()
    life = min(context.settings.timestamp_life, context.settings.notary_timestamp_life)
    context.clocks.verify(context.clock() + life)
    clock = {"clock": context.clocks.problem} if context.clocks.problem else {}
    return web.json_response({"status": "ok", **clock}, headers=_NO_STORE)


async def notary_health(request: web.Request) -> web.Response:
    """Answer ``/_notary_server/health`` as Notary's monitors expect: a failed check by name."""
    try:
        await request.app[CONTEXT].store.check()
    except StorageError as error:
        log().error("store.failed", problem=error.message)
        failed = {"DB operational": "the store can't be read, the server's log tells why"}
        return web.json_response(failed, status=503, headers=_NO_STORE)
    return web.json_response({}, headers=_NO_STORE)
