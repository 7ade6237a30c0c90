"""Around every request: an id, and one log line."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import Final

import structlog
from aiohttp import web

from tabellion_server.logs import log
from tabellion_server.web.problems import Handler

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_PATH_LOGGED = 300
REQUEST_ID: Final = "X-Request-ID"


class InFlight:
    """Counts requests being answered, so that the process ends when there are none.

    aiohttp's own shutdown drops what still arrives of a body, and would wait for it in vain.
    """

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_draining = False

    def __enter__(self) -> None:
        self._count += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if self._count == 0:
            self._idle.set()

    async def drain(self, *, timeout_seconds: float) -> bool:
        """Wait until nothing is in flight; tell whether that came in time."""
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


IN_FLIGHT = web.AppKey("in_flight", InFlight)


def current_id() -> str:
    """Give the id of the request that is being answered; what streams has to send it itself."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


@web.middleware
async def requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, the sender's own if it sent a plain one, and log its end."""
    given = request.headers.get(REQUEST_ID, "")
    request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    started = time.monotonic()
    in_flight = request.app[IN_FLIGHT]
    with in_flight, structlog.contextvars.bound_contextvars(request_id=request_id):
        response = await handler(request)
        if not response.prepared:
            response.headers[REQUEST_ID] = request_id
        if in_flight.is_draining:
            response.force_close()
        log().info(
            "request.answered",
            method=request.method,
            path=request.rel_url.raw_path[:_MAX_PATH_LOGGED],
            status=response.status,
            seconds=round(time.monotonic() - started, 4),
            peer=request.remote,
        )
    return response
