"""Bearer tokens of a token service: signed JSON that says who may do what to which GUN.

The key is found first, then the algorithms that fit that very key are tried: nothing that the
token says widens what is accepted. Times are judged here, by the server's clock.

Spec: notary-v1 section 1.6; RFC 7515, RFC 7519; docker's token authentication.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import jwt

from tabellion.core import strict_json
from tabellion.errors import TabellionError
from tabellion_server.token_auth import TokenAuth
from tabellion_server.web.token_keys import BadTokenError, TokenKeys, algorithms_of

_LEEWAY_SECONDS: Final = 60
_MAX_TOKEN: Final = 16 * 1024
_MAX_GRANTS: Final = 200
_MAX_SUBJECT: Final = 200


@dataclass(frozen=True, slots=True)
class Access:
    """One thing that may be done: ``repository``, a GUN, and ``pull``, ``push`` or ``*``."""

    type: str
    name: str
    action: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid token says.

    Attributes:
        subject: Who holds it; "" for nobody in particular.
        access: What they may do.
    """

    subject: str
    access: frozenset[Access]

    def covers(self, wanted: Iterable[Access]) -> bool:
        """Tell whether all that is granted; the action ``*`` stands for every one."""
        return all(
            item in self.access or Access(item.type, item.name, "*") in self.access
            for item in wanted
        )


class TokenVerifier:
    """Judges tokens of one service."""

    def __init__(self, auth: TokenAuth) -> None:
        self._auth = auth
        self._keys = TokenKeys(auth.roots)

    def verify(self, token: str, now: datetime) -> Grant:
        """Give what a token grants at a moment. Blocks for the time of some signatures.

        Raises:
            BadTokenError: Malformed, not the service's, not for this one, expired or not yet valid.
        """
        if len(token) > _MAX_TOKEN:
            raise BadTokenError(f"longer than {_MAX_TOKEN} characters")
        if not token.isascii() or token.count(".") != 2:  # noqa: PLR2004  (RFC 7515: three parts)
            raise BadTokenError("not three parts of base64url")
        header = _object(token.partition(".")[0])
        if "crit" in header or "b64" in header:
            raise BadTokenError("its header demands an extension")
        key = self._keys.find(header, now)
        try:
            payload: bytes = jwt.PyJWS().decode(token, key=key, algorithms=algorithms_of(key))
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise BadTokenError(f"its signature isn't valid: {error}") from error
        try:
            claims = strict_json.parse(payload, max_bytes=_MAX_TOKEN, what="its claims")
        except TabellionError as error:
            raise BadTokenError(error.message) from error
        self._check(claims, now.timestamp())
        return Grant(_subject(claims), frozenset(_access(claims.get("access"))))

    def _check(self, claims: Mapping[str, Any], now: float) -> None:
        if claims.get("iss") != self._auth.issuer:
            raise BadTokenError(f"issued by {claims.get('iss')!r:.80}")
        audience = claims.get("aud")
        # Notary takes a text only; a list that names the service harms nobody.
        if self._auth.service not in (audience if isinstance(audience, list) else [audience]):
            raise BadTokenError(f"meant for {audience!r:.80}")
        expires, not_before = claims.get("exp"), claims.get("nbf", 0)
        if type(expires) is not int or type(not_before) is not int:
            raise BadTokenError("exp or nbf isn't a whole number")
        if now >= expires + _LEEWAY_SECONDS:
            raise BadTokenError("expired")
        if now < not_before - _LEEWAY_SECONDS:
            raise BadTokenError("not valid yet")


def _object(part: str) -> dict[str, Any]:
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        return strict_json.parse(data, max_bytes=_MAX_TOKEN, what="its header")
    except (binascii.Error, ValueError) as error:
        raise BadTokenError("its header isn't base64url") from error
    except TabellionError as error:
        raise BadTokenError(error.message) from error


def _subject(claims: Mapping[str, Any]) -> str:
    subject = claims.get("sub", "")
    if not isinstance(subject, str):
        raise BadTokenError("sub isn't a text")
    return "".join(char if char.isprintable() else "?" for char in subject)[:_MAX_SUBJECT]


def _access(entries: object) -> Collection[Access]:
    if entries is None:
        return ()
    if not isinstance(entries, list) or len(entries) > _MAX_GRANTS:
        raise BadTokenError(f"access isn't a list of up to {_MAX_GRANTS} entries")
    found: set[Access] = set()
    for entry in entries:
        members = entry if isinstance(entry, dict) else {}
        kind, name, actions = members.get("type"), members.get("name"), members.get("actions")
        if not isinstance(kind, str) or not isinstance(name, str):
            raise BadTokenError("an entry of access has no type or no name")
        # A service that grants nothing of what was asked says so by null.
        if not isinstance(actions or [], list):
            raise BadTokenError("an entry of access has actions that aren't a list")
        found.update(Access(kind, name, item) for item in actions or [] if isinstance(item, str))
    return found
