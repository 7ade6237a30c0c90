"""The server's routes of pending proposals, each answer read with suspicion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from tabellion.core.publication import UploadedFile
from tabellion.errors import ServerAnswerError
from tabellion.publish.refusals import one_line, versions_of
from tabellion.publish.server_api import ServerApi

_MAX_LISTED: Final = 100


@dataclass(frozen=True)
class PendingInfo:
    """A pending proposal, by the server's word.

    Attributes:
        id: Hex SHA-256 over what is signed.
        versions: Role to version.
        created_at: When it was opened.
        expires_at: From when on it isn't kept any more.
        by: Who opened it; empty where the server doesn't know.
        is_stale: Somebody published one of its roles since.
        missing: Role to signatures that are missing.
    """

    id: str
    versions: Mapping[str, int]
    created_at: datetime
    expires_at: datetime
    by: str
    is_stale: bool
    missing: Mapping[str, int]


@dataclass(frozen=True)
class AuditRecord:
    """What became of a proposal, by the server's word.

    Attributes:
        id: Pass the last one as ``before`` to read on.
        proposal: The proposal's id.
        action: ``opened``, ``signed``, ``published``, ``withdrawn``, ``expired`` or ``dropped``.
        versions: Role to version.
        keyids: Keys whose signatures were added.
        by: Who did it; empty where the server doesn't know.
        at: When.
    """

    id: int
    proposal: str
    action: str
    versions: Mapping[str, int]
    keyids: tuple[str, ...]
    by: str
    at: datetime


@dataclass(frozen=True)
class Offer:
    """What became of an offer.

    Attributes:
        state: ``opened``, ``merged`` or ``published``.
        id: The proposal's.
        versions: Current versions, once it's published.
        missing: Role to signatures that are missing still.
    """

    state: str
    id: str
    versions: Mapping[str, int]
    missing: Mapping[str, int]


class PendingApi:
    """Talks about a server's pending proposals."""

    def __init__(self, api: ServerApi) -> None:
        self._api = api

    async def proposals(self, gun: str) -> list[PendingInfo]:
        """List a GUN's proposals, oldest first.

        Raises:
            NotFoundError: The server has neither the GUN nor a proposal, or keeps none at all.
            TransportError: No usable answer.
        """
        url = self._api.address(gun, "pending")
        content = await self._api.get(url)
        try:
            return [_info(item) for item in content["pending"][:_MAX_LISTED]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ServerAnswerError(f"{url} isn't a list of proposals", status=200) from error

    async def files(self, gun: str, number: str) -> list[UploadedFile]:
        """Give a proposal's files, unverified.

        Raises:
            NotFoundError: It isn't pending.
            TransportError: No usable answer.
        """
        url = self._api.address(gun, f"pending/{number}")
        content = await self._api.get(url)
        files = content.get("files")
        if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
            raise ServerAnswerError(f"{url} isn't a proposal", status=200)
        return [UploadedFile(role, text.encode()) for role, text in files.items()]

    async def offer(self, gun: str, files: Sequence[UploadedFile]) -> Offer:
        """Offer a proposal, or signatures of one; the same again does no harm.

        Raises:
            PublicationError: It was refused, and nothing changed.
            NotFoundError: The server keeps no proposals.
            TransportError: No usable answer: it may have been taken or not.
        """
        url = self._api.address(gun, "pending")
        content = self._api.parse(url, await self._api.send(gun, "POST", url, files))
        try:
            missing = _missing(content.get("standing", []))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerAnswerError(f"{url} gave no usable answer", status=200) from error
        return Offer(
            one_line(content.get("state")),
            one_line(content.get("id")),
            versions_of(content.get("versions")),
            missing,
        )

    async def withdraw(self, gun: str, number: str) -> None:
        """Withdraw a proposal.

        Raises:
            NotFoundError: It isn't pending.
            TransportError: No usable answer.
        """
        await self._api.send(gun, "DELETE", self._api.address(gun, f"pending/{number}"))

    async def audit(self, gun: str, *, before: int | None, limit: int) -> list[AuditRecord]:
        """Tell what became of a GUN's proposals, newest first.

        Raises:
            TransportError: No usable answer.
        """
        query = {"limit": limit} | ({} if before is None else {"before": before})
        url = self._api.address(gun, f"audit?{urlencode(query)}")
        content = await self._api.get(url)
        try:
            return [_record(item) for item in content["entries"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ServerAnswerError(f"{url} isn't an audit", status=200) from error


def _info(item: Mapping[str, Any]) -> PendingInfo:
    return PendingInfo(
        id=one_line(item["id"]),
        versions=versions_of(item["roles"]),
        created_at=_moment(item["created"]),
        expires_at=_moment(item["expires"]),
        by=one_line(item["by"]),
        is_stale=item["stale"] is True,
        missing=_missing(item["standing"]),
    )


def _record(item: Mapping[str, Any]) -> AuditRecord:
    return AuditRecord(
        id=int(item["id"]),
        proposal=one_line(item["proposal"]),
        action=one_line(item["action"]),
        versions=versions_of(item["roles"]),
        keyids=tuple(one_line(keyid) for keyid in item["keyids"]),
        by=one_line(item["by"]),
        at=_moment(item["at"]),
    )


def _missing(standing: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in standing:
        role, lacking = one_line(item["role"]), int(item["lacking"])
        if lacking > 0:
            found[role] = max(found.get(role, 0), lacking)
    return found


def _moment(text: object) -> datetime:
    moment = datetime.fromisoformat(str(text))
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)
