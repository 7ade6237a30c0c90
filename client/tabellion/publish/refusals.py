"""What a server's refusal stands for, whichever form it comes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tabellion.core import strict_json
from tabellion.errors import (
    AccessDeniedError,
    ConflictError,
    NotFoundError,
    PublicationError,
    RefusedPublicationError,
    ServerAnswerError,
    TabellionError,
)
from tabellion.transport.server_faults import SERVER_FAULTS

MAX_ANSWER: Final = 4_000_000
"""Longest answer that is read, in bytes."""
_MAX_TEXT: Final = 500
_DENIED: Final = frozenset({401, 403})


def versions_of(value: object) -> dict[str, int]:
    """Give versions by role, as far as an answer has them."""
    return {
        str(role): version
        for role, version in (value.items() if isinstance(value, dict) else ())
        if type(version) is int
    }


def refusal(  # noqa: PLR0911  (one each)
    gun: str, status: int, body: bytes, *, request: str = "", again: str = "try again in a moment"
) -> TabellionError:
    """Turn an RFC 9457 answer, or anything else, into the error it stands for.

    Args:
        gun: What was published.
        status: HTTP's.
        body: The answer.
        request: The id under which the server's log tells more; "" if it isn't known.
        again: The advice to try again, where that may help.
    """
    try:
        problem = strict_json.parse(body, max_bytes=MAX_ANSWER, what="the answer")
    except TabellionError:
        problem = {}
    notary = problem.get("errors")
    if isinstance(notary, list) and notary and isinstance(notary[0], dict):
        return _notary(gun, status, notary[0], _with_id(again, request))
    detail = one_line(problem.get("detail")) or f"the server answered {status}"
    message, hint = f"{gun}: {detail}", one_line(problem.get("hint"))
    code = one_line(problem.get("code")) or f"http-{status}"
    if code == ConflictError.code:
        return ConflictError(message, versions=versions_of(problem.get("versions")), hint=hint)
    if status in _DENIED:
        return AccessDeniedError(message, hint=hint or "set TABELLION_TOKEN to a publisher's token")
    if status == 404:  # noqa: PLR2004  (HTTP's own number)
        return NotFoundError(message, hint=hint or "check the server's address")
    if status in SERVER_FAULTS or status == 429:  # noqa: PLR2004
        return ServerAnswerError(message, status=status, hint=_with_id(hint or again, request))
    if "code" not in problem:
        return ServerAnswerError(message, status=status, hint="is this a Tabellion server?")
    refused: PublicationError = RefusedPublicationError(
        message,
        rule=one_line(problem.get("rule")) or code,
        role=one_line(problem.get("role")) or None,
        keyid=one_line(problem.get("keyid")) or None,
        hint=hint,
    )
    return refused


def _with_id(hint: str, request: str) -> str:
    return hint if not request or request in hint else f"{hint} (request id {request})"


def _notary(gun: str, status: int, error: Mapping[str, Any], again: str) -> TabellionError:
    """Turn an error in Notary's form into the one it stands for."""
    code, told = one_line(error.get("code")), error.get("detail")
    detail = told if isinstance(told, dict) else {}
    inner = detail.get("Error")
    reason = one_line(inner.get("Msg")) if isinstance(inner, dict) else one_line(told)
    message = (
        f"{gun}: {reason or one_line(error.get('message')) or f'the server answered {status}'}"
    )
    if code == "VERSION":
        return ConflictError(message, versions={})
    if status in _DENIED:
        return AccessDeniedError(message, hint="set TABELLION_TOKEN to a publisher's token")
    if status == 404:  # noqa: PLR2004  (HTTP's own number)
        return NotFoundError(message, hint="check the server's address")
    if status in SERVER_FAULTS:
        return ServerAnswerError(message, status=status, hint=again)
    return RefusedPublicationError(message, rule=one_line(detail.get("Name")) or code)


def one_line(value: object) -> str:
    """Give a server's text fit for one line of a terminal."""
    if not isinstance(value, str):
        return ""
    return "".join(char if char.isprintable() else " " for char in value)[:_MAX_TEXT].strip()
