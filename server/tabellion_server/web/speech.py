"""Which form of answers the sender of a request reads."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from tabellion.core.dialect import TUF, Dialect

PROBLEM_TYPE: Final = "application/problem+json"
_DIALECT = web.RequestKey("dialect", Dialect)


def note_dialect(request: web.Request, dialect: Dialect) -> None:
    """Keep which dialect the request's GUN speaks, as soon as that's known."""
    request[_DIALECT] = dialect


def accepts_problems(request: web.Request) -> bool:
    """Tell whether the sender asks for RFC 9457 problems, as our own client does."""
    return PROBLEM_TYPE in request.headers.get("Accept", "")


def speaks_notary(request: web.Request) -> bool:
    """Tell whether the answer is for one of Notary's clients: all that isn't known otherwise."""
    path = request.rel_url.raw_path
    if not path.startswith(("/v2", "/_notary_server/")) and path != "/":
        return False
    return request.get(_DIALECT) is not TUF and not accepts_problems(request)
