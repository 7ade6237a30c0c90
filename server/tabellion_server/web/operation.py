"""Handlers that operators' tools ask: alive, ready, and the API's version check."""

from __future__ import annotations

from aiohttp import web

from tabellion_server.web.context import CONTEXT

_NO_STORE = {"Cache-Control": "no-store"}


async def api_version(_request: web.Request) -> web.Response:
    """Answer ``/v2/``: Notary's clients look here first."""
    return web.Response(text="{}", headers=_NO_STORE)


async def alive(_request: web.Request) -> web.Response:
    """Answer ``/healthz``: the process answers."""
    return web.json_response({"status": "ok"}, headers=_NO_STORE)


async def ready(request: web.Request) -> web.Response:
    """Answer ``/readyz``: the store can be read."""
    await request.app[CONTEXT].store.check()
    return web.json_response({"status": "ok"}, headers=_NO_STORE)


async def notary_health(request: web.Request) -> web.Response:
    """Answer ``/_notary_server/health`` as Notary's monitors expect."""
    await request.app[CONTEXT].store.check()
    return web.json_response({}, headers=_NO_STORE)
