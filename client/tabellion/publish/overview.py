"""Every GUN of a server: verified where its root is trusted here, else by the server's word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from tabellion.core.expiry import (
    LEVELS,
    BinsState,
    End,
    KeyState,
    Margins,
    RoleState,
    Standing,
    in_order,
)
from tabellion.core.names import parse_gun
from tabellion.errors import InvalidNameError, ServerAnswerError, TabellionError
from tabellion.publish.outcome import Status
from tabellion.publish.server_api import ServerApi

_PAGE: Final = 100
_AT_ONCE: Final = 8
_MAX_GUNS: Final = 100_000
_MAX_ROLES: Final = 10_000


class Overview:
    """Reads GUNs page by page, a few at once."""

    def __init__(
        self,
        api: ServerApi,
        judge_one: Callable[[str], Awaitable[Status]],
        is_pinned: Callable[[str], Awaitable[bool]],
        *,
        now: datetime,
        margins: Margins,
    ) -> None:
        self._api = api
        self._judge_one = judge_one
        self._is_pinned = is_pinned
        self._now = now
        self._margins = margins

    async def statuses(self) -> AsyncIterator[Status]:
        """Give each GUN's status, by name; what is wrong with one is in its ``problem``.

        Raises:
            TransportError: The server's list can't be had.
        """
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(gun: str) -> Status:
            async with gate:
                return await self._status(gun)

        after: str | None = None
        is_more, count = True, 0
        while is_more:
            names, is_more = await self._api.guns(after=after, limit=_PAGE)
            for status in await asyncio.gather(*(one(name) for name in names)):
                yield status
            after, count = names[-1] if names else after, count + len(names)
            if count > _MAX_GUNS:
                raise ServerAnswerError(
                    f"the server lists more than {_MAX_GUNS} GUNs",
                    status=200,
                    hint="ask for single ones: tabellion status GUN",
                )

    async def _status(self, gun: str) -> Status:
        is_pinned = True
        try:
            parse_gun(gun)
            is_pinned = await self._is_pinned(gun)
            if is_pinned:
                return await self._judge_one(gun)
            word = await self._api.gun_state(gun)
            return status_of_word(gun, word, now=self._now, margins=self._margins)
        except InvalidNameError as error:
            problem = ServerAnswerError(f"the server lists {error.message}", status=200)
            return Status(gun, (), is_verified=False, problem=problem)
        except TabellionError as error:
            return Status(gun, (), is_verified=is_pinned, problem=error)


def status_of_word(gun: str, word: Mapping[str, Any], *, now: datetime, margins: Margins) -> Status:
    """Read the server's word on a GUN. Nothing in it is proven.

    Raises:
        ServerAnswerError: It isn't the state of that GUN.
    """
    try:
        if word["gun"] != gun or len(word["roles"]) > _MAX_ROLES:
            raise ValueError("another GUN, or too many roles")  # noqa: TRY301  (one message)
        top = set(word["roles"]["targets"]["keyids"]) if "targets" in word["roles"] else set()
        roles = tuple(_role(name, item, top) for name, item in word["roles"].items())
        ends = [
            end
            for role in roles
            for end in _ends(role, word["roles"][role.role], now=now, margins=margins)
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ServerAnswerError(f"the server's state of {gun} can't be read", status=200) from error
    return Status(
        gun,
        (),
        {role.role: role.version for role in roles if role.version is not None},
        {role.role: role.expires_at for role in roles if role.expires_at is not None},
        standing=Standing(gun, roles, in_order(ends)),
        is_verified=False,
    )


def _role(name: str, item: Mapping[str, Any], top: Collection[str]) -> RoleState:
    signed_by = set(item.get("signed_by", ()))
    keys = tuple(
        KeyState(
            str(keyid),
            str(key["keytype"]),
            is_alive=bool(key.get("alive", True)),
            is_held=False,
            has_signed=keyid in signed_by,
            expires_at=_moment(key.get("expires")),
        )
        for keyid, key in item["keys"].items()
    )
    return RoleState(
        name,
        str(item["delegator"]),
        _count(item["version"]) if "version" in item else None,
        _moment(item.get("expires")),
        "publisher" if _signer(name, item) == "publisher" else "server",
        _count(item["threshold"]),
        _count(item.get("alive", sum(key.is_alive for key in keys))),
        keys,
        _bins(item, [key.keyid for key in keys if key.keyid not in top]),
    )


def _bins(item: Mapping[str, Any], own: Sequence[str]) -> BinsState | None:
    return BinsState(_count(item["of_bins"]), tuple(own)) if "of_bins" in item else None


def _signer(name: str, item: Mapping[str, Any]) -> str:
    usual = "server" if name in {"timestamp", "snapshot"} else "publisher"
    return str(item.get("renewed_by", usual))


def _ends(
    role: RoleState, item: Mapping[str, Any], *, now: datetime, margins: Margins
) -> list[End]:
    found: list[End] = []
    if role.expires_at is not None:
        level = margins.level(role.expires_at, now)
        if role.renewed_by == "server":  # it knows how late it is
            told = item.get("level", "ok")
            if told not in LEVELS:
                raise ValueError("no such level")
            level = "expired" if level == "expired" else told
        signer = role.renewed_by
        found.append(End(role.role, "metadata", role.expires_at, level, signer, role.bins))
    until = _moment(item.get("certificates_expire"))
    if until is not None:
        level = margins.level(until, now)
        found.append(End(role.role, "certificates", until, level, "publisher"))
    return found


def _moment(text: object) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(str(text))
    if moment.tzinfo is None:
        raise ValueError("a moment without zone")
    return moment.astimezone(UTC)


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("no count")
    return value
