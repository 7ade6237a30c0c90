"""Addresses under ``/v2/<gun>/_trust/tuf/``, read from the path as it was sent.

A role's name is percent-encoded whole, so ``team%2Falice`` is one role and the path must not be
decoded before it is taken apart.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from tabellion.core.names import Gun, parse_gun
from tabellion.errors import InvalidNameError, NotaryRefusalError
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.request_errors import RequestError

_MARK: Final = "/_trust/tuf/"
_FEED: Final = "/_trust/changefeed"
_FILE = re.compile(r"(?:([0-9]{1,19})\.)?([^/].*)\.json", re.DOTALL)
_BY_HASH = re.compile(r"([^/].*)\.([0-9a-f]{64}|[0-9A-Fa-f]{64,128})\.json", re.DOTALL)
_NOTARY_ROLE = re.compile(r"root|targets(?:/[^/\s]+)*|snapshot|timestamp")
_PROPOSAL = re.compile(r"/v1/guns/(.+)/(?:pending(?:/([0-9a-f]{64}))?|audit)", re.DOTALL)
_KEY = re.compile(r"(snapshot|timestamp)\.key")


@dataclass(frozen=True, slots=True)
class FileAddress:
    """A metadata file; no version means the current one.

    ``is_padded`` tells that the version was written with leading zeros, as only Notary takes it.
    """

    role: str
    version: int | None
    is_padded: bool = False


@dataclass(frozen=True, slots=True)
class HashAddress:
    """A metadata file by its hex SHA-256, as Notary's clients ask."""

    role: str
    sha256: str


@dataclass(frozen=True, slots=True)
class KeyAddress:
    """The server's public key for a role."""

    role: str


@dataclass(frozen=True, slots=True)
class SetAddress:
    """The GUN's whole metadata set, to publish to or to drop."""


Address = FileAddress | HashAddress | KeyAddress | SetAddress


def nothing_here() -> RequestError:
    """Make the answer to an address that can't exist."""
    return RequestError("there is nothing at this address", status=404, name="not-found")


def parse_trust_path(request: web.Request) -> tuple[Gun, Address]:
    """Take the request's path apart.

    Raises:
        RequestError: 404, no such form.
        InvalidNameError: The GUN's name is malformed.
    """
    raw = request.rel_url.raw_path
    before, mark, rest = raw.removeprefix("/v2/").partition(_MARK)
    if not raw.startswith("/v2/") or not mark:
        raise nothing_here()
    gun = parse_gun(decode(before))
    name = decode(rest)
    if not name:
        return gun, SetAddress()
    if key := _KEY.fullmatch(name):
        return gun, KeyAddress(key[1])
    if by_hash := _BY_HASH.fullmatch(name):
        return gun, HashAddress(by_hash[1], by_hash[2])
    if file := _FILE.fullmatch(name):
        return gun, FileAddress(
            file[2], int(file[1]) if file[1] else None, (file[1] or "").startswith("0")
        )
    raise nothing_here()


_OPERATIONS: Final[Mapping[tuple[str, type], str]] = {
    ("GET", FileAddress): "GetRole",
    ("GET", HashAddress): "GetRoleByHash",
    ("GET", KeyAddress): "GetKey",
    ("POST", KeyAddress): "RotateKey",
    ("POST", SetAddress): "UpdateTUF",
    ("DELETE", SetAddress): "DeleteTUF",
}


def operation_of(method: str, address: Address) -> str:
    """Name what is asked as Notary's metrics do; empty for what isn't counted."""
    if isinstance(address, FileAddress) and address.version is not None and method == "GET":
        return "GetRoleByVersion"
    return _OPERATIONS.get((method, type(address)), "")


def check_gun_prefix(request: web.Request, gun: Gun) -> None:
    """Accept a GUN whose name begins as this server's GUNs do.

    Raises:
        NotaryRefusalError: 400, an upload to another.
        RequestError: 404, anything else of another.
    """
    prefixes = request.app[CONTEXT].settings.gun_prefixes
    if not prefixes or gun.startswith(prefixes):
        return
    if request.method != "POST" or not request.rel_url.raw_path.endswith(_MARK):
        raise nothing_here()
    raise NotaryRefusalError(
        f"Require GUNs with prefix: [{' '.join(prefixes)}]",
        code_name="INVALID_GUN",
        hint="publish under such a name, or ask the operator for notary.gun_prefixes",
    )


def redirect_to_clean_path(request: web.Request) -> None:
    """Send a client that wrote ``//``, ``/./`` or ``/../`` to the plain form, as Notary does.

    Raises:
        web.HTTPMovedPermanently: The path isn't plain.
    """
    raw = request.rel_url.raw_path
    clean = "/" + posixpath.normpath(raw).lstrip("/")
    if raw.endswith("/") and clean != "/":
        clean += "/"
    if clean != raw:
        raise web.HTTPMovedPermanently(clean)


def is_notary_role(role: str) -> bool:
    """Tell whether a role's name could be read at all from a Notary server."""
    return _NOTARY_ROLE.fullmatch(role) is not None


def parse_gun_path(request: web.Request, prefix: str) -> Gun:
    """Give the GUN that is all of the path behind ``prefix``.

    Raises:
        InvalidNameError: Malformed.
    """
    return parse_gun(decode(request.rel_url.raw_path.removeprefix(prefix)))


def proposal_path(request: web.Request) -> tuple[Gun, str]:
    """Give the GUN of a path that ends in ``/pending``, a proposal's id, or ``/audit``; and the id.

    A GUN whose own name ends so is asked for with ``%2F`` before its last part.

    Raises:
        InvalidNameError: Malformed.
        RequestError: 404, no such form.
    """
    match = _PROPOSAL.fullmatch(request.rel_url.raw_path)
    if match is None:
        raise nothing_here()
    return parse_gun(decode(match[1])), match[2] or ""


def parse_feed_path(request: web.Request) -> Gun:
    """Give the GUN whose changefeed is asked for.

    Raises:
        InvalidNameError: Malformed.
    """
    raw = request.rel_url.raw_path.removeprefix("/v2/").removesuffix(_FEED)
    return parse_gun(decode(raw))


def decode(text: str) -> str:
    """Undo percent-encoding once.

    Raises:
        InvalidNameError: Not UTF-8.
    """
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidNameError("the address isn't UTF-8", hint="percent-encode UTF-8") from error
