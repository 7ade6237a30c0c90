"""Handler of ``/v1/changes``: the changefeed by long poll or as server-sent events.

Spec: design section 6; the stream is that of the HTML standard's "Server-sent events".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from tabellion.core.names import Gun, parse_gun
from tabellion.errors import TabellionError, UsageError
from tabellion_server.logs import log
from tabellion_server.storage.interface import Change
from tabellion_server.web.addresses import check_gun_prefix
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.requests import REQUEST_ID, current_id
from tabellion_server.web.state import MAX_ID, moment_of, number_of, text_of

_DEFAULT_LIMIT: Final = 100
_MAX_LIMIT: Final = 1000
_MAX_WAIT: Final = 60
_NEWEST: Final = "newest"
_BEAT_SECONDS: Final = 15.0  # an idle stream says so: proxies cut what is silent
_STREAM_SECONDS: Final = 900.0  # then the reader comes again, and its token is judged again
_WRITE_SECONDS: Final = 30.0  # how long a reader may leave unread what is sent
_STREAM: Final = "text/event-stream"


async def show_changes(request: web.Request) -> web.StreamResponse:
    """Answer ``/v1/changes?since=&gun=&wait=&limit=``, oldest first."""
    gun, since = await asyncio.to_thread(asked_gun, request), await _since(request)
    if gun is not None:
        check_gun_prefix(request, gun)
    if _STREAM in request.headers.get("Accept", ""):
        return await _stream(request, gun, since)
    wait = number_of(request, "wait", 0, _MAX_WAIT, minimum=0)
    limit = number_of(request, "limit", _DEFAULT_LIMIT, _MAX_LIMIT)
    feed = request.app[CONTEXT].feed
    found = await feed.read(
        gun, after=since, limit=limit, wait_seconds=wait, is_there=_presence(request)
    )
    return web.json_response(
        {
            "changes": [_entry(change) for change in found],
            "next": found[-1].id if found else since,
        },
        headers={"Cache-Control": "no-store"},
    )


def asked_gun(request: web.Request) -> Gun | None:
    """Read which GUN's changes are asked for; None for all GUNs.

    Raises:
        InvalidNameError: It isn't a GUN's name.
        UsageError: It's given twice.
    """
    text = text_of(request, "gun")
    return None if text is None else parse_gun(text)


async def _since(request: web.Request) -> int:
    """Read where to begin: behind an id, at the oldest or behind the newest.

    A stream's reader that lost its connection says in a header what it saw last.
    """
    last = request.headers.get("Last-Event-ID")
    text = text_of(request, "since") if last is None else last
    if text == _NEWEST:
        return await request.app[CONTEXT].feed.newest()
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < len(str(MAX_ID))):
        raise UsageError(
            f"since={text[:40]!r} isn't the id of a change",
            hint=f'give the last answer\'s "next", or {_NEWEST}, or leave it out for all',
        )
    return int(text)


async def _stream(request: web.Request, gun: Gun | None, since: int) -> web.StreamResponse:
    feed = request.app[CONTEXT].feed
    found = await feed.read(gun, after=since, limit=_DEFAULT_LIMIT)  # what fails, fails before
    response = web.StreamResponse(
        headers={
            "Content-Type": _STREAM,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would hold events back
            REQUEST_ID: current_id(),
        }
    )
    if request.method == "HEAD":
        return response
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    until = loop.time() + _STREAM_SECONDS
    try:
        await _write(request, response, b"retry: 2000\n\n")
        while not feed.has_ended and loop.time() < until:
            events = b"".join(map(_event, found))
            await _write(request, response, events or b": nothing new\n\n")
            since = found[-1].id if found else since
            found = await feed.read(
                gun,
                after=since,
                limit=_DEFAULT_LIMIT,
                wait_seconds=_BEAT_SECONDS,
                is_there=_presence(request),
            )
    except TabellionError as error:  # it's too late for a status: the reader will come again
        log().error("feed.stream_cut", problem=error.message, hint=error.hint)
    except ConnectionError:
        pass  # the reader has gone
    return response


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send to a reader that reads; one that doesn't is cut, or it would hold its place for ever.

    Raises:
        ConnectionError: The reader has gone, or was cut.
    """
    try:
        async with asyncio.timeout(_WRITE_SECONDS):
            await response.write(data)
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError("the reader doesn't read") from error


def _presence(request: web.Request) -> Callable[[], bool]:
    """Give what tells whether the connection is still there: nothing else ends a handler."""

    def is_there() -> bool:
        return request.transport is not None and not request.transport.is_closing()

    return is_there


def _event(change: Change) -> bytes:
    data = json.dumps(_entry(change), separators=(",", ":"))
    return f"id: {change.id}\nevent: {change.category}\ndata: {data}\n\n".encode()


def _entry(change: Change) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": change.id, "gun": change.gun, "category": change.category}
    if change.version:
        entry |= {"version": change.version, "sha256": change.sha256}
    return {**entry, "at": moment_of(change.at)}
