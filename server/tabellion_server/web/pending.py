"""Handlers of pending proposals under ``/v1/guns/<gun>/``: pending, pending/<id>, audit."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from aiohttp import web

from tabellion.core.proposal import Standing
from tabellion_server.services.offers import Offered, Shown
from tabellion_server.storage.interface import AuditEntry
from tabellion_server.web.access import check_write_access, who
from tabellion_server.web.addresses import check_gun_prefix, proposal_path
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.state import DEFAULT_LIMIT, MAX_ID, MAX_LIMIT, moment_of, number_of
from tabellion_server.web.uploads import read_upload

_NO_STORE: Final = {"Cache-Control": "no-store"}


async def list_pending(request: web.Request) -> web.Response:
    """Answer ``GET /v1/guns/<gun>/pending``, oldest first."""
    gun, _ = proposal_path(request)
    found = await request.app[CONTEXT].pendings.show(gun)
    content = {"gun": gun, "pending": [_proposal(shown) for shown in found]}
    return web.json_response(content, headers=_NO_STORE)


async def show_pending(request: web.Request) -> web.Response:
    """Answer ``GET /v1/guns/<gun>/pending/<id>``: the same, and the files."""
    gun, number = proposal_path(request)
    shown = await request.app[CONTEXT].pendings.one(gun, number)

    def text() -> str:
        files = {role: data.decode("utf-8") for role, data in shown.row.files.items()}
        return json.dumps({"gun": gun, **_proposal(shown), "files": files})

    return web.json_response(text=await asyncio.to_thread(text), headers=_NO_STORE)


async def offer(request: web.Request) -> web.Response:
    """Answer ``POST /v1/guns/<gun>/pending``: 201 opened, 200 merged or published."""
    check_write_access(request)
    gun, _ = proposal_path(request)
    check_gun_prefix(request, gun)
    context = request.app[CONTEXT]
    upload = await read_upload(request, max_bytes=context.settings.max_body_bytes, is_lenient=False)
    offered = await context.pendings.offer(gun, upload, by=who(request).get("who", ""))
    status = 201 if offered.state == "opened" else 200
    return web.json_response(_offered(gun, offered), status=status, headers=_NO_STORE)


async def withdraw(request: web.Request) -> web.Response:
    """Answer ``DELETE /v1/guns/<gun>/pending/<id>``."""
    check_write_access(request)
    gun, number = proposal_path(request)
    await request.app[CONTEXT].pendings.withdraw(gun, number, by=who(request).get("who", ""))
    return web.Response(status=204, headers=_NO_STORE)


async def show_audit(request: web.Request) -> web.Response:
    """Answer ``GET /v1/guns/<gun>/audit?before=&limit=``, newest first."""
    gun, _ = proposal_path(request)
    limit = number_of(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
    before = number_of(request, "before", 0, MAX_ID) or None
    entries = await request.app[CONTEXT].pendings.audit(gun, before=before, limit=limit + 1)
    shown = entries[:limit]
    content = {
        "gun": gun,
        "entries": [_entry(entry) for entry in shown],
        "next": shown[-1].id if len(entries) > limit else None,
    }
    return web.json_response(content, headers=_NO_STORE)


def _offered(gun: str, offered: Offered) -> dict[str, Any]:
    content: dict[str, Any] = {"gun": gun, "id": offered.id, "state": offered.state}
    if offered.shown is not None:
        return {**content, **_proposal(offered.shown)}
    return {**content, "versions": dict(offered.versions)}


def _proposal(shown: Shown) -> dict[str, Any]:
    row = shown.row
    return {
        "id": row.id,
        "roles": dict(row.versions),
        "created": moment_of(row.created_at),
        "expires": moment_of(row.expires_at),
        "by": row.by,
        "stale": shown.is_stale,
        "complete": not any(standing.lacking for standing in shown.standings),
        "standing": [_standing(standing) for standing in shown.standings],
    }


def _standing(standing: Standing) -> dict[str, Any]:
    def people(keyids: tuple[str, ...]) -> list[dict[str, str]]:
        return [{"keyid": keyid, "holder": standing.holders.get(keyid, "")} for keyid in keyids]

    return {
        "role": standing.role,
        "delegator": standing.delegator,
        "delegator_version": standing.delegator_version,
        "threshold": standing.threshold,
        "lacking": standing.lacking,
        "signed": people(standing.signed_by),
        "awaited": people(standing.awaited),
    }


def _entry(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "proposal": entry.proposal,
        "action": entry.action,
        "roles": dict(entry.versions),
        "keyids": list(entry.keyids),
        "by": entry.by,
        "at": moment_of(entry.at),
    }
