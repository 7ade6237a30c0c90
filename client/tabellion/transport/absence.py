"""What it means that a server has nothing of a GUN that isn't known here either.

A trust server says so itself, by a problem document; a notary-server by an error of its own. Any
other server that answers is the wrong one: a typing error in its address must not read as "nobody
signs this".
"""

from __future__ import annotations

import json
from typing import Final

from tabellion.errors import NotFoundError, ServerAnswerError, TabellionError, UnknownGunError

_PROBLEM: Final = "urn:tabellion:problem:"
_NOTARY_ABSENCE: Final = "METADATA_NOT_FOUND"
_OK: Final = 200
_NOT_FOUND: Final = 404


def problem_code(body: bytes) -> str:
    """Give the code in a trust server's problem document, or "" if it isn't one."""
    try:
        content = json.loads(body)
        if "errors" in content:
            is_notary = content["errors"][0]["code"] == _NOTARY_ABSENCE
            return UnknownGunError.code if is_notary else ""
        kind = content["type"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
    is_ours = isinstance(kind, str) and kind.startswith(_PROBLEM)
    return kind.removeprefix(_PROBLEM) if is_ours else ""


def unknown_gun(gun: str, url: str, error: NotFoundError) -> TabellionError:
    """Make the error for a GUN that isn't there: the server's word, or not even a trust server."""
    if error.problem == UnknownGunError.code:
        return UnknownGunError(f"nothing is signed in {gun}")
    return _wrong_server(url, _NOT_FOUND)


def check_is_no_page(url: str, body: bytes) -> bytes:
    """Give the body back if it isn't a web page.

    Raises:
        ServerAnswerError: It is one.
    """
    if body.lstrip()[:1] == b"<":
        raise _wrong_server(url, _OK)
    return body


def _wrong_server(url: str, status: int) -> ServerAnswerError:
    server = url.partition("/v1/")[0].partition("/v2/")[0]
    return ServerAnswerError(
        f"{server} doesn't answer as a trust server",
        status=status,
        hint="check --server or TABELLION_SERVER, and the name",
    )
