"""Who may write: holders of the token, or, where there is none, programs on this machine."""

from __future__ import annotations

import hmac

from aiohttp import web

from tabellion.errors import AccessDeniedError
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.request_errors import RequestError


def check_write_access(request: web.Request) -> None:
    """Return if the sender may write.

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
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    fits = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode())
    if scheme.lower() != "bearer" or not fits:
        raise AccessDeniedError(
            "writing here needs the server's write token",
            hint="send it as Authorization: Bearer TOKEN; its operator has it",
        )
