"""Handlers under ``/v2/<gun>/_trust/tuf/``: metadata, publication, online keys, deletion."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC
from email.utils import format_datetime
from typing import Final

from aiohttp import web
from securesystemslib.signer import Key

from tabellion.core.conversion import is_conversion
from tabellion.core.dialect import NOTARY, TUF, Dialect, dialect_named
from tabellion.core.names import Gun
from tabellion.core.transitions import dialect_of_upload
from tabellion.errors import UnknownGunError
from tabellion_server.logs import log
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import Head, StoredFile
from tabellion_server.web.access import check_write_access, who
from tabellion_server.web.addresses import (
    FileAddress,
    HashAddress,
    KeyAddress,
    SetAddress,
    check_gun_prefix,
    is_notary_role,
    nothing_here,
    operation_of,
    parse_trust_path,
    redirect_to_clean_path,
)
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.metrics import note_operation
from tabellion_server.web.request_errors import RequestError
from tabellion_server.web.speech import accepts_problems, note_dialect, speaks_notary
from tabellion_server.web.uploads import check_notary_role, read_upload

_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_MUTABLE: Final = "no-cache"
_AT_ONCE_BYTES: Final = 256 * 1024
_RENEWED: Final = frozenset({"timestamp", "snapshot"})


async def handle_trust(request: web.Request) -> web.StreamResponse:
    """Answer any request to a GUN's metadata."""
    if request.method in {"GET", "HEAD"} and speaks_notary(request):
        redirect_to_clean_path(request)
    gun, address = parse_trust_path(request)
    note_operation(request, operation_of(request.method, address))
    check_gun_prefix(request, gun)
    match request.method, address:
        case "GET" | "HEAD", FileAddress() | HashAddress():
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
        HashAddress: ["GET", "HEAD"],
        KeyAddress: ["GET", "HEAD", "POST"],
        SetAddress: ["POST", "DELETE"],
    }
    raise web.HTTPMethodNotAllowed(request.method, allowed[type(address)])


async def _get_file(
    request: web.Request, gun: Gun, address: FileAddress | HashAddress
) -> web.StreamResponse:
    context = request.app[CONTEXT]
    is_mutable = isinstance(address, FileAddress) and address.version is None
    if is_mutable and address.role in _RENEWED:
        head = await context.renewer.fresh_head(gun)
    else:
        head = await context.heads.head(gun)
    if head is None:
        raise UnknownGunError(f"there is nothing here for {gun}")
    note_dialect(request, dialect_named(head.dialect))
    if head.dialect == NOTARY.name and not is_notary_role(address.role):
        raise nothing_here()
    if isinstance(address, FileAddress) and address.is_padded and head.dialect == TUF.name:
        raise nothing_here()
    if isinstance(address, HashAddress):
        found = await context.files.find_hash(head, address.role, address.sha256)
        what = f" of SHA-256 {address.sha256}"
    else:
        # Also one that the snapshot lists no longer: who may sign it again has to see its version.
        found = await context.files.find(head, address.role, address.version)
        what = "" if address.version is None else f" version {address.version}"
    if found is not None:
        return _file_answer(request, found, head, is_immutable=not is_mutable)
    name = "no-such-file" if speaks_notary(request) else "not-found"
    raise RequestError(f"{gun} has no {address.role[:80]}{what}", status=404, name=name)


def _file_answer(
    request: web.Request, found: StoredFile, head: Head, *, is_immutable: bool
) -> web.Response:
    headers = {
        "ETag": f'"{found.sha256}"',
        "Cache-Control": _IMMUTABLE if is_immutable else _MUTABLE,
        "Last-Modified": format_datetime(found.stored_at.astimezone(UTC), usegmt=True),
        "X-Content-Type-Options": "nosniff",
    }
    is_notary = head.dialect == NOTARY.name
    if is_notary:
        headers |= _notary_caching(request.app[CONTEXT].settings, is_immutable=is_immutable)
    wanted = request.if_none_match or ()
    if any(tag.value in {found.sha256, "*"} for tag in wanted):
        return web.Response(status=304, headers=headers)
    kind, charset = ("text/plain", "utf-8") if is_notary else ("application/json", None)
    # A large one is sent as it's taken: in one piece, each slow client's rest would be a copy.
    body = found.data if len(found.data) <= _AT_ONCE_BYTES else io.BytesIO(found.data)
    return web.Response(body=body, content_type=kind, charset=charset, headers=headers)


def _notary_caching(settings: Settings, *, is_immutable: bool) -> dict[str, str]:
    """Say how long caches may keep a file, as Notary does."""
    age = settings.notary_max_age_consistent if is_immutable else settings.notary_max_age_current
    seconds = int(age.total_seconds())
    if seconds == 0:
        return {"Cache-Control": "max-age=0, no-cache, no-store", "Pragma": "no-cache"}
    text = f"public, max-age={seconds}, s-maxage={seconds}"
    return {"Cache-Control": text if is_immutable else f"{text}, must-revalidate"}


async def _publish(request: web.Request, gun: Gun) -> web.StreamResponse:
    check_write_access(request)
    context = request.app[CONTEXT]
    head = await context.store.head(gun)
    if head is not None:
        note_dialect(request, dialect_named(head.dialect))
    upload = await read_upload(
        request,
        max_bytes=context.settings.max_body_bytes,
        is_lenient=speaks_notary(request),
    )
    dialect = dialect_named(head.dialect) if head is not None else dialect_of_upload(upload)
    if await asyncio.to_thread(is_conversion, dialect, upload):
        dialect = TUF
    if upload:
        note_dialect(request, dialect)
    if dialect is NOTARY:
        for item in upload:
            check_notary_role(item.role)
    published = await context.publisher.publish(gun, upload)
    if not published.unchanged:
        log().info("gun.published", gun=gun, versions=dict(published.versions), **who(request))
    if speaks_notary(request):
        return web.Response(headers={"Cache-Control": "no-store"})
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
    head = await context.store.head(gun)
    dialect = _dialect_of_key(request, head)
    held = await context.online.public_keys(gun, role, dialect)
    if context.settings.write_token is not None and not held:
        check_write_access(request)  # asking makes a key: not for anybody on the network
    key = await context.online.public_key(gun, role, dialect)
    if dialect is NOTARY and head is not None:
        # The one in force: a key that was made to rotate to is told by POST.
        in_force = await context.files.current_set(head, {"root"})
        named = in_force.files["root"].signed.roles[role].keyids
        key = next((item for item in held if item.keyid in named), key)
    return _key_answer(request, key, dialect, cache=_MUTABLE)


async def _rotate_key(request: web.Request, gun: Gun, role: str) -> web.StreamResponse:
    check_write_access(request)
    context = request.app[CONTEXT]
    head = await context.store.head(gun)
    dialect = _dialect_of_key(request, head)
    if head is None and dialect is TUF:
        raise UnknownGunError(f"there is nothing here for {gun}")
    key = await context.publisher.pending_key(gun, role) if dialect is NOTARY else None
    if key is None:
        key = await context.online.rotate(gun, role, dialect)
        log().info("key.rotated", gun=gun, role=role, keyid=key.keyid, **who(request))
    return _key_answer(request, key, dialect, cache="no-store")


def _dialect_of_key(request: web.Request, head: Head | None) -> Dialect:
    """Tell in which dialect a key is asked for: the GUN's, or before it exists as is said.

    A Notary GUN may be asked for a key to be converted with; there's no way back.
    """
    asked = request.query.get("dialect")
    if head is not None and not (asked == TUF.name and request.method != "POST"):
        dialect = dialect_named(head.dialect)
    else:
        dialect = TUF if asked == TUF.name else NOTARY
    if asked not in {None, dialect.name}:
        raise RequestError(
            f"a key of the dialect {str(asked)[:40]!r} isn't to be had here",
            status=400,
            name="usage",
            hint=f"ask for ?dialect={dialect.name}",
        )
    note_dialect(request, dialect)
    return dialect


def _key_answer(
    request: web.Request, key: Key, dialect: Dialect, *, cache: str
) -> web.StreamResponse:
    headers = {"Cache-Control": cache}
    if dialect is NOTARY and not accepts_problems(request):
        # Notary's own order, and no id: its clients compute it.
        keyval = {"public": key.keyval["public"], "private": None}
        text = json.dumps({"keytype": key.keytype, "keyval": keyval}, separators=(",", ":"))
        return web.Response(text=text, content_type="text/plain", headers=headers)
    return web.json_response({"keyid": key.keyid, **key.to_dict()}, headers=headers)


async def _delete(request: web.Request, gun: Gun) -> web.StreamResponse:
    check_write_access(request)
    context = request.app[CONTEXT]
    async with context.locks.of(gun):
        head = await context.store.head(gun)
        if head is not None:
            note_dialect(request, dialect_named(head.dialect))
        is_notary = speaks_notary(request)
        if not await context.store.delete(gun) and not is_notary:
            raise UnknownGunError(f"there is nothing here for {gun}")
    if head is not None:
        log().info("gun.deleted", gun=gun, **who(request))
    return web.Response(status=200 if is_notary else 204, headers={"Cache-Control": "no-store"})
