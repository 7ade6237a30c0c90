"""Handlers under ``/v2/<gun>/_trust/tuf/``: metadata, publication, online keys, deletion."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from tabellion.core.names import Gun
from tabellion.errors import UnknownGunError
from tabellion_server.logs import log
from tabellion_server.storage.interface import StoredFile
from tabellion_server.web.access import check_write_access
from tabellion_server.web.addresses import (
    FileAddress,
    KeyAddress,
    SetAddress,
    nothing_here,
    parse_trust_path,
)
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.problems import RequestError
from tabellion_server.web.uploads import read_upload

_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_MUTABLE: Final = "no-cache"
_RENEWED: Final = frozenset({"timestamp", "snapshot"})


async def handle_trust(request: web.Request) -> web.StreamResponse:
    """Answer any request to a GUN's metadata."""
    gun, address = parse_trust_path(request)
    match request.method, address:
        case "GET" | "HEAD", FileAddress():
            return await _get_file(request, gun, address)
        case "GET" | "HEAD", KeyAddress():
            return await _get_key(request, gun, address.role)
        case "POST", KeyAddress():
            return await _rotate_key(request, gun, address.role)
        case "POST", SetAddress():
            return await _publish(request, gun)
        case "DELETE", SetAddress():
            return await _delete(request, gun)
        case "GET" | "HEAD", SetAddress():
            raise nothing_here()
    allowed = {
        FileAddress: ["GET", "HEAD"],
        KeyAddress: ["GET", "HEAD", "POST"],
        SetAddress: ["POST", "DELETE"],
    }
    raise web.HTTPMethodNotAllowed(request.method, allowed[type(address)])


async def _get_file(request: web.Request, gun: Gun, address: FileAddress) -> web.StreamResponse:
    context = request.app[CONTEXT]
    if address.version is None and address.role in _RENEWED:
        head = await context.renewer.fresh_head(gun)
    else:
        head = await context.store.head(gun)
    if head is None:
        raise UnknownGunError(f"there is nothing here for {gun}")
    found = await context.files.find(head, address.role, address.version)
    if found is not None:
        return _file_answer(request, found, is_immutable=address.version is not None)
    version = "" if address.version is None else f" version {address.version}"
    raise RequestError(f"{gun} has no {address.role[:80]}{version}", status=404, name="not-found")


def _file_answer(request: web.Request, found: StoredFile, *, is_immutable: bool) -> web.Response:
    headers = {
        "ETag": f'"{found.sha256}"',
        "Cache-Control": _IMMUTABLE if is_immutable else _MUTABLE,
        "Last-Modified": found.stored_at.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "X-Content-Type-Options": "nosniff",
    }
    wanted = request.if_none_match or ()
    if any(tag.value in {found.sha256, "*"} for tag in wanted):
        return web.Response(status=304, headers=headers)
    return web.Response(body=found.data, content_type="application/json", headers=headers)


async def _publish(request: web.Request, gun: Gun) -> web.StreamResponse:
    check_write_access(request)
    context = request.app[CONTEXT]
    upload = await read_upload(request, max_bytes=context.settings.max_body_bytes)
    published = await context.publisher.publish(gun, upload)
    if not published.unchanged:
        log().info("gun.published", gun=gun, versions=dict(published.versions))
    return web.json_response(
        {
            "gun": gun,
            "versions": dict(published.versions),
            "unchanged": published.unchanged,
        },
        headers={"Cache-Control": "no-store"},
    )


async def _get_key(request: web.Request, gun: Gun, role: str) -> web.StreamResponse:
    context = request.app[CONTEXT]
    if request.query.get("dialect", "tuf") != "tuf":
        raise RequestError(
            "this release makes keys of the dialect tuf only", status=400, name="usage"
        )
    if context.settings.write_token is not None and not await context.store.online_keys(gun, role):
        check_write_access(request)  # asking makes a key: not for anybody on the network
    key = await context.online.public_key(gun, role)
    return web.json_response(
        {"keyid": key.keyid, **key.to_dict()}, headers={"Cache-Control": _MUTABLE}
    )


async def _rotate_key(request: web.Request, gun: Gun, role: str) -> web.StreamResponse:
    check_write_access(request)
    context = request.app[CONTEXT]
    if await context.store.head(gun) is None:
        raise UnknownGunError(f"there is nothing here for {gun}")
    key = await context.online.rotate(gun, role)
    log().info("key.rotated", gun=gun, role=role, keyid=key.keyid)
    return web.json_response(
        {"keyid": key.keyid, **key.to_dict()}, headers={"Cache-Control": "no-store"}
    )


async def _delete(request: web.Request, gun: Gun) -> web.StreamResponse:
    check_write_access(request)
    context = request.app[CONTEXT]
    async with context.locks.of(gun):
        if not await context.store.delete(gun):
            raise UnknownGunError(f"there is nothing here for {gun}")
    log().info("gun.deleted", gun=gun)
    return web.Response(status=204, headers={"Cache-Control": "no-store"})
