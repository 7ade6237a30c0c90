"""Fetching a file over HTTP, bounded in size, time and places.

Redirects stay on the same origin, bodies stay as they are on the wire (nothing is decompressed),
and every fault is one of our errors. Where a server asks who is there, see ``logins``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, Self

import aiohttp
from yarl import URL

from tabellion.errors import (
    AccessDeniedError,
    NotFoundError,
    ServerAnswerError,
    TabellionError,
    TransferError,
)
from tabellion.transport.absence import problem_code
from tabellion.transport.faults import unreachable
from tabellion.transport.logins import Logins
from tabellion.transport.proxies import proxy_of
from tabellion.transport.server_faults import SERVER_FAULTS, request_id, retry_hint, server_fault
from tabellion.transport.tls import tls_context
from tabellion.transport.tokens import MAX_TOKEN_BYTES, TokenRequest

_MAX_REDIRECTS: Final = 3
_MAX_LOGINS: Final = 2  # as nobody in particular, then as somebody
_CHUNK_BYTES: Final = 65_536
_GRACE_SECONDS: Final = 5.0
_MIN_BYTES_PER_SECOND: Final = 1024
_NOT_FOUND: Final = frozenset({404, 410})
_DENIED: Final = frozenset({401, 403})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = 200
_UNAUTHORIZED: Final = 401
_PROBLEM_TYPE: Final = "application/problem+json"
_MAX_PROBLEM_BYTES: Final = 16_384


class Fetcher(Protocol):
    """Where metadata comes from."""

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """Give the body behind ``url``, at most ``max_bytes`` long, or a TransportError."""


class HttpFetcher:
    """Fetches with aiohttp; one session for its life.

    A ``token`` is sent to every server as it is; without one, servers that ask are logged in to.
    """

    def __init__(
        self,
        *,
        ca: Path | None = None,
        token: str | None = None,
        connect_seconds: float = 10,
        stall_seconds: float = 15,
        total_seconds: float = 120,
    ) -> None:
        self._tls = tls_context(ca)
        self._headers = {
            "Accept": "application/json, application/problem+json, */*",
            "Accept-Encoding": "identity",
            "User-Agent": "tabellion",
        }
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._logins = Logins(self._ask_token_service) if token is None else None
        self._timeout = aiohttp.ClientTimeout(
            total=total_seconds, connect=connect_seconds, sock_read=stall_seconds
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Give the session, made at first use inside the running loop."""
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """Give the body behind ``url``.

        Raises:
            NotFoundError: 404 or 410.
            AccessDeniedError: 401 or 403.
            ServerAnswerError: Any other status than 200, or a redirect elsewhere.
            TransferError: Stalled, cut short, over-long or compressed.
            UnreachableError: No connection, TLS failure, time-out.
        """
        place = url
        for _ in range(_MAX_REDIRECTS + 1):
            async with self.request("GET", place) as response:
                if response.status not in _REDIRECTS:
                    return await read_body(response, max_bytes)
                place = _redirected(response)
        raise ServerAnswerError(f"{url}: more than {_MAX_REDIRECTS} redirects", status=302)

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, url: str, make_data: Callable[[], aiohttp.FormData] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request, and make every fault until its body is read one of our errors.

        Args:
            method: HTTP's.
            url: Where to.
            make_data: Makes the body; again, if the server wants to know first who sends it.

        Raises:
            AccessDeniedError: The server's token service refuses the user's credentials.
            ConfigurationError: The environment names a proxy that can't be one.
            ServerAnswerError: Not HTTP.
            TransferError: Cut short.
            UnreachableError: No connection, TLS failure, time-out.
        """
        with _our_errors(url):
            place = URL(url, encoded=True)
            shown = self._logins.known(method, place) if self._logins else None
            for tried in range(_MAX_LOGINS + 1):
                async with self._opened().request(
                    method,
                    place,
                    data=make_data() if make_data else None,
                    headers={"Authorization": shown.authorization} if shown else None,
                    allow_redirects=False,
                    ssl=self._tls,
                    proxy=proxy_of(place),
                ) as response:
                    if (
                        response.status == _UNAUTHORIZED
                        and self._logins is not None
                        and tried < _MAX_LOGINS
                    ):
                        challenges = response.headers.getall("WWW-Authenticate", [])
                        shown = await self._logins.better(method, place, challenges, shown)
                        if shown is not None:
                            continue
                    yield response
                    return

    async def _ask_token_service(self, realm: URL, request: TokenRequest) -> tuple[int, bytes]:
        """Send what ``logins`` wrote down; a redirect is not followed."""
        with _our_errors(str(realm)):
            async with self._opened().request(
                "GET" if request.form is None else "POST",
                realm.update_query(request.query),
                data=request.form,
                headers=request.headers,
                allow_redirects=False,
                ssl=self._tls,
                proxy=proxy_of(realm),
            ) as response:
                return response.status, await _read_bounded(response, MAX_TOKEN_BYTES)


@contextlib.contextmanager
def _our_errors(url: str) -> Iterator[None]:
    """Make each of aiohttp's errors one of ours."""
    try:
        yield
    except TabellionError:
        raise
    except aiohttp.ServerDisconnectedError as error:
        is_plain = url.startswith("http:")
        raise TransferError(
            f"{url}: the connection was closed without an answer",
            hint="if that port speaks TLS, write https://; else retry" if is_plain else "",
        ) from error
    except aiohttp.ClientPayloadError as error:
        raise TransferError(f"{url}: the answer was cut short") from error
    except aiohttp.ClientHttpProxyError as error:
        raise unreachable(_server_of(url), error) from error
    except aiohttp.ClientResponseError as error:
        raise ServerAnswerError(f"{url}: not a proper HTTP answer", status=error.status) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise unreachable(_server_of(url), error) from error


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Give the body of an answer with status 200; see ``HttpFetcher.fetch`` for the others."""
    place = response.url
    if response.status in _NOT_FOUND:
        raise NotFoundError(f"{place}: not found", problem=await _problem(response))
    if response.status in _DENIED:
        sent = "Authorization" in response.request_info.headers
        why = "what was sent to log in isn't accepted" if sent else "access denied"
        raise AccessDeniedError(f"{place.with_query(None)}: {why} ({response.status})")
    if response.status in SERVER_FAULTS:
        raise server_fault(
            *(str(place), response.status, request_id(response)), again=retry_hint(response)
        )
    if response.status != _OK:
        raise ServerAnswerError(
            f"{place}: the server answered {response.status}", status=response.status
        )
    return await _read_bounded(response, max_bytes)


async def _problem(response: aiohttp.ClientResponse) -> str:
    """Give the code of a trust server's problem document, or "" for any other answer."""
    if response.content_type not in {_PROBLEM_TYPE, "application/json"}:  # the latter: Notary
        return ""
    try:
        return problem_code(await _read_bounded(response, _MAX_PROBLEM_BYTES))
    except TransferError:
        return ""


async def _read_bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    place = response.url
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise TransferError(f"{place}: the answer is compressed though none was asked for")
    if response.content_length is not None and response.content_length > max_bytes:
        raise TransferError(
            f"{place}: {response.content_length} bytes announced, the limit is {max_bytes}"
        )
    body = bytearray()
    clock = asyncio.get_running_loop().time
    begun_at = clock()
    try:
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) < (clock() - begun_at - _GRACE_SECONDS) * _MIN_BYTES_PER_SECOND:
                raise TransferError(f"{place}: slower than {_MIN_BYTES_PER_SECOND} bytes a second")
            if len(body) > max_bytes:
                raise TransferError(f"{place}: longer than the limit of {max_bytes} bytes")
    except TimeoutError as error:
        raise TransferError(f"{place}: the answer stalled after {len(body)} bytes") from error
    return bytes(body)


def _redirected(response: aiohttp.ClientResponse) -> str:
    place = response.url
    try:
        target = place.join(URL(response.headers.get("Location", ""), encoded=True))
        if target.origin() == place.origin():
            return str(target)
    except ValueError:  # such as file:///etc/passwd, which has no origin
        pass
    raise ServerAnswerError(f"{place}: redirected to another host", status=response.status)


def _server_of(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"
