"""What a server's own faults, 500 and above, mean for who asked."""

from __future__ import annotations

import re
from typing import Final

import aiohttp

from tabellion.errors import ServerAnswerError

SERVER_FAULTS: Final = range(500, 600)
_PASSING: Final = frozenset({502, 503, 504})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(response: aiohttp.ClientResponse) -> str:
    """Give the id under which the server's log tells of a request; "" if it isn't told."""
    found = response.headers.get("X-Request-ID", "")
    return found if _REQUEST_ID.fullmatch(found) else ""


def server_fault(place: str, status: int, request: str) -> ServerAnswerError:
    """Make the error for an answer with such a status.

    Args:
        place: What was asked for.
        status: HTTP's.
        request: The request's id; "" if it isn't known.
    """
    log = f"its operator finds more in the log{f' under request id {request}' if request else ''}"
    if status in _PASSING:
        return ServerAnswerError(
            f"{place}: the server can't answer now ({status})",
            status=status,
            hint=f"try again in a moment; if that lasts, {log}",
        )
    return ServerAnswerError(
        f"{place}: the server failed to answer ({status})", status=status, hint=log
    )
