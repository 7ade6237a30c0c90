"""The one map from errors to HTTP answers, in two forms.

RFC 9457, ``application/problem+json``, for GUNs of TUF 1.0 and for whoever accepts it; under
``/v2/`` else the form of docker's and notary's clients, see ``notary_errors``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from aiohttp import web

from tabellion.errors import (
    AccessDeniedError,
    ConflictError,
    InvalidNameError,
    KeyStoreError,
    MalformedMetadataError,
    MetadataTooLargeError,
    NotaryRefusalError,
    NotFoundError,
    PassphraseError,
    PublicationError,
    RefusedPublicationError,
    SignerError,
    TabellionError,
    ThresholdError,
    UnknownGunError,
    UsageError,
    VerificationError,
)
from tabellion_server.logs import log
from tabellion_server.storage.interface import (
    ClockError,
    RestoredStoreError,
    StorageError,
    StoreCorruptionError,
)
from tabellion_server.web.notary_errors import notary_error
from tabellion_server.web.request_errors import RequestError, UnauthorizedError
from tabellion_server.web.speech import speaks_notary

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The first class that fits decides.
_STATUSES: Final[tuple[tuple[type[TabellionError], int], ...]] = (
    (UnknownGunError, 404),
    (NotFoundError, 404),
    (NotaryRefusalError, 400),
    (AccessDeniedError, 401),
    (ConflictError, 409),
    (MetadataTooLargeError, 413),
    (MalformedMetadataError, 400),
    (RefusedPublicationError, 422),
    (VerificationError, 422),
    (PublicationError, 422),
    (InvalidNameError, 400),
    (KeyStoreError, 500),
    (SignerError, 503),
    (PassphraseError, 503),  # of a token that holds an online key
    (UsageError, 400),
    (StoreCorruptionError, 500),
    (StorageError, 503),
)
_TITLES: Final[Mapping[str, str]] = {
    "unknown-gun": "Unknown GUN",
    "not-found": "Not found",
    "access-denied": "Access denied",
    "version-conflict": "Somebody published first",
    "metadata-too-large": "Metadata too large",
    "malformed-metadata": "Malformed metadata",
    "publication-refused": "Publication refused",
    "invalid-name": "Invalid name",
    "threshold": "Too few valid signatures",
    "rollback": "Version went back",
    "expired-metadata": "Expired metadata",
    "storage": "Store unavailable",
    "store-corruption": "Store damaged",
    "clock-wrong": "Clock wrong",
    "store-restored": "Store restored from a backup",
    "key-store": "Server key unavailable",
    "signer": "Server key unavailable for now",
    "passphrase": "Server key unavailable for now",
    "notary-refusal": "Publication refused",
    "internal": "Internal error",
    "body-too-large": "Body too large",
    "malformed-body": "Malformed body",
    "method-not-allowed": "Method not allowed",
}
# A publisher needs other advice than a verifier: these errors' own hints are for the latter.
_UPLOAD_HINTS: Final[Mapping[type[TabellionError], str]] = {
    MalformedMetadataError: "nothing was changed; write the file anew and publish again",
    MetadataTooLargeError: "nothing was changed; split the role by delegations to keep it small",
    ThresholdError: "nothing was changed; have enough holders of that role's keys sign it",
    VerificationError: "nothing was changed; sign the file anew and publish again",
    RefusedPublicationError: "nothing was changed; mend that file and publish again",
}
_INTERNAL: Final = 500
_UNABLE: Final = "the server can't do that now"
_TOLD: Final[Mapping[type[TabellionError], tuple[str, str]]] = {
    RestoredStoreError: (
        "the server went back to a backup, and publishes nothing until that is accepted",
        "its operator runs: tabellion-server accept-restore",
    ),
    ClockError: (
        "the server's clock is so far behind that what it signs would be expired already",
        "its operator sets the clock, or its store's if that one is wrong",
    ),
}
_OWN_CHALLENGE: Final = 'Bearer realm="tabellion"'
_RETRY_SECONDS: Final = "2"
_UNKNOWN_METHODS: Final = frozenset({"PATCH", "OPTIONS"})  # Notary says 404 to the others


def problem_of(error: TabellionError, request_id: str) -> tuple[int, dict[str, Any]]:
    """Give status and problem document of an error."""
    if isinstance(error, RequestError):
        status, code = error.status, error.name
    else:
        status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
        code = error.code
    detail, hint = error.message, _hint(error)
    if status >= _INTERNAL:
        # What went wrong inside is for the log: texts of internal errors name paths and more.
        more = f"its log has more under the request id {request_id}"
        if status == 503:  # noqa: PLR2004
            more = f"try again in {_RETRY_SECONDS} s; if that lasts, {more}"
        told = (words for kind, words in _TOLD.items() if isinstance(error, kind))
        detail, hint = next(told, (_UNABLE, more))
    problem: dict[str, Any] = {
        "type": f"urn:tabellion:problem:{code}",
        "title": _TITLES.get(code, code.replace("-", " ").capitalize()),
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
        "request_id": request_id,
    }
    if isinstance(error, NotaryRefusalError) and error.code_name == "VERSION":
        status, problem["status"] = 409, 409
        problem |= {"code": ConflictError.code, "title": _TITLES[ConflictError.code]}
        problem["type"] = f"urn:tabellion:problem:{ConflictError.code}"
    for name in ("role", "keyid", "rule", "versions", "needed", "signed_by", "found", "expected"):
        value = getattr(error, name, None)
        if value is not None:
            problem[name] = value
    return status, problem


def _hint(error: TabellionError) -> str:
    if error.hint == type(error).default_hint and not isinstance(error, UnknownGunError):
        for kind, hint in _UPLOAD_HINTS.items():
            if isinstance(error, kind):
                return hint
    return error.hint


def _answer(request: web.Request, error: TabellionError, request_id: str) -> web.Response:
    status, problem = problem_of(error, request_id)
    if speaks_notary(request):
        status, document = notary_error(error, status)
        body, kind = (
            json.dumps(document, separators=(",", ":")).encode() + b"\n",
            "application/json",
        )
    else:
        body, kind = json.dumps(problem).encode(), "application/problem+json"
    headers = {"Cache-Control": "no-store"}
    if status == 503:  # noqa: PLR2004
        headers["Retry-After"] = _RETRY_SECONDS
    if status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = (
            error.challenge if isinstance(error, UnauthorizedError) else _OWN_CHALLENGE
        )
    charset = "utf-8" if kind == "application/json" else None
    return web.Response(
        status=status, body=body, content_type=kind, charset=charset, headers=headers
    )


def _is_probe(request: web.Request, status: int) -> bool:
    """Tell whether it's no refusal: each refresh asks for a root that isn't there yet."""
    return status == 404 and request.method in {"GET", "HEAD"}  # noqa: PLR2004


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem; nothing of the inside gets out."""
    request_id = str(structlog.contextvars.get_contextvars().get("request_id", ""))
    try:
        return await handler(request)
    except TabellionError as error:
        status, problem = problem_of(error, request_id)
        fields = {"code": problem["code"], "status": status, "problem": error.message}
        quiet = log().debug if _is_probe(request, status) else log().info
        write = log().error if status >= _INTERNAL else quiet
        write("request.refused", **fields)
        return _answer(request, error, request_id)
    except web.HTTPException as error:
        return _of_http(request, error, request_id)
    except Exception:  # noqa: BLE001  (the last net: logged whole, told in one line)
        log().exception("request.failed", path=request.path)
        failure = RequestError(
            "the server failed to answer",
            status=500,
            name="internal",
            hint=f"tell its operator the request id {request_id}",
        )
        return _answer(request, failure, request_id)


def _of_http(request: web.Request, error: web.HTTPException, request_id: str) -> web.StreamResponse:
    names = {
        404: ("not-found", "there is nothing at this address"),
        405: ("method-not-allowed", "this address doesn't take that method"),
        413: ("body-too-large", "the body is larger than this server takes"),
    }
    status = error.status
    if status == 405 and speaks_notary(request) and request.method not in _UNKNOWN_METHODS:  # noqa: PLR2004
        status = 404
    if status < 400:  # noqa: PLR2004
        raise error
    if status == 405 and speaks_notary(request):  # noqa: PLR2004
        return web.Response(status=status, headers={"Allow": error.headers.get("Allow", "")})
    name, detail = names.get(status, (error.reason.lower().replace(" ", "-"), error.reason))
    failure = RequestError(detail, status=status, name=name)
    answer = _answer(request, failure, request_id)
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer
