"""Errors in the words that docker's and notary's clients know.

A client reads at most 1,024 bytes and wants exactly one error.

Spec: notary-v1 section 1.3, measured on notary-server 0.7.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tabellion.errors import (
    AccessDeniedError,
    ConflictError,
    InvalidNameError,
    MalformedMetadataError,
    MetadataTooLargeError,
    NotaryRefusalError,
    NotFoundError,
    TabellionError,
    UnknownGunError,
    UsageError,
)
from tabellion_server.web.request_errors import RequestError, UnauthorizedError

_MESSAGES: Final[Mapping[str, str]] = {
    "METADATA_NOT_FOUND": "You have requested metadata that does not exist.",
    "MALFORMED_UPLOAD": "The body of your request is malformed.",
    "NO_FILENAME": "No file/role name provided.",
    "INVALID_ROLE": "The role you are attempting to operate on is invalid.",
    "MALFORMED_JSON": "JSON sent by the client could not be parsed by the server",
    "INVALID_UPDATE": "Update sent by the client is invalid.",
    "VERSION": "A newer version of metadata is already available.",
    "INVALID_GUN": "The server does not support actions on images of this name.",
    "INVALID_PARAMETERS": "The parameters provided are not valid.",
    "UNAUTHORIZED": "authentication required",
    "UNKNOWN": "unknown error",
}
_MAX_TEXT: Final = 300
_MAX_ENCODED: Final = 600
_ENCODED_CHAR: Final = 12  # a character beyond the first plane, as JSON escapes it
_INTERNAL: Final = 500
_TOLD_STATUSES: Final = frozenset({401, 403, 404, 405, 408})


def notary_error(error: TabellionError, status: int) -> tuple[int, dict[str, Any]]:
    """Give status and document of an error.

    Args:
        error: What went wrong.
        status: The status that it has for everybody else.
    """
    code, detail = _code(error, status)
    entry: dict[str, Any] = {"code": code, "message": _MESSAGES[code]}
    if detail is not None:
        entry["detail"] = detail
    if code == "METADATA_NOT_FOUND" and status != 405:  # noqa: PLR2004
        status = 404
    if status < _INTERNAL and status not in _TOLD_STATUSES:
        status = 400
    return status, {"errors": [entry]}


def _code(error: TabellionError, status: int) -> tuple[str, object]:
    """Give Notary's code, and its detail: None for none."""
    if isinstance(error, NotaryRefusalError):
        return _refusal(error)
    if isinstance(error, MetadataTooLargeError) or status == 413:  # noqa: PLR2004
        return _invalid(error)  # Notary has no limits, so no code for them
    if isinstance(error, RequestError):
        return _REQUESTS.get(error.name, ("UNKNOWN", None))
    if status >= _INTERNAL:
        return "UNKNOWN", None
    for kind, code, detail in _ERRORS:
        if isinstance(error, kind):
            return code, error.access if isinstance(error, UnauthorizedError) else detail
    return _invalid(error)


def _invalid(error: TabellionError) -> tuple[str, object]:
    return "INVALID_UPDATE", {"Name": "ErrValidation", "Error": {"Msg": _cut(error.message)}}


def _cut(text: str) -> str:
    """Shorten what would make the answer longer than clients read."""
    cut = text[:_MAX_TEXT]
    return cut if len(json.dumps(cut)) <= _MAX_ENCODED else cut[: _MAX_ENCODED // _ENCODED_CHAR]


def _refusal(error: NotaryRefusalError) -> tuple[str, object]:
    text = _cut(error.told)
    details: Mapping[str, object] = {
        "INVALID_UPDATE": error.name and {"Name": error.name, "Error": {"Msg": text}},
        "INVALID_ROLE": text,
        "INVALID_GUN": text,
        "INVALID_PARAMETERS": text,
        "VERSION": {},
    }
    return error.code_name, details.get(error.code_name)


# The first class that fits decides.
_ERRORS: Final[tuple[tuple[type[TabellionError], str, object], ...]] = (
    (ConflictError, "VERSION", {}),
    (AccessDeniedError, "UNAUTHORIZED", []),
    (UnknownGunError, "METADATA_NOT_FOUND", {}),
    (NotFoundError, "METADATA_NOT_FOUND", {}),
    (MalformedMetadataError, "MALFORMED_JSON", None),
    (InvalidNameError, "METADATA_NOT_FOUND", None),
    (UsageError, "INVALID_PARAMETERS", {}),
)
_REQUESTS: Final[Mapping[str, tuple[str, object]]] = {
    "no-such-file": ("METADATA_NOT_FOUND", {}),
    "not-found": ("METADATA_NOT_FOUND", None),
    "method-not-allowed": ("METADATA_NOT_FOUND", None),
    "malformed-body": ("MALFORMED_UPLOAD", None),
    "usage": ("INVALID_PARAMETERS", {}),
}
