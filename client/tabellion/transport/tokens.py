"""Docker's token scheme: what is asked of a token service, and what it answers.

Registries and trust servers share it. Nothing is sent here.

Spec: distribution's token authentication; notary-v1 section 1.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from yarl import URL

from tabellion.core import strict_json
from tabellion.errors import VerificationError
from tabellion.transport.credentials import Credentials
from tabellion.transport.proxies import is_loopback, may_be_here

MAX_TOKEN_BYTES: Final = 64 * 1024
_CLIENT_ID: Final = "tabellion"
_LEAST_SECONDS: Final = 60
_MOST_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """How a token is asked for; with a form by POST, else by GET."""

    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, and for how long it's good from when it was asked for."""

    text: str = field(repr=False)
    seconds: float


def token_request(scope: str, service: str | None, credentials: Credentials | None) -> TokenRequest:
    """Write down what to ask for; without credentials, as nobody in particular."""
    query = {"scope": scope}
    if service is not None:
        query["service"] = service
    if credentials is None:
        return TokenRequest(query)
    if credentials.is_identity_token:
        return TokenRequest(
            form={
                **query,
                "grant_type": "refresh_token",
                "refresh_token": credentials.secret,
                "client_id": _CLIENT_ID,
            }
        )
    query["account"] = credentials.username
    return TokenRequest(query, {"Authorization": credentials.basic})


def read_token(data: bytes) -> Token | None:
    """Find the token in a token service's answer; None if there is no sound one."""
    try:
        members: dict[str, Any] = strict_json.parse(
            data, max_bytes=MAX_TOKEN_BYTES, what="the token service's answer"
        )
    except VerificationError:
        return None
    text = members.get("token") or members.get("access_token")
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        return None
    seconds = members.get("expires_in")
    if type(seconds) is not int:
        seconds = _LEAST_SECONDS
    return Token(text, min(max(seconds, _LEAST_SECONDS), _MOST_SECONDS))


def is_safe_realm(realm: str, base: str, *, may_use_http: Callable[[str], bool]) -> bool:
    """Tell whether a server at ``base`` may send us, and our credentials, to ``realm``.

    By https, or where plain http is allowed. A server elsewhere has no business on this machine's
    own ports.
    """
    try:
        url = URL(realm)
        host = url.host_port_subcomponent or ""
        name = url.host or ""
        # What may be plain is told by the host alone; a user before it could look like one. A dot
        # behind it is dropped there, but not by who resolves the name.
        is_plain = url.scheme == "http" and may_use_http(host) and not name.endswith(".")
        has_user = url.user is not None or url.password is not None
        strays = may_be_here(name) and not is_loopback(URL(base).host or "")
    except ValueError:
        return False
    return bool(host) and not has_user and not strays and (url.scheme == "https" or is_plain)
