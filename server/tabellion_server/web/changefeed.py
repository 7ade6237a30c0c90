"""Handlers of Notary's changefeed: which GUNs got a new timestamp, which were dropped.

Spec: notary-v1 section 1.4, measured on notary-server 0.7.0 with PostgreSQL.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from tabellion.errors import NotaryRefusalError
from tabellion_server.storage.interface import Change
from tabellion_server.web.addresses import check_gun_prefix, parse_feed_path
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.metrics import note_operation

_DEFAULT_RECORDS: Final = 100
_MAX_RECORDS: Final = 1000
_INT32: Final = 2**31
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")


async def all_changes(request: web.Request) -> web.Response:
    """Answer ``/v2/_trust/changefeed``."""
    return await _changes(request, None)


async def gun_changes(request: web.Request) -> web.Response:
    """Answer ``/v2/<gun>/_trust/changefeed``."""
    gun = parse_feed_path(request)
    check_gun_prefix(request, gun)
    return await _changes(request, gun)


async def _changes(request: web.Request, gun: str | None) -> web.Response:
    note_operation(request, "Changefeed")
    records = _records(request.query.get("records", ""))
    change_id = _change_id(request.query.get("change_id", ""))
    store, limit = request.app[CONTEXT].store, min(abs(records), _MAX_RECORDS)
    if records > 0 and change_id >= 0:
        found = await store.changes(gun, after=change_id, limit=limit)
    else:
        found = await store.changes(gun, before=change_id if change_id > 0 else None, limit=limit)
    feed = {"count": len(found), "records": [_record(change) for change in found]}
    text = json.dumps(feed, separators=(",", ":"), ensure_ascii=False)
    return web.Response(text=text, headers={"Cache-Control": "no-store"})


def _records(text: str) -> int:
    """Read how many are asked for; a negative number means the ones before."""
    if not _INTEGER.fullmatch(text):
        fault = "invalid syntax"
    elif not -_INT32 <= int(text[:12]) < _INT32:
        fault = "value out of range"
    else:
        return int(text) or _DEFAULT_RECORDS
    raise NotaryRefusalError(
        f'invalid records parameter: strconv.ParseInt: parsing "{text[:40]}": {fault}',
        code_name="INVALID_PARAMETERS",
        hint="records is a number; a negative one asks for those before change_id",
    )


def _change_id(text: str) -> int:
    """Read where to begin: 0 at the oldest, -1 at the newest."""
    if text == "":
        return 0
    if not _INTEGER.fullmatch(text) or len(text) > 19:  # noqa: PLR2004  (64 bits)
        raise NotaryRefusalError(
            f"change_id {text[:40]!r} isn't a number", code_name="INVALID_PARAMETERS"
        )
    return max(int(text), -1)


def _record(change: Change) -> dict[str, Any]:
    return {
        "ID": str(change.id),
        "CreatedAt": _moment(change.at),
        "GUN": change.gun,
        "Version": change.version,
        "SHA256": change.sha256,
        "Category": change.category,
    }


def _moment(at: datetime) -> str:
    """Write a moment as Go does: fractions without trailing zeros."""
    text = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"
