"""Handlers of Notary's changefeed: which GUNs got a new timestamp, which were dropped.

Spec: notary-v1 section 1.4, measured on notary-server 0.7.0 with PostgreSQL.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from tabellion.errors import NotaryRefusalError, UsageError
from tabellion_server.storage.interface import Change
from tabellion_server.web.addresses import check_gun_prefix, parse_feed_path
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.metrics import note_operation

_DEFAULT_RECORDS: Final = 100
_MAX_RECORDS: Final = 1000
_INT32: Final = 2**31
_INT64: Final = 2**63
_MAX_DIGITS: Final = 20  # enough to be beyond any bound
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
    fault = "invalid syntax"
    if _INTEGER.fullmatch(text):
        if (number := _bounded(text, _INT32)) is not None:
            return number or _DEFAULT_RECORDS
        fault = "value out of range"
    raise NotaryRefusalError(
        f'invalid records parameter: strconv.ParseInt: parsing "{text[:40]}": {fault}',
        code_name="INVALID_PARAMETERS",
        hint="records is a number; a negative one asks for those before change_id",
    )


def _change_id(text: str) -> int:
    """Read where to begin: 0 at the oldest, -1 at the newest."""
    if text == "":
        return 0
    number = _bounded(text, _INT64) if _INTEGER.fullmatch(text) else None
    if number is None:
        raise UsageError(
            f"change_id {text[:40]!r} isn't a number", hint="give an ID that was answered, or none"
        )
    return max(number, -1)


def _bounded(digits: str, bound: int) -> int | None:
    """Read a number from ``-bound`` up to below ``bound``; None for one beyond, however long."""
    sign, plain = digits[:1].strip("+0123456789"), digits.lstrip("+-0")
    number = int(f"{sign}{plain[:_MAX_DIGITS] or 0}")
    return number if -bound <= number < bound else None


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
