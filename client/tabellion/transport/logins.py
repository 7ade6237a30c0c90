"""Logging in to a trust server that asks for it, as docker's and notary's clients do.

Readers ask for a token as nobody in particular first, and only then as somebody. A server gets no
token but for the GUN and for what is being done there, whatever its challenge says: else it could
have one made out that it uses elsewhere itself.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from yarl import URL

from tabellion.errors import AccessDeniedError, ConfigurationError, ServerAnswerError
from tabellion.transport.challenge import Challenge, parse_challenges
from tabellion.transport.credentials import Credentials, find_credentials
from tabellion.transport.proxies import is_loopback
from tabellion.transport.tokens import TokenRequest, is_safe_realm, read_token, token_request

Sender = Callable[[URL, TokenRequest], Awaitable[tuple[int, bytes]]]

_OK: Final = 200
_DENIED: Final = frozenset({400, 401, 403})
_EARLY_SECONDS: Final = 5
_ON_GUN: Final = re.compile(
    r"/v2/(.+)/_trust/|/v1/history/(.+)|/v1/guns/(.+?)(?:/audit|/pending(?:/[0-9a-f]{64})?)?$",
    re.DOTALL,
)
_CATALOG: Final = "registry:catalog:*"


@dataclass(frozen=True, slots=True)
class Login:
    """What to show a server.

    Attributes:
        authorization: Value of the header.
        is_personal: The user's credentials are in it, or got it.
        until: By the loop's clock.
        was_kept: It was good for an earlier request.
    """

    authorization: str = field(repr=False)
    is_personal: bool
    until: float
    was_kept: bool = False


class Logins:
    """Keeps what servers want to see, by server and scope.

    Args:
        send: Asks a token service; gives status and body.
    """

    def __init__(self, send: Sender) -> None:
        self._send = send
        self._kept: dict[tuple[str, str], Login] = {}
        self._personal: set[tuple[str, str]] = set()
        self._credentials: dict[tuple[str, str], Credentials | None] = {}
        self._lock = asyncio.Lock()

    def known(self, method: str, url: URL) -> Login | None:
        """Give what was good for such a request before, if it's still valid."""
        kept = self._kept.get((str(url.origin()), scope_of(method, url)))
        if kept is None or kept.until < asyncio.get_running_loop().time():
            return None
        return Login(kept.authorization, kept.is_personal, kept.until, was_kept=True)

    async def better(
        self, method: str, url: URL, headers: Iterable[str], shown: Login | None
    ) -> Login | None:
        """Give what to show after a 401; None if there is nothing else.

        Args:
            method: Of the refused request.
            url: Of the refused request.
            headers: Its answer's ``WWW-Authenticate``.
            shown: What was shown and refused.

        Raises:
            AccessDeniedError: The token service refuses the credentials, or mustn't be asked.
            ServerAnswerError: It gave no token.
            ConfigurationError: docker's configuration, a helper or NOTARY_AUTH is broken.
            TransportError: It can't be reached.
        """
        key = (str(url.origin()), scope_of(method, url))
        challenges = parse_challenges(headers)
        async with self._lock:
            kept = self.known(method, url)
            if kept is not None and (shown is None or kept.authorization != shown.authorization):
                return kept  # another request got it meanwhile
            self._kept.pop(key, None)
            if shown is not None and shown.is_personal and not shown.was_kept:
                return None
            found = None
            for challenge in challenges:
                if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                    found = await self._by_token(method, url, challenge, shown)
                    break
            else:
                if any(challenge.scheme == "basic" for challenge in challenges):
                    found = await self._by_password(url)
            if found is not None:
                self._kept[key] = found
                if found.is_personal:
                    self._personal.add(key)
            return found

    async def _by_token(
        self, method: str, url: URL, challenge: Challenge, shown: Login | None
    ) -> Login | None:
        scope = scope_of(method, url)
        server = str(url.origin())
        realm = challenge.parameters["realm"]
        if "://" not in realm:
            return None  # a server with a write token says "tabellion": there is no token service
        if not is_safe_realm(realm, server, may_use_http=is_loopback):
            raise AccessDeniedError(
                f"{server} sends for a token to {realm[:100]!r}, which isn't https, or isn't for "
                "others",
                hint="ask the server's operator for a token service with https",
            )
        wanted = challenge.parameters.get("scope", scope)
        if _thing(wanted) != _thing(scope):
            raise AccessDeniedError(
                f"{server} wants a token for {wanted[:100]!r}, but this is about {scope!r}",
                hint="no other token is given to it; ask its operator",
            )
        service = challenge.parameters.get("service")
        is_anonymous_enough = scope.endswith(":pull") and (server, scope) not in self._personal
        if is_anonymous_enough and (shown is None or shown.was_kept):
            login = await self._fetch(realm, token_request(scope, service, None), None)
            if login is not None:
                return login
        credentials = await self._find(url, URL(realm).host or "")
        if credentials is None:
            if is_anonymous_enough:
                return None
            return await self._fetch(realm, token_request(scope, service, None), None)
        return await self._fetch(realm, token_request(scope, service, credentials), credentials)

    async def _fetch(
        self, realm: str, request: TokenRequest, credentials: Credentials | None
    ) -> Login | None:
        """Ask the token service; None if it gives nothing to nobody in particular."""
        begun_at = asyncio.get_running_loop().time()
        status, data = await self._send(URL(realm), request)
        if status in _DENIED:
            if credentials is None:
                return None
            raise AccessDeniedError(
                f"the token service {realm[:100]} refuses the credentials",
                hint="docker login to the trust server's or the GUN's host, or set NOTARY_AUTH",
            )
        token = read_token(data) if status == _OK else None
        if token is None:
            raise ServerAnswerError(
                f"the token service {realm[:100]} answered {status} without a token",
                status=status,
                hint="ask the server's operator",
            )
        return Login(
            f"Bearer {token.text}",
            credentials is not None,
            begun_at + token.seconds - _EARLY_SECONDS,
        )

    async def _by_password(self, url: URL) -> Login | None:
        credentials = await self._find(url, url.host or "")
        if credentials is None or credentials.is_identity_token:
            return None
        return Login(credentials.basic, is_personal=True, until=float("inf"))

    async def _find(self, url: URL, recipient: str) -> Credentials | None:
        """Find who to be: NOTARY_AUTH, docker's login of the server's host, then of the GUN's.

        A challenge that came by plain http may be anybody's: it gets nothing. The login of the
        GUN's registry goes to that registry's own domain alone, as whoever runs the trust server
        names who is sent it.
        """
        host = url.host_port_subcomponent or ""
        if url.scheme != "https" and not is_loopback(url.host or ""):
            return None
        registry = _registry_of(gun_of(url))
        key = (host, registry if _is_within(recipient, registry) else "")
        if key not in self._credentials:
            found = _from_variable(os.environ.get("NOTARY_AUTH", ""))
            for place in key:
                if found is None and place:
                    found = await find_credentials(place)
            self._credentials[key] = found
        return self._credentials[key]


def scope_of(method: str, url: URL) -> str:
    """Give the scope that a request needs, in the words of token services."""
    gun, path = gun_of(url), url.raw_path
    if not gun:
        return _CATALOG
    if method in {"GET", "HEAD"}:
        actions = "push,pull" if path.endswith(".key") else "pull"
    else:
        is_owners = method == "DELETE" and path.endswith("/_trust/tuf/")
        actions = "*" if is_owners or path.endswith(".key") else "push,pull"
    return f"repository:{gun}:{actions}"


def gun_of(url: URL) -> str:
    """Give the GUN that an address is about, or ""."""
    match = _ON_GUN.search(url.raw_path)
    return unquote(match[1] or match[2] or match[3]) if match else ""


def _thing(scope: str) -> str:
    """Take the actions off a scope."""
    return scope.rpartition(":")[0]


def _registry_of(gun: str) -> str:
    """Give the registry's host if the GUN begins with one."""
    first, slash, _ = gun.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host else ""


def _is_within(recipient: str, registry: str) -> bool:
    """Tell whether a host is a registry's, in its domain, or this machine."""
    domain = registry.rpartition(":")[0] or registry
    return is_loopback(recipient) or recipient == domain or recipient.endswith(f".{domain}")


def _from_variable(text: str) -> Credentials | None:
    if not text.strip():
        return None
    try:
        username, secret = base64.b64decode(text.strip(), validate=True).decode().split(":", 1)
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError(
            "NOTARY_AUTH isn't base64 of user:password", hint="unset it, or encode it anew"
        ) from error
    return Credentials(username, secret) if username else None
