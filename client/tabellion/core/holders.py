"""Whose key is whose: names that a root or targets file gives its keys.

They stand beside the keys, in a member of their own: inside a key object they would change the id
that some clients compute over all of it (tuf-facts section 4, tough). The file's signatures cover
them. Nothing is decided by a name. Notary's files have no place for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tuf.api.metadata import Root, Targets

from tabellion.errors import InvalidNameError

MEMBER: Final = "x-tabellion-holders"
_MAX_NAME: Final = 64


def check_holder(name: str) -> str:
    """Accept a holder's name.

    Raises:
        InvalidNameError: Empty, over 64 characters, or not printable.
    """
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise InvalidNameError(
            f"{name[:80]!r} can't be a holder's name",
            hint=f"use up to {_MAX_NAME} printable characters",
        )
    return name


def holders_of(signed: object) -> dict[str, str]:
    """Give key id to holder, as far as a file names them fit for one line."""
    fields = signed.unrecognized_fields.get(MEMBER) if isinstance(signed, Root | Targets) else None
    if not isinstance(fields, dict):
        return {}
    return {
        keyid: name[:_MAX_NAME]
        for keyid, name in fields.items()
        if isinstance(name, str) and name and name.isprintable()
    }


def set_holders(signed: Root | Targets, names: Mapping[str, str]) -> None:
    """Name holders, beside those named before whose keys are still listed.

    Raises:
        InvalidNameError: A name isn't fit.
    """
    if isinstance(signed, Root):
        listed = signed.keys
    else:
        listed = signed.delegations.keys if signed.delegations is not None else {}
    merged = {**holders_of(signed), **{key: check_holder(name) for key, name in names.items()}}
    kept = {keyid: name for keyid, name in sorted(merged.items()) if keyid in listed}
    if kept:
        signed.unrecognized_fields[MEMBER] = kept
    else:
        signed.unrecognized_fields.pop(MEMBER, None)
