"""Who may do what: holders of the write token, or of a token service's tokens.

With neither, programs on this machine may do everything. With a token service every address
demands a grant, but for those that monitors ask; what isn't listed here demands that of the
catalogue, as at Notary's servers.

Spec: notary-v1 sections 1 and 1.6.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from tabellion.core.names import Gun
from tabellion.errors import AccessDeniedError, InvalidNameError, UsageError
from tabellion_server.logs import log
from tabellion_server.services.signing import Clock
from tabellion_server.token_auth import TokenAuth
from tabellion_server.web.addresses import (
    FileAddress,
    HashAddress,
    KeyAddress,
    SetAddress,
    parse_feed_path,
    parse_gun_path,
    parse_trust_path,
    proposal_path,
)
from tabellion_server.web.changes import asked_gun
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.problems import Handler
from tabellion_server.web.request_errors import RequestError, UnauthorizedError
from tabellion_server.web.token_keys import BadTokenError
from tabellion_server.web.tokens import Access, TokenVerifier


@dataclass(frozen=True, slots=True)
class Guard:
    """Judges tokens at the moment that the clock tells."""

    verifier: TokenVerifier
    clock: Clock


GUARD = web.AppKey("guard", Guard)
_SUBJECT = web.RequestKey("subject", str)
_OPEN: Final = frozenset({"/healthz", "/readyz", "/_notary_server/health", "/metrics"})
_PUBLISH: Final = ("push", "pull")
_CATALOG: Final = (Access("registry", "catalog", "*"),)
_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
_SHARED: Final = re.compile(r", s-maxage=[0-9]+")
_HINT: Final = "fetch a token at the realm of the challenge: docker login, or NOTARY_AUTH"


def check_write_access(request: web.Request) -> None:
    """Return if the sender may write; a token service's tokens were checked before.

    Raises:
        AccessDeniedError: No token, or a wrong one.
        RequestError: 403, a web page sends it: signing in for its visitor isn't its business.
    """
    if "Origin" in request.headers:
        raise RequestError(
            "web pages may not write here",
            status=403,
            name="cross-origin",
            hint="use the command line: tabellion publish",
        )
    token = request.app[CONTEXT].settings.write_token
    if token is None:
        return
    given = _bearer(request)
    fits = given is not None and hmac.compare_digest(
        given.encode(errors="surrogateescape"), token.encode()
    )
    if not fits:
        said = "writing here needs the server's write token"
        raise AccessDeniedError(
            said if given is None else f"{said}, and the token that was sent isn't it",
            hint="its operator has it; tabellion takes it from TABELLION_TOKEN, others send it as "
            "Authorization: Bearer TOKEN; docker and notary can't",
        )


def who(request: web.Request) -> dict[str, str]:
    """Give the fields of a log line that tell who is asking, as the token service knows them."""
    subject = request.get(_SUBJECT)
    return {"who": subject} if subject else {}


@web.middleware
async def access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request through to its handler if its token grants what the address demands."""
    auth = request.app[CONTEXT].settings.auth
    if auth is None:
        return await handler(request)
    await _check_grant(request, auth)
    response = await handler(request)
    # A shared cache would give it to those who have no token.
    kept = response.headers.get("Cache-Control", "")
    if kept.startswith("public"):
        response.headers["Cache-Control"] = _SHARED.sub("", kept.replace("public", "private", 1))
    return response


async def _check_grant(request: web.Request, auth: TokenAuth) -> None:
    wanted = demanded(request)
    if not wanted:
        return
    token = _bearer(request)
    if token is None:
        raise _unauthorized(request, auth, wanted, "this needs a token")
    guard = request.app[GUARD]
    try:
        grant = await asyncio.to_thread(guard.verifier.verify, token, guard.clock())
    except BadTokenError as error:
        # Why is for the operator: told to a forger, it would guide them.
        log().info("token.refused", problem=str(error))
        raise _unauthorized(
            request, auth, wanted, "the token isn't valid here", fault="invalid_token"
        ) from error
    if not grant.covers(wanted):
        raise _unauthorized(
            request, auth, wanted, "the token doesn't grant this", fault="insufficient_scope"
        )
    request[_SUBJECT] = grant.subject


def demanded(request: web.Request) -> Sequence[Access]:  # noqa: PLR0911  (one each)
    """Give what a token must grant for a request; nothing where no token is needed.

    The address is the router's, and the GUN is read by the very functions that the handlers read
    it with.
    """
    resource = request.match_info.route.resource
    place = "" if resource is None else resource.canonical
    if place in _OPEN:
        return ()
    try:
        match place:
            case "/v1/guns/{gun}":
                return _of_gun(parse_gun_path(request, "/v1/guns/"), "pull")
            case "/v1/guns/{gun}/pending" | "/v1/guns/{gun}/pending/{id}" | "/v1/guns/{gun}/audit":
                is_read = request.method in {"GET", "HEAD"}
                return _of_gun(proposal_path(request)[0], *(("pull",) if is_read else _PUBLISH))
            case "/v1/changes":
                gun = asked_gun(request)
                return _CATALOG if gun is None else _of_gun(gun, "pull")
            case "/v1/history/{gun}":
                return _of_gun(parse_gun_path(request, "/v1/history/"), "pull")
            case "/v2/{gun}/_trust/changefeed":
                return _of_gun(parse_feed_path(request), "pull")
            case "/v2/{path}":
                return _of_trust(request)
    except (InvalidNameError, RequestError, UsageError):
        pass  # no such address: its handler will say so to those who may know
    return _CATALOG


def _of_trust(request: web.Request) -> Sequence[Access]:
    gun, address = parse_trust_path(request)
    match request.method, address:
        case "GET" | "HEAD", FileAddress() | HashAddress():
            return _of_gun(gun, "pull")
        case ("GET" | "HEAD", KeyAddress()) | ("POST", SetAddress()):
            return _of_gun(gun, *_PUBLISH)
        case ("POST", KeyAddress()) | ("DELETE", SetAddress()):
            return _of_gun(gun, "*")
    return _CATALOG


def _of_gun(gun: Gun, *actions: str) -> Sequence[Access]:
    return tuple(Access("repository", gun, action) for action in actions)


def _bearer(request: web.Request) -> str | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def _unauthorized(
    request: web.Request,
    auth: TokenAuth,
    wanted: Sequence[Access],
    message: str,
    *,
    fault: str = "",
) -> UnauthorizedError:
    first = wanted[0]
    parameters = {
        "realm": _realm(request, auth),
        "service": auth.service,
        "scope": f"{first.type}:{first.name}:{','.join(item.action for item in wanted)}",
    }
    if fault:
        parameters["error"] = fault
    quoted = (f'{name}="{_quoted(value)}"' for name, value in parameters.items())
    detail = [
        {"Type": item.type, "Class": "", "Name": item.name, "Action": item.action}
        for item in wanted
    ]
    return UnauthorizedError(
        message, challenge="Bearer " + ",".join(quoted), access=detail, hint=_HINT
    )


def _realm(request: web.Request, auth: TokenAuth) -> str:
    host = request.headers.get("Host", "")
    if auth.auto_redirect and _HOST.fullmatch(host):
        return f"https://{host}/auth/token"
    return auth.realm


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
