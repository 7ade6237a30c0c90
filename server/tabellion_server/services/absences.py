"""What stored timestamps and snapshots name that isn't stored: let go by ``gc``, or lost.

Which of the two, the store's rows tell, see ``row_checks``. What Notary's files name may never have
been here: an import or a mirror takes what the other server still has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tuf.api.metadata import MetaFile, Signed, Snapshot, Timestamp

from tabellion_server.storage.interface import FileInfo, Head, StoredFile

_SHOWN_HEX: Final = 16


@dataclass(frozen=True, slots=True)
class Absent:
    """A file that isn't stored.

    Attributes:
        role: Its role.
        key: Its SHA-256 in hex if it's named by that, else its version.
        by: Role, version and SHA-256 of the newest file that names it.
        is_lost: If it wasn't let go it's lost; False where it may never have been here.
    """

    role: str
    key: str | int
    by: tuple[str, int, str]
    is_lost: bool

    @property
    def problem(self) -> str:
        """Say it in words."""
        key = self.key
        which = f"SHA-256 {key[:_SHOWN_HEX]}..." if isinstance(key, str) else f"version {key}"
        told = f"{self.by[0]} version {self.by[1]} names {self.role} {which}, which isn't there"
        return told if self.is_lost else f"{told}; it may not have come with the import"


class Absences:
    """Gathers what one GUN's files name in vain."""

    def __init__(self, head: Head, infos: Iterable[FileInfo]) -> None:
        """Take what is current, which is judged elsewhere, and what is stored."""
        self._here: set[tuple[str, str | int]] = set()
        for role, ref in head.files.items():
            self._here |= {(role, ref.version), (role, ref.sha256)}
        for info in infos:
            self._here |= {(info.role, info.version), (info.role, info.sha256)}
        self._absent: dict[tuple[str, str | int], Absent] = {}

    def look_into(self, file: StoredFile, signed: Signed, *, is_notary: bool) -> None:
        """Note what a timestamp or snapshot names and isn't here; older ones come first."""
        for role, key in named_by(signed):
            if (role, key) not in self._here:
                by = (file.role, file.version, file.sha256)
                self._absent[role, key] = Absent(role, key, by, is_lost=not is_notary)

    def found(self) -> Collection[Absent]:
        """Give what was found."""
        return list(self._absent.values())


def named_by(signed: Signed) -> Iterator[tuple[str, str | int]]:
    """Give what a timestamp or snapshot names: role, and SHA-256 in hex or else version."""
    if isinstance(signed, Timestamp):
        yield "snapshot", _key(signed.snapshot_meta)
    elif isinstance(signed, Snapshot):
        for name, meta in signed.meta.items():
            yield name.removesuffix(".json"), _key(meta)


def _key(meta: MetaFile) -> str | int:
    return (meta.hashes or {}).get("sha256") or meta.version
