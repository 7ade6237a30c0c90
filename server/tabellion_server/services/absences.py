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
        version: Its version; None if what names it doesn't tell.
        by: Role, version and SHA-256 of the newest file that names it.
    """

    role: str
    key: str | int
    version: int | None
    by: tuple[str, int, str]

    @property
    def is_lost(self) -> bool:
        """Tell whether it's lost if it wasn't let go, or may never have been here."""
        return self.version is not None

    @property
    def problem(self) -> str:
        """Say it in words."""
        which = self.role if self.version is None else f"{self.role} version {self.version}"
        if isinstance(self.key, str):
            which += f" (SHA-256 {self.key[:_SHOWN_HEX]}...)"
        told = f"{self.by[0]} version {self.by[1]} names {which}, which isn't there"
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
        by = (file.role, file.version, file.sha256)
        for role, meta in named_by(signed):
            key = key_of(meta)
            if (role, key) not in self._here:
                version = None if is_notary else meta.version
                self._absent[role, key] = Absent(role, key, version, by)

    def found(self) -> Collection[Absent]:
        """Give what was found."""
        return list(self._absent.values())


def named_by(signed: Signed) -> Iterator[tuple[str, MetaFile]]:
    """Give the roles that a timestamp or snapshot names, and of each what it says."""
    if isinstance(signed, Timestamp):
        yield "snapshot", signed.snapshot_meta
    elif isinstance(signed, Snapshot):
        for name, meta in signed.meta.items():
            yield name.removesuffix(".json"), meta


def key_of(meta: MetaFile) -> str | int:
    """Give what names a role's file: its SHA-256 in hex, or else its version."""
    return (meta.hashes or {}).get("sha256") or meta.version
