"""A client of the OCI distribution protocol, as far as manifests go."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from tabellion.core.names import Reference
from tabellion.errors import (
    AccessDeniedError,
    RegistryError,
    ServerAnswerError,
    TransferError,
    UnknownImageError,
    UnreachableError,
)
from tabellion.registry.manifest import (
    IMAGE_TYPES,
    INDEX_TYPES,
    MAX_MANIFEST_BYTES,
    Manifest,
    read_manifest,
)
from tabellion.transport.challenge import Challenge, parse_challenges
from tabellion.transport.credentials import Credentials, find_credentials
from tabellion.transport.faults import unreachable
from tabellion.transport.proxies import is_loopback, proxy_of
from tabellion.transport.tls import tls_context
from tabellion.transport.tokens import MAX_TOKEN_BYTES, is_safe_realm, read_token, token_request

_DOCKER_HUB_HOST: Final = "registry-1.docker.io"
_MAX_REDIRECTS: Final = 3
_TIMEOUT: Final = aiohttp.ClientTimeout(total=60, sock_connect=10, sock_read=20)
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    challenges: list[Challenge]
    data: bytes


class RegistryClient:
    """Fetches manifests; logs in as docker would.

    Args:
        insecure: Hosts (``host:port``) that may be spoken to by plain http; loopback always may.
        ca: PEM file of further certificate authorities.
        docker_config: Folder with ``config.json``; None is ``DOCKER_CONFIG``, else ``~/.docker``.
    """

    def __init__(
        self,
        *,
        insecure: Collection[str] = (),
        ca: Path | None = None,
        docker_config: Path | None = None,
    ) -> None:
        self._insecure = frozenset(insecure)
        self._ca = ca
        self._docker_config = docker_config
        self._session: aiohttp.ClientSession | None = None
        self._authorizations: dict[tuple[str, str], str] = {}
        self._bases: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def manifest(self, reference: Reference) -> Manifest:
        """Fetch the manifest or index of an image, by digest if there is one, else by tag.

        Raises:
            UnknownImageError: The registry doesn't have the image.
            AccessDeniedError: The credentials don't suffice.
            DigestMismatchError: The bytes aren't those of the digest asked for.
            RegistryError: The answer isn't a manifest.
            ServerAnswerError: Any other status.
            UnreachableError: No connection.
            TransferError: The body was cut short, too long or too slow.
            ConfigurationError: docker's configuration, a helper or the CA file is broken.
        """
        wanted = reference.digest or reference.tag
        what = str(reference)
        path = f"/v2/{reference.repository}/manifests/{wanted}"
        answer = await self._get(reference, path, what)
        if answer.status in {401, 403}:
            raise AccessDeniedError(
                f"registry {reference.registry} refuses access to {what}",
                hint=f"docker login {reference.registry}; or the image doesn't exist",
            )
        if answer.status == 404:  # noqa: PLR2004  # HTTP
            raise UnknownImageError(
                f"registry {reference.registry} has no "
                f"{'image' if reference.tag is None else 'such tag:'} {what}"
            )
        if answer.status != 200:  # noqa: PLR2004  # HTTP
            hint = "too many requests: log in, or wait" if answer.status == 429 else ""  # noqa: PLR2004
            raise ServerAnswerError(
                f"registry {reference.registry} answered {what} with status {answer.status}",
                status=answer.status,
                hint=hint or "ask the registry's operator",
            )
        return await asyncio.to_thread(
            read_manifest,
            answer.data,
            content_type=answer.headers.get("Content-Type", ""),
            claimed=answer.headers.get("Docker-Content-Digest"),
            wanted=reference.digest,
            what=what,
        )

    async def speaks_http(self, registry: str) -> bool:
        """Tell whether a registry is spoken to by http: where that is allowed, and it has no TLS.

        Raises:
            UnreachableError: No connection.
        """
        return (await self._base(registry)).startswith("http://")

    async def _get(self, reference: Reference, path: str, what: str) -> _Answer:
        headers = {"Accept": ", ".join((*IMAGE_TYPES, *INDEX_TYPES))}
        key = (reference.registry, reference.repository)
        base = await self._base(reference.registry)
        known = self._authorizations.get(key)
        if known:
            headers["Authorization"] = known
        answer = await self._send("GET", base + path, what, headers=headers)
        if answer.status != 401:  # noqa: PLR2004  # HTTP
            return answer
        authorization = await self._log_in(reference, answer.challenges, base)
        if authorization is None:
            return answer
        headers["Authorization"] = authorization
        answer = await self._send("GET", base + path, what, headers=headers)
        if answer.status == 200:  # noqa: PLR2004  # HTTP
            self._authorizations[key] = authorization
        return answer

    async def _base(self, registry: str) -> str:
        """Find the scheme: https; http only where allowed, and only if there is no TLS at all."""
        known = self._bases.get(registry)
        if known is not None:
            return known
        host = _DOCKER_HUB_HOST if registry == "docker.io" else registry
        base = f"https://{host}"
        if self._may_use_http(registry):
            try:
                await self._send("GET", f"{base}/v2/", registry)
            except _NoTlsError:
                base = f"http://{host}"
        self._bases[registry] = base
        return base

    def _may_use_http(self, host: str) -> bool:
        return host in self._insecure or is_loopback(host)

    async def _log_in(
        self, reference: Reference, challenges: list[Challenge], base: str
    ) -> str | None:
        credentials = await find_credentials(reference.registry, self._docker_config)
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return await self._fetch_token(reference, challenge, credentials, base)
        for challenge in challenges:
            if challenge.scheme == "basic" and credentials and not credentials.is_identity_token:
                return credentials.basic
        return None

    async def _fetch_token(
        self, reference: Reference, challenge: Challenge, credentials: Credentials | None, base: str
    ) -> str:
        what = f"the token service of {reference.registry}"
        realm = urljoin(base, challenge.parameters["realm"])
        self._check_realm(realm, base, what)
        wanted = token_request(
            f"repository:{reference.repository}:pull",
            challenge.parameters.get("service"),
            credentials,
        )
        answer = await self._send(
            "GET" if wanted.form is None else "POST",
            realm,
            what,
            headers=wanted.headers,
            query=wanted.query,
            form=wanted.form,
        )
        if answer.status in {401, 403}:
            said = "refuses the credentials" if credentials else "asks for credentials"
            raise AccessDeniedError(
                f"{what} {said}",
                hint=f"docker login {reference.registry}; or the image doesn't exist",
            )
        if answer.status != 200:  # noqa: PLR2004  # HTTP
            raise ServerAnswerError(
                f"{what} answered with status {answer.status}",
                status=answer.status,
                hint="ask the registry's operator",
            )
        token = await asyncio.to_thread(read_token, answer.data)
        if token is None:
            raise RegistryError(f"{what} gave no token", hint="ask the registry's operator")
        return f"Bearer {token.text}"

    def _check_realm(self, realm: str, base: str, what: str) -> None:
        if not is_safe_realm(realm, base, may_use_http=self._may_use_http):
            raise RegistryError(
                f"{what} lies at {realm[:100]!r}, which isn't https, or isn't for others",
                hint="credentials are only sent by https; ask the registry's operator",
            )

    async def _send(
        self,
        method: str,
        url: str,
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> _Answer:
        """Send one request, following few redirects; secrets stay with the first host."""
        sent = dict(headers or {})
        target = URL(url)
        if query:
            target = target.update_query(query)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self._send_once(method, target, what, sent, form)
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or not location or method != "GET":
                return answer
            try:
                following = target.join(URL(location))
                is_allowed = following.scheme in {"https", target.scheme} and following.host
            except ValueError:
                following, is_allowed = target, None
            if not is_allowed:
                raise RegistryError(
                    f"{target.host} redirects {what} to {location[:100]!r}, which isn't https",
                    hint="ask the registry's operator",
                )
            if following.origin() != target.origin():
                sent.pop("Authorization", None)
            target = following
        raise RegistryError(
            f"{target.host} redirects {what} more than {_MAX_REDIRECTS} times",
            hint="ask the registry's operator",
        )

    async def _send_once(
        self,
        method: str,
        url: URL,
        what: str,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None,
    ) -> _Answer:
        session = await self._open()
        limit = MAX_MANIFEST_BYTES if form is None else MAX_TOKEN_BYTES
        try:
            async with session.request(
                method, url, headers=headers, data=form, allow_redirects=False, proxy=proxy_of(url)
            ) as response:
                data = await _read(response, limit, what)
                challenges = parse_challenges(response.headers.getall("WWW-Authenticate", ()))
                return _Answer(response.status, response.headers, challenges, data)
        except aiohttp.ClientConnectorCertificateError as error:
            raise unreachable(f"registry {url.authority}", error) from error
        except (aiohttp.ClientConnectorSSLError, aiohttp.ServerDisconnectedError) as error:
            if url.scheme == "https":
                raise _NoTlsError(
                    f"registry {url.authority} doesn't speak https",
                    hint=f"if plain http is meant: --insecure-registry {url.authority}",
                ) from error
            raise UnreachableError(f"{url.authority} closed the connection") from error
        except aiohttp.ClientPayloadError as error:
            raise TransferError(
                f"the answer of {url.authority} for {what} was cut short"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unreachable(f"registry {url.authority}", error) from error

    async def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = await asyncio.to_thread(tls_context, self._ca)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context),
                timeout=_TIMEOUT,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "User-Agent": "tabellion"},
            )
        return self._session


class _NoTlsError(UnreachableError):
    """The other side doesn't speak TLS; the only failure that may lead to http."""


async def _read(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise TransferError(f"the answer for {what} is compressed, which wasn't asked for")
    data = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        data += chunk
        if len(data) > limit:
            raise TransferError(f"the answer for {what} is longer than {limit} bytes")
    return bytes(data)
