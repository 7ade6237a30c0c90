"""A signer's request: public keys, and the first, empty file of the role, signed by them.

A role that is delegated to but has no file ends every search that reaches it (TUF 5.6.7). With a
request the delegation and the file appear in one publication, and each key shows that its holder
has the private part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Targets

from tabellion.core import strict_json
from tabellion.core.dialect import TUF
from tabellion.core.names import Gun, parse_gun
from tabellion.core.roles import check_role_name, verify_threshold
from tabellion.errors import KeyStoreError, TabellionError, ThresholdError, UsageError
from tabellion.publish.public_keys import load_public_key

_KIND: Final = "signer-request"
_MEMBER: Final = "x-tabellion-request"
_MAX_BYTES: Final = 200_000
_HINT: Final = "the signer makes it with: tabellion signer request GUN NAME"


@dataclass(frozen=True)
class SignerRequest:
    """What somebody who wants to sign hands to the holder of the targets key.

    Attributes:
        gun: Where.
        role: The role's name.
        keys: Its public keys.
        file: Its first version, without targets, signed by every one of the keys; where the
            role gets other keys, by its present ones, too. The file names the request then, so
            that shows who asks, and for what. An empty one alone was published before.
    """

    gun: Gun
    role: str
    keys: tuple[Key, ...]
    file: bytes

    @classmethod
    def make(
        cls,
        gun: Gun,
        role: str,
        signers: Sequence[Signer],
        *,
        expires_at: datetime,
        replaced: Sequence[Signer] = (),
    ) -> SignerRequest:
        """Sign a role's first file, with the keys it has and ``replaced`` ones, if any.

        Raises:
            InvalidNameError: The role's name isn't portable.
        """
        check_role_name(role)
        keys = tuple(signer.public_key for signer in signers)
        asked = {_MEMBER: _asked(gun, role, keys)} if replaced else {}
        content = Targets(expires=expires_at, unrecognized_fields=asked)
        file = TUF.sign(content, [*signers, *replaced])
        return cls(gun, role, keys, file)

    def signed_too(self, signers: Sequence[Signer]) -> SignerRequest:
        """Add more holders' keys and signatures."""
        fresh = [item for item in signers if item.public_key.keyid not in self._keyids()]
        keys = (*self.keys, *(signer.public_key for signer in fresh))
        return SignerRequest(self.gun, self.role, keys, TUF.add_signature(self.file, fresh))

    def to_bytes(self) -> bytes:
        """Write it as JSON."""
        content = {
            "kind": _KIND,
            "gun": self.gun,
            "role": self.role,
            "keys": [{"keyid": key.keyid, **key.to_dict()} for key in self.keys],
            "file": self.file.decode("ascii"),
        }
        return json.dumps(content, indent=1).encode("ascii") + b"\n"

    def _keyids(self) -> list[str]:
        return [key.keyid for key in self.keys]


def is_request(data: bytes) -> bool:
    """Tell a request from a key file."""
    return data.lstrip()[:1] == b"{" and f'"{_KIND}"'.encode() in data


def read_request(data: bytes, *, what: str) -> SignerRequest:
    """Read a request, and check that each of its keys signed its file.

    Args:
        data: Its bytes, from anybody.
        what: Its name for error texts.

    Raises:
        KeyStoreError: It isn't one.
    """
    try:
        content = strict_json.parse(data, max_bytes=_MAX_BYTES, what=what)
        request = SignerRequest(
            parse_gun(str(content["gun"])),
            str(content["role"]),
            tuple(load_public_key(json.dumps(key).encode(), what=what) for key in content["keys"]),
            str(content["file"]).encode("ascii"),
        )
        check_role_name(request.role)
        _verify(request)
    except TabellionError as error:
        raise KeyStoreError(f"{what} can't be used: {error.message}", hint=_HINT) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KeyStoreError(f"{what} isn't a signer's request", hint=_HINT) from error
    return request


def is_by_present_holders(
    file: bytes,
    gun: str,
    role: str,
    *,
    wanted: Sequence[Key],
    present: Sequence[Key],
    threshold: int,
) -> bool:
    """Tell whether those who hold a role's present keys asked for just these others.

    Args:
        file: A request's file.
        gun: Where.
        role: The role.
        wanted: Keys that it's to get.
        present: Keys that it has.
        threshold: How many of them have to sign.
    """
    parsed = TUF.parse(role, file, max_bytes=_MAX_BYTES)
    if parsed.signed.unrecognized_fields.get(_MEMBER) != _asked(gun, role, wanted):
        return False
    held = {key.keyid: key for key in map(TUF.adopt_key, present)}
    try:
        verify_threshold(parsed, role, held, list(held), threshold)
    except ThresholdError:
        return False
    return True


def _asked(gun: str, role: str, keys: Sequence[Key]) -> dict[str, object]:
    return {"gun": gun, "role": role, "keys": sorted(key.keyid for key in keys)}


def _verify(request: SignerRequest) -> None:
    parsed = TUF.parse(request.role, request.file, max_bytes=_MAX_BYTES)
    content = parsed.signed
    if not isinstance(content, Targets) or content.targets or content.delegations:
        raise UsageError(f"the first file of {request.role} isn't empty")
    if content.version != 1:
        raise UsageError(f"the first file of {request.role} has version {content.version}")
    keys = {key.keyid: key for key in request.keys}
    verify_threshold(parsed, request.role, keys, list(keys), max(len(keys), 1))
