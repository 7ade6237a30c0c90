"""What a server's own faults, 500 and above, mean for who asked."""

from __future__ import annotations

import re
from typing import Final

import aiohttp

from tabellion.errors import ServerAnswerError

SERVER_FAULTS: Final = range(500, 600)
_PASSING: Final = frozenset({502, 503, 504})
_SECONDS: Final = re.compile(r"[0-9]{1,5}")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(response: aiohttp.ClientResponse) -> str:
    """Give the id under which the server's log tells of a request; "" if it isn't told."""
    found = response.headers.get("X-Request-ID", "")
    return found if _REQUEST_ID.fullmatch(found) else ""


def retry_hint(response: aiohttp.ClientResponse) -> str:
    """Give the advice to try again, after as long as the server asks for."""
    asked = response.headers.get("Retry-After", "")
    return f"try again in {asked} s" if _SECONDS.fullmatch(asked) else "try again in a moment"


def server_fault(place: str, status: int, request: str, *, again: str) -> ServerAnswerError:
    """Make the error for an answer with such a status.

    Args:
        place: What was asked for.
        status: HTTP's.
        request: The request's id; "" if it isn't known.
        again: The advice to try again.
    """
    log = f"its operator finds more in the log{f' under request id {request}' if request else ''}"
    if status in _PASSING:
        return ServerAnswerError(
            f"{place}: the server can't answer now ({status})",
            status=status,
            hint=f"{again}; if that lasts, {log}",
        )
    return ServerAnswerError(
        f"{place}: the server failed to answer ({status})", status=status, hint=log
    )
