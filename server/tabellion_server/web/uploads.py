"""Reading a publication's multipart body within bounds."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from aiohttp import BodyPartReader, ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from tabellion.core.limits import Limits
from tabellion.core.notary_delegations import is_delegation_name
from tabellion.core.publication import UploadedFile
from tabellion.core.roles import TOP_LEVEL_ROLES, check_role_name
from tabellion.errors import (
    InvalidNameError,
    MetadataTooLargeError,
    NotaryRefusalError,
    TabellionError,
)
from tabellion_server.web.request_errors import RequestError

_MAX_PARTS: Final = 300
_NUMBERED_ROOT: Final = re.compile(r"[1-9][0-9]{0,17}\.root")
_CHUNK_BYTES: Final = 64 * 1024
_BODY_SECONDS: Final = 120.0
_FORM_HINT: Final = "send multipart/form-data, one part 'files' per role, its filename the role"

# In all these ways aiohttp's reader says that a body isn't multipart or came short.
_NOT_MULTIPART: Final = (
    ValueError,
    AssertionError,
    LookupError,
    RuntimeError,
    OSError,
    ClientError,
    HttpProcessingError,
    Warning,
)


async def read_upload(
    request: web.Request, *, max_bytes: int, is_lenient: bool
) -> list[UploadedFile]:
    """Read all files of a publication; nothing is judged yet.

    A filename is a role with or without ``.json``; several roots are ``1.root``, ``2.root``. For
    Notary's clients the field's name doesn't matter, and there may be no file at all.

    Raises:
        RequestError: 400, 408, 413 or 415, not such a body.
        MetadataTooLargeError: A file is above its role's limit.
        InvalidNameError: A role's name isn't portable.
        NotaryRefusalError: The same, or no name, in Notary's words.
    """
    if request.content_type != "multipart/form-data":
        raise _malformed("the body isn't multipart/form-data", status=415)
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise _malformed("the body is compressed", status=415)
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await _read_parts(request, max_bytes, is_lenient=is_lenient)
    except TimeoutError as error:
        raise _malformed("the body didn't arrive in time", status=408) from error
    except TabellionError:
        raise
    except _NOT_MULTIPART as error:
        raise _malformed("the body is cut short or isn't well-formed multipart") from error


async def _read_parts(
    request: web.Request, max_bytes: int, *, is_lenient: bool
) -> list[UploadedFile]:
    upload: list[UploadedFile] = []
    left = max_bytes
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader):
            raise _malformed("a part holds parts")
        if not part.filename and is_lenient:
            raise NotaryRefusalError("a part has no filename", code_name="NO_FILENAME")
        if not part.filename or (part.name != "files" and not is_lenient):
            raise _malformed("a part isn't a file named 'files' with a filename")
        if len(upload) == _MAX_PARTS:
            raise RequestError(
                f"the publication has more than {_MAX_PARTS} files",
                status=413,
                name="body-too-large",
                hint="publish in several steps",
            )
        role = part.filename.removesuffix(".json")
        kind = _kind(role, is_lenient=is_lenient)
        data = bytearray()
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            data += chunk
            left -= len(chunk)
            if left < 0:
                raise _too_large(max_bytes)
            if len(data) > (limit := Limits().max_bytes(kind)):
                raise MetadataTooLargeError(f"{role[:80]} is larger than {limit} bytes")
        upload.append(UploadedFile(role, bytes(data)))
    return upload


def check_notary_role(role: str) -> None:
    """Accept a role that a Notary upload may hold.

    Raises:
        NotaryRefusalError: Neither a top-level role nor ``targets/`` and a clean lower-case path.
    """
    if role not in TOP_LEVEL_ROLES and not is_delegation_name(role):
        raise NotaryRefusalError(role, code_name="INVALID_ROLE")


def _kind(role: str, *, is_lenient: bool) -> str:
    if _NUMBERED_ROOT.fullmatch(role):
        return "root"
    if role not in TOP_LEVEL_ROLES:
        try:
            check_role_name(role)
        except InvalidNameError:
            if is_lenient:
                check_notary_role(role)
            raise
    return role


def _malformed(message: str, *, status: int = 400) -> RequestError:
    return RequestError(message, status=status, name="malformed-body", hint=_FORM_HINT)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        f"the publication is larger than {max_bytes} bytes",
        status=413,
        name="body-too-large",
        hint="publish in several steps, or ask the operator for a larger server.max_body_bytes",
    )
