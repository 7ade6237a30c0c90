"""Heads of GUNs in PostgreSQL: those asked for meanwhile share one indexed look-up.

A head is held in memory by the token that its commit drew. The look-up asks for tokens, and for
what is behind them only where it changed: a revision would do, but for a database restored beneath
a running server.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from tabellion_server.storage.head_questions import HeadQuestions
from tabellion_server.storage.interface import FileRef, Head, StoreCorruptionError
from tabellion_server.storage.postgres_link import Link
from tabellion_server.storage.postgres_water import Water
from tabellion_server.storage.values import moment_of

_MAX_REFS: Final = 50_000
_TOKENS: Final = (
    "SELECT c.last, h.gun, h.token FROM tabellion.counter c"
    " LEFT JOIN tabellion.heads h ON h.gun = ANY ($1::bytea[])"
)
HEADS: Final = (
    "SELECT h.gun, h.dialect, h.revision, h.changed_at, h.token,"
    " f.roles, f.versions, f.hashes, f.lengths,"
    " (SELECT last FROM tabellion.counter) AS last FROM {source} h CROSS JOIN LATERAL ("
    "SELECT array_agg(c.role) AS roles, array_agg(c.version) AS versions,"
    " array_agg(c.sha256) AS hashes, array_agg(c.length) AS lengths"
    " FROM tabellion.current c WHERE c.gun = h.gun) f"
)
"""Reads heads in one statement, so of one moment; ``source`` gives rows of ``heads``."""

_NAMED: Final = HEADS.format(source="tabellion.heads") + " WHERE h.gun = ANY ($1::bytea[])"


def head_of(row: Sequence[Any]) -> tuple[Head, int]:
    """Read a row of ``HEADS``: the head and its token."""
    gun, dialect, revision, changed_at, token, roles, versions, hashes, lengths, _ = row
    refs = {
        role.decode(): FileRef(version, sha256, length)
        for role, version, sha256, length in zip(
            roles or (), versions or (), hashes or (), lengths or (), strict=True
        )
    }
    return Head(gun.decode(), dialect, revision, refs, moment_of(changed_at)), token


class HeldHeads:
    """Heads in memory, bounded by the files they name; the ones held longest go first."""

    def __init__(self) -> None:
        self._heads: dict[bytes, tuple[Head, int]] = {}
        self._refs = 0

    def get(self, gun: bytes, token: int) -> Head | None:
        """Give the head that drew a token, if it's held."""
        held = self._heads.get(gun)
        return held[0] if held is not None and held[1] == token else None

    def put(self, gun: bytes, head: Head, token: int) -> None:
        """Hold a head that was read or committed."""
        self._drop(gun)
        self._heads[gun] = head, token
        self._refs += 1 + len(head.files)
        while self._refs > _MAX_REFS:
            self._drop(next(iter(self._heads)))

    def _drop(self, gun: bytes) -> None:
        held = self._heads.pop(gun, None)
        if held is not None:
            self._refs -= 1 + len(held[0].files)


class HeadReader(HeadQuestions):
    """Answers each question by a look-up that began after it was asked."""

    def __init__(self, link: Link, water: Water, held: HeldHeads) -> None:
        super().__init__(self._read_all)
        self._link = link
        self._water = water
        self._held = held

    async def _read_all(self, guns: list[str]) -> dict[str, Head | None]:
        names = {gun.encode(): gun for gun in guns}
        rows = await self._link.fetch(_TOKENS, list(names))
        if not rows:
            raise StoreCorruptionError(f"store {self._link.name} has lost its counter")
        await self._water.note(rows[0]["last"])
        tokens = {gun: token for _, gun, token in rows if gun is not None}
        found: dict[bytes, Head | None] = {
            gun: self._held.get(gun, token) for gun, token in tokens.items()
        }
        missing = [gun for gun, head in found.items() if head is None]
        if missing:
            found.update(dict.fromkeys(missing))  # dropped meanwhile, if it isn't read now
            found.update(await self._read(missing))
        return {name: found.get(gun) for gun, name in names.items()}

    async def _read(self, guns: Collection[bytes]) -> dict[bytes, Head | None]:
        heads: dict[bytes, Head | None] = {}
        for row in await self._link.fetch(_NAMED, list(guns)):
            head, token = head_of(row)
            await self._water.note(row["last"])
            self._held.put(row[0], head, token)
            heads[row[0]] = head
        return heads
