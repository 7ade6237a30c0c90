"""Patterns of GUNs, and which of several speaks for a GUN: the most specific, never a union.

===========  ==========================================================
``a/b``      that GUN
``a/*``      every GUN with one more part: ``a/b``, neither ``a`` nor ``a/b/c``
``a/**``     every GUN with one or more further parts
``*, **``    every GUN of one part, every GUN
===========  ==========================================================

A longer prefix is more specific; of the same prefix, ``*`` is more than ``**``. Capitals count.

As a target path a pattern is one part, so that the path pattern ``a+*`` of a delegation covers all
that lies under ``a/``, whatever its depth: parts are joined by ``+``, ``@one`` and ``@all`` stand
for the wildcards, and ``@XX`` for each byte of UTF-8 beside letters, digits and ``. _ -``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tabellion.core.names import parse_gun
from tabellion.errors import InvalidNameError

_PLAIN = re.compile(r"[A-Za-z0-9._-]")
_PART = re.compile(r"(?:[A-Za-z0-9._-]|@[0-9A-F]{2})+")
_ESCAPE = re.compile(rb"@([0-9A-F]{2})")
_WILD_PATHS: Final = {"*": "@one", "**": "@all"}
_PATH_WILDS: Final = {path: wild for wild, path in _WILD_PATHS.items()}


@dataclass(frozen=True, slots=True)
class GunPattern:
    """One pattern.

    Attributes:
        parts: Parts of the GUN, or of what it begins with.
        wild: ``*``, ``**``, or empty for that very GUN.
    """

    parts: tuple[str, ...]
    wild: str = ""

    @classmethod
    def parse(cls, text: str) -> GunPattern:
        """Read a pattern as people write it.

        Raises:
            InvalidNameError: Anything else than a GUN, or a beginning of one and ``/*`` or ``/**``.
        """
        head, slash, last = text.rpartition("/")
        wild = last if last in _WILD_PATHS else ""
        if wild and not slash:
            return cls((), wild)
        try:
            return cls(tuple(parse_gun(head if wild else text).split("/")), wild)
        except InvalidNameError as error:
            raise InvalidNameError(
                f"{text[:80]!r} isn't a pattern of GUNs: {error.message}",
                hint="a pattern looks like registry.example/app, registry.example/* or "
                "registry.example/**",
            ) from error

    @classmethod
    def of_path(cls, path: str) -> GunPattern:
        """Read a pattern from its target path.

        Raises:
            InvalidNameError: It's no such path, or not the one that the pattern has.
        """
        *parts, last = path.split("+")
        wild = _PATH_WILDS.get(last, "")
        if not wild:
            parts.append(last)
        try:
            if not all(_PART.fullmatch(part) for part in parts):
                raise ValueError  # noqa: TRY301  (one message for all)
            found = cls.parse("/".join([*map(_decoded, parts), *([wild] if wild else [])]))
        except (ValueError, InvalidNameError):
            found = None
        if found is None or found.path != path:
            raise InvalidNameError(
                f"target {path[:80]!r} isn't an anchor's",
                hint="anchors are made with: tabellion anchors set",
            )
        return found

    @property
    def path(self) -> str:
        """Give the target path, one part long."""
        tail = [_WILD_PATHS[self.wild]] if self.wild else []
        return "+".join([*map(_encoded, self.parts), *tail])

    def covers(self, gun: str, *, in_any_case: bool = False) -> bool:
        """Tell whether a GUN is one of those meant.

        Args:
            gun: The GUN.
            in_any_case: Small letters and capitals are the same.
        """
        own, parts = self.parts, tuple(gun.split("/"))
        if in_any_case:
            own, parts = _folded(own), _folded(parts)
        if not self.wild:
            return parts == own
        more = len(parts) - len(own)
        return parts[: len(own)] == own and (more == 1 if self.wild == "*" else more >= 1)

    def gives_way_to(self, other: GunPattern) -> bool:
        """Tell whether another pattern speaks in its place for some of its GUNs."""
        if not other.wild:
            return self != other and self.covers("/".join(other.parts))
        is_below = other.parts[: len(self.parts)] == self.parts
        return self != other and self.wild == "**" and is_below

    def __str__(self) -> str:
        return "/".join([*self.parts, *([self.wild] if self.wild else [])])


def patterns_for(gun: str) -> list[GunPattern]:
    """List all patterns that cover a GUN, the most specific first."""
    parts = tuple(gun.split("/"))
    found = [GunPattern(parts), GunPattern(parts[:-1], "*")]
    found += [GunPattern(parts[:count], "**") for count in range(len(parts) - 1, -1, -1)]
    return found


def _encoded(part: str) -> str:
    return "".join(
        char if _PLAIN.fullmatch(char) else "".join(f"@{byte:02X}" for byte in char.encode())
        for char in part
    )


def _decoded(part: str) -> str:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), part.encode()).decode()


def _folded(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.casefold() for part in parts)
