"""Handlers under ``/v1/``: which GUNs there are, one GUN's state, and a tag's history."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from tabellion.core.bins import bins_of
from tabellion.core.expiry import End, KeyState, RoleState, Standing, remedy
from tabellion.core.publication import CurrentSet
from tabellion.core.roles import TOP_LEVEL_ROLES, role_keys
from tabellion.errors import UnknownGunError, UsageError
from tabellion_server.services.files import MetadataFiles
from tabellion_server.storage.interface import Head, TagEvent
from tabellion_server.web.addresses import parse_gun_path
from tabellion_server.web.context import CONTEXT

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
MAX_ID: Final = 2**63 - 1
_NO_STORE: Final = {"Cache-Control": "no-store"}


async def list_guns(request: web.Request) -> web.Response:
    """Answer ``/v1/guns?prefix=&after=&limit=``."""
    limit = number_of(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
    prefix, after = text_of(request, "prefix") or "", text_of(request, "after")
    heads = await request.app[CONTEXT].store.guns(prefix, after, limit + 1)
    shown = heads[:limit]
    return web.json_response(
        {
            "guns": [_summary(head) for head in shown],
            "next": shown[-1].gun if len(heads) > limit else None,
        },
        headers=_NO_STORE,
    )


async def show_gun(request: web.Request) -> web.Response:
    """Answer ``/v1/guns/<gun>``: roles, versions, expiry, signers, sizes."""
    context = request.app[CONTEXT]
    gun = parse_gun_path(request, "/v1/guns/")
    head = await context.renewer.fresh_head(gun)
    if head is None:
        raise UnknownGunError(f"there is nothing here for {gun}")
    current = await context.files.current_set(head, await _described(context.files, head))
    current = await context.judge.with_first_bin(head, current)
    standing = await context.judge.standing(head, current, now=context.clock())
    roles = {role.role: _role(role, standing, head, current) for role in standing.roles}
    first = standing.first
    answer = {
        **_summary(head),
        "level": standing.level,
        "first": None if first is None else _end(first, gun),
        "roles": roles,
    }
    return web.json_response(answer, headers=_NO_STORE)


async def show_history(request: web.Request) -> web.Response:
    """Answer ``/v1/history/<gun>?target=&before=&limit=``, newest first."""
    context = request.app[CONTEXT]
    gun = parse_gun_path(request, "/v1/history/")
    limit = number_of(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
    before = number_of(request, "before", 0, MAX_ID) or None
    if await context.store.head(gun) is None:
        raise UnknownGunError(f"there is nothing here for {gun}")
    events = await context.store.events(
        gun, target=text_of(request, "target"), before=before, limit=limit + 1
    )
    shown = events[:limit]
    return web.json_response(
        {
            "gun": gun,
            "events": [_entry(event) for event in shown],
            "next": shown[-1].id if len(events) > limit else None,
        },
        headers=_NO_STORE,
    )


async def _described(files: MetadataFiles, head: Head) -> Collection[str]:
    """Give the roles to be described one by one: all but bins, which one of them stands for."""
    targets = (await files.current_set(head, {"targets"})).files.get("targets")
    bins = bins_of(targets.signed) if targets is not None else None
    return head.files.keys() if bins is None else TOP_LEVEL_ROLES


def text_of(request: web.Request, name: str) -> str | None:
    """Give a parameter of the query.

    Raises:
        UsageError: It's given twice.
    """
    given = request.query.getall(name, [])
    if len(given) > 1:
        raise UsageError(f"the address gives {name} {len(given)} times", hint="give it once")
    return given[0] if given else None


def number_of(
    request: web.Request, name: str, default: int, maximum: int, *, minimum: int = 1
) -> int:
    """Give a number of the query, from ``minimum`` to ``maximum``.

    Raises:
        UsageError: It's something else.
    """
    text = text_of(request, name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(maximum))
    if not is_number or not minimum <= int(text) <= maximum:
        raise UsageError(
            f"{name}={text[:40]!r} isn't a number from {minimum} to {maximum}", hint="leave it out"
        )
    return int(text)


def _summary(head: Head) -> dict[str, Any]:
    return {
        "gun": head.gun,
        "dialect": head.dialect,
        "revision": head.revision,
        "changed_at": moment_of(head.changed_at),
        "versions": {role: ref.version for role, ref in head.files.items()},
    }


def _role(state: RoleState, standing: Standing, head: Head, current: CurrentSet) -> dict[str, Any]:
    """Describe a role that is published or delegated; the server verified it already."""
    role, file = state.role, current.files.get(state.role)
    keys, entry = role_keys(current.files[state.delegator].signed, role)
    item: dict[str, Any] = {
        "delegator": state.delegator,
        "keyids": list(entry.keyids),
        "threshold": entry.threshold,
        "alive": state.alive,
        "renewed_by": state.renewed_by,
    }
    if state.bins is not None:
        item["of_bins"] = state.bins.count
    if file is not None and state.expires_at is not None:
        ref = head.files[role]
        item |= {
            "version": file.version,
            "expires": moment_of(state.expires_at),
            "level": standing.level_of(role),
            "sha256": ref.sha256,
            "length": ref.length,
            "signed_by": [keyid for keyid in entry.keyids if keyid in file.signatures],
        }
        if file.signed.type == "targets":
            item["targets"] = len(file.signed.targets)
            bins = bins_of(file.signed)
            if bins is not None:
                item["bins"] = {"prefix": bins.name_prefix, "count": bins.number_of_bins}
    for end in standing.ends:
        if end.role == role and end.what == "certificates":
            item["certificates_expire"] = moment_of(end.expires_at)
    item["keys"] = {key.keyid: _key(key, keys[key.keyid].scheme) for key in state.keys}
    return item


def _key(state: KeyState, scheme: str) -> dict[str, Any]:
    ends = {} if state.expires_at is None else {"expires": moment_of(state.expires_at)}
    return {"keytype": state.keytype, "scheme": scheme, "alive": state.is_alive, **ends}


def _end(end: End, gun: str) -> dict[str, Any]:
    return {
        "role": end.role,
        "what": end.what,
        "expires": moment_of(end.expires_at),
        "level": end.level,
        "command": remedy(end, gun),
    }


def _entry(event: TagEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "kind": event.kind,
        "target": event.target,
        "role": event.role,
        "version": event.version,
        "metadata_sha256": event.metadata_sha256,
        "digests": dict(event.digests),
        "length": event.length,
        "at": moment_of(event.at),
    }


def moment_of(moment: datetime) -> str:
    """Write a moment as every answer does: RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
