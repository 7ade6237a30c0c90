"""The server's routes that a publisher uses, each answer read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
from securesystemslib.signer import Key

from tabellion.core import strict_json
from tabellion.core.dialect import NOTARY, Dialect
from tabellion.core.names import parse_gun
from tabellion.core.notary_keys import NotaryKey
from tabellion.core.publication import UploadedFile
from tabellion.core.roles import key_material
from tabellion.errors import (
    InvalidNameError,
    NotFoundError,
    ServerAnswerError,
    TabellionError,
    TransferError,
)
from tabellion.publish.public_keys import load_public_key
from tabellion.publish.refusals import MAX_ANSWER, one_line, refusal, versions_of
from tabellion.transport.absence import check_is_no_page, unknown_gun
from tabellion.transport.fetcher import HttpFetcher
from tabellion.transport.server_faults import request_id, retry_hint

_MAX_GUNS: Final = 1_000_000
_GUNS_AT_ONCE: Final = 50
_MAX_GUNS_ANSWER: Final = 16_000_000  # with the versions of all roles
_OK: Final = range(200, 300)


@dataclass(frozen=True)
class HistoryEntry:
    """What a tag came to mean at a moment, by the server's word.

    Attributes:
        kind: ``signed`` or ``revoked``.
        target: Target path.
        role: Role that said so.
        version: Version of that role's file; with ``metadata_sha256`` it can be checked.
        metadata_sha256: SHA-256 of that file.
        digests: Hash algorithm to hex.
        length: Number of bytes.
        at: When it was published; None where a notary-server doesn't say.
        id: Pass the last one as ``before`` to read on.
    """

    kind: str
    target: str
    role: str
    version: int
    metadata_sha256: str
    digests: Mapping[str, str]
    length: int
    at: datetime | None
    id: int


class ServerApi:
    """Talks to one server."""

    def __init__(self, server: str, *, ca: Path | None = None, token: str | None = None) -> None:
        self._server = server.rstrip("/")
        self._fetcher = HttpFetcher(ca=ca, token=token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._fetcher.close()

    async def metadata(self, gun: str, file_name: str, *, max_bytes: int) -> bytes:
        """Fetch a metadata file, unverified.

        Raises:
            TransportError: No usable answer.
        """
        return await self._fetcher.fetch(f"{self._base(gun)}/{file_name}", max_bytes=max_bytes)

    async def exists(self, gun: str) -> bool:
        """Tell whether the server holds metadata for the GUN."""
        try:
            await self.metadata(gun, "1.root.json", max_bytes=MAX_ANSWER)
        except NotFoundError:
            return False
        return True

    async def online_key(self, gun: str, role: str, dialect: Dialect) -> Key:
        """Give the server's own public key of a role for a GUN that may not exist yet.

        Raises:
            TransportError: No usable answer, or not a key that all clients read.
        """
        url = f"{self._base(gun)}/{role}.key"
        url += "" if dialect is NOTARY else f"?dialect={dialect.name}"
        content = self.parse(url, await self._fetcher.fetch(url, max_bytes=MAX_ANSWER))
        return self._online_key(url, content, dialect)

    async def rotate_online_key(self, gun: str, role: str, dialect: Dialect) -> Key:
        """Have the server make a new key of a role; it's used once a root names it.

        Raises:
            TransportError: No usable answer, or not a key that all clients read.
        """
        url = f"{self._base(gun)}/{role}.key"
        body = await self.send(gun, "POST", url)
        return self._online_key(url, self.parse(url, body), dialect)

    def _online_key(self, url: str, content: dict[str, Any], dialect: Dialect) -> Key:
        if dialect is NOTARY:
            try:
                key = NotaryKey.from_dict("", content)
                key.keyid = key.computed_id
                key_material(key)
            except TabellionError as error:
                raise ServerAnswerError(f"{url}: {error.message}", status=200) from error
            return key
        try:
            made = load_public_key(json.dumps(content).encode(), what=url)
        except TabellionError as error:
            raise ServerAnswerError(error.message, status=200) from error
        # Its id is computed from the key: a server that names its own key like one of the
        # publisher's would put it in that key's place in the root.
        if content.get("keyid") != made.keyid:
            raise ServerAnswerError(f"{url} is a key without its own id", status=200)
        return made

    async def upload(self, gun: str, files: Sequence[UploadedFile]) -> Mapping[str, int]:
        """Publish files, all or none; gives the versions that are current then.

        Raises:
            ConflictError: Somebody published first.
            RefusedPublicationError: A rule is broken.
            TransportError: No usable answer: it may have been published or not.
        """
        url = f"{self._base(gun)}/"
        body = await self.send(gun, "POST", url, files)
        # Notary's own server answers with nothing.
        return versions_of(self.parse(url, body).get("versions") if body else None)

    async def history(
        self, gun: str, *, target: str | None, before: int | None, limit: int
    ) -> list[HistoryEntry]:
        """List what the tags of a GUN meant when, newest first.

        Raises:
            UnknownGunError: The server holds nothing for it.
            TransportError: No usable answer.
        """
        query: dict[str, str | int] = {"limit": limit}
        if target is not None:
            query["target"] = target
        if before is not None:
            query["before"] = before
        url = (
            f"{self._server}/v1/history/{quote(gun, safe='/:')}?{urlencode(query, quote_via=quote)}"
        )
        try:
            body = await self._fetcher.fetch(url, max_bytes=MAX_ANSWER)
        except NotFoundError as error:
            raise unknown_gun(gun, url, error) from error
        content = self.parse(url, check_is_no_page(url, body))
        try:
            return [_history_entry(item) for item in content["events"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ServerAnswerError(f"{url} isn't a history", status=200) from error

    async def all_guns(self, prefix: str) -> list[str]:
        """List the GUNs whose names begin so, by the server's word.

        Raises:
            TransportError: No usable answer.
        """
        found: list[str] = []
        is_more = True
        while is_more:
            after = found[-1] if found else None
            names, is_more = await self.guns(prefix=prefix, after=after, limit=_GUNS_AT_ONCE)
            try:
                found += [parse_gun(name) for name in names]
            except InvalidNameError as error:
                raise ServerAnswerError(f"the server lists {error.message}", status=200) from error
            if len(found) > _MAX_GUNS:
                raise ServerAnswerError(f"the server lists more than {_MAX_GUNS} GUNs", status=200)
        return [name for name in found if name.startswith(prefix)]

    async def guns(
        self, *, prefix: str = "", after: str | None, limit: int
    ) -> tuple[list[str], bool]:
        """List names of GUNs behind ``after``, and tell whether there are more.

        Raises:
            TransportError: No usable answer, or not in order.
        """
        query = {"limit": str(limit)} | ({} if after is None else {"after": after})
        query |= {"prefix": prefix} if prefix else {}
        url = f"{self._server}/v1/guns?{urlencode(query, quote_via=quote)}"
        body = check_is_no_page(url, await self._fetcher.fetch(url, max_bytes=_MAX_GUNS_ANSWER))
        content = self.parse(url, body, max_bytes=_MAX_GUNS_ANSWER)
        try:
            names = [str(item["gun"]) for item in content["guns"]]
            is_more = content["next"] is not None
        except (KeyError, TypeError) as error:
            raise ServerAnswerError(f"{url} isn't a list of GUNs", status=200) from error
        # In order and without repetition: a server can't make anybody page for ever.
        if names != sorted(set(names)) or (after is not None and names and names[0] <= after):
            raise ServerAnswerError(f"{url} lists GUNs out of order", status=200)
        if is_more and not names:
            raise ServerAnswerError(f"{url} lists nothing, and says there's more", status=200)
        return names, is_more

    async def gun_state(self, gun: str) -> dict[str, Any]:
        """Give the server's own word on a GUN's roles, unverified.

        Raises:
            UnknownGunError: The server holds nothing for it.
            TransportError: No usable answer.
        """
        url = f"{self._server}/v1/guns/{quote(gun, safe='/:')}"
        try:
            body = await self._fetcher.fetch(url, max_bytes=MAX_ANSWER)
        except NotFoundError as error:
            raise unknown_gun(gun, url, error) from error
        return self.parse(url, body)

    async def changefeed(self, gun: str, limit: int) -> list[dict[str, Any]]:
        """Give the newest changes of a GUN as Notary tells them, oldest first.

        Raises:
            TransportError: No usable answer.
        """
        url = f"{self._server}/v2/{quote(gun, safe='/:')}/_trust/changefeed?records=-{limit}"
        content = self.parse(url, await self._fetcher.fetch(url, max_bytes=MAX_ANSWER))
        records = content.get("records") or []
        if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
            raise ServerAnswerError(f"{url} isn't a changefeed", status=200)
        return records

    def _base(self, gun: str) -> str:
        return f"{self._server}/v2/{quote(gun, safe='/:')}/_trust/tuf"

    def address(self, gun: str, rest: str) -> str:
        """Give the address of something about a GUN under ``/v1/guns/``."""
        return f"{self._server}/v1/guns/{quote(gun, safe='/:')}/{rest}"

    async def get(self, url: str) -> dict[str, Any]:
        """Fetch a JSON answer.

        Raises:
            TransportError: No usable answer.
        """
        return self.parse(url, await self._fetcher.fetch(url, max_bytes=MAX_ANSWER))

    async def send(
        self, gun: str, method: str, url: str, files: Sequence[UploadedFile] | None = None
    ) -> bytes:
        """Send a request that changes something; gives the answer's body.

        Raises:
            PublicationError: It was refused, and nothing changed.
            TransportError: No usable answer: it may have been done or not.
        """

        def make_form() -> aiohttp.FormData:
            form = aiohttp.FormData(quote_fields=False)
            for item in files or ():
                form.add_field(
                    "files", item.data, filename=item.role, content_type="application/octet-stream"
                )
            return form

        make = None if files is None else make_form
        async with self._fetcher.request(method, url, make) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise TransferError(f"{url}: the answer is longer than {MAX_ANSWER} bytes")
            if response.status not in _OK:
                raise refusal(
                    *(gun, response.status, bytes(body)),
                    request=request_id(response),
                    again=retry_hint(response),
                )
            return bytes(body)

    def parse(self, url: str, body: bytes, *, max_bytes: int = MAX_ANSWER) -> dict[str, Any]:
        """Read a JSON answer; raises ServerAnswerError."""
        try:
            return strict_json.parse(body, max_bytes=max_bytes, what="the answer")
        except TabellionError as error:
            raise ServerAnswerError(f"{url}: {error.message}", status=200) from error


def _history_entry(item: Mapping[str, Any]) -> HistoryEntry:
    at = datetime.fromisoformat(str(item["at"]))
    if at.tzinfo is None:
        raise ValueError(f"{item['at']!r} has no time zone")
    return HistoryEntry(
        kind=one_line(item["kind"]),
        target=one_line(item["target"]),
        role=one_line(item["role"]),
        version=int(item["version"]),
        metadata_sha256=one_line(item["metadata_sha256"]),
        digests={one_line(name): one_line(value) for name, value in dict(item["digests"]).items()},
        length=int(item["length"]),
        at=at.astimezone(UTC),
        id=int(item["id"]),
    )
