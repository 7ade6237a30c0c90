"""Signers of a whole namespace: declared once, carried by each GUN's own targets.

``<home>/declared.json`` holds the declarations, so that GUNs founded later get them as well. It
says what the owner wants; what verifiers go by is in each GUN.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tabellion import atomic_file
from tabellion.core import strict_json
from tabellion.core.dialect import TUF
from tabellion.core.freshness import verify_fresh
from tabellion.core.names import Gun, parse_gun
from tabellion.errors import CacheError, InvalidNameError, TabellionError, VerificationError
from tabellion.publish.changes import AddSigner, change_from_json, change_to_json
from tabellion.publish.outcome import Published

_MAX_BYTES: Final = 16_000_000
_REST: Final = "/**"


@dataclass(frozen=True)
class GunPrefix:
    """All GUNs under a path, such as ``registry.example/team/**``; not the path itself."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.endswith(_REST):
            raise InvalidNameError(
                f"{self.text[:80]!r} isn't a prefix of GUNs",
                hint="end it with /**, such as 'registry.example/team/**', quoted for the shell",
            )
        parse_gun(self.text.removesuffix(_REST))

    @property
    def beginning(self) -> str:
        """Give what each of its GUNs begins with, ``/`` at the end."""
        return self.text.removesuffix("**")

    def covers(self, gun: str) -> bool:
        """Tell whether a GUN lies under it."""
        return gun.startswith(self.beginning)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Declaration:
    """A signer of all GUNs under a prefix.

    Attributes:
        prefix: Which GUNs.
        signer: What each of them gets.
    """

    prefix: GunPrefix
    signer: AddSigner

    def for_gun_founded(self, now: datetime) -> AddSigner:
        """Give the signer for a GUN that is new; without its first file once that's expired."""
        if self.signer.file is None:
            return self.signer
        name = self.signer.name
        parsed = TUF.parse(name, self.signer.file, max_bytes=len(self.signer.file))
        try:
            verify_fresh(name, parsed.signed, now)
        except VerificationError:
            return replace(self.signer, file=None)
        return self.signer


class Declared:
    """The declarations of one home folder. Its methods block."""

    def __init__(self, home: Path) -> None:
        self.path = home / "declared.json"

    def all(self) -> list[Declaration]:
        """Give them, the oldest first.

        Raises:
            CacheError: The file can't be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable(error) from error
        try:
            content = strict_json.parse(data, max_bytes=_MAX_BYTES, what="declarations")
            return [_from_json(item) for item in content["declarations"]]
        except (TabellionError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(
                f"declarations {self.path} can't be read: {error}",
                hint="restore the file, or delete it and declare signers again",
            ) from error

    def of(self, gun: str) -> list[Declaration]:
        """Give those that a GUN falls under."""
        return [item for item in self.all() if item.prefix.covers(gun)]

    def put(self, declaration: Declaration) -> None:
        """Declare a signer, in the place of one of that name and prefix."""
        with self._locked():
            self._write([*self._without(declaration.prefix, declaration.signer.name), declaration])

    def drop(self, prefix: GunPrefix, name: str) -> bool:
        """Forget a declaration; tell whether there was one."""
        with self._locked():
            held, left = self.all(), self._without(prefix, name)
            self._write(left)
            return len(left) < len(held)

    def _without(self, prefix: GunPrefix, name: str) -> list[Declaration]:
        return [item for item in self.all() if (item.prefix, item.signer.name) != (prefix, name)]

    def _write(self, declarations: Sequence[Declaration]) -> None:
        listed = [
            {"prefix": item.prefix.text, "signer": change_to_json(item.signer)}
            for item in declarations
        ]
        atomic_file.write_atomic(self.path, json.dumps({"declarations": listed}, indent=1).encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with atomic_file.locked(self.path.with_suffix(".lock")):
                yield
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> CacheError:
        return CacheError(f"{self.path} can't be used: {error.strerror or error}")


def lacking_yet(declarations: Sequence[Declaration]) -> dict[str, str]:
    """Say why a GUN that other holders have to sign first has none of its signers yet."""
    why = "other holders have to sign the GUN first: add the signer then"
    return {each.signer.name: why for each in declarations}


async def give_declared(
    gun: Gun,
    declarations: Sequence[Declaration],
    apply: Callable[[str, AddSigner], Awaitable[Published]],
    *,
    now: datetime,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Give a new GUN its declared signers; gives those it has, and why it hasn't the others.

    The GUN is there, and its keys have to be told: no fault here is raised.
    """
    added: list[str] = []
    lacking: dict[str, str] = {}
    for declaration in declarations:
        name = declaration.signer.name
        try:
            outcome = await apply(gun, declaration.for_gun_founded(now))
        except TabellionError as error:
            lacking[name] = error.message
        else:
            if outcome.missing:
                lacking[name] = f"signatures are missing: pass {outcome.incomplete} on"
            else:
                added.append(name)
    return tuple(added), lacking


def _from_json(item: dict[str, Any]) -> Declaration:
    change = change_from_json(item["signer"])
    if not isinstance(change, AddSigner):
        raise ValueError(f"{str(item['signer'])[:40]!r} isn't a signer")  # noqa: TRY004  (as others)
    return Declaration(GunPrefix(str(item["prefix"])), change)
