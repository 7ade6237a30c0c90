"""What a publication is made of, what it is judged on, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Snapshot, Targets

from tabellion.core.dialect import Dialect
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.roles import key_material


@dataclass(frozen=True)
class CurrentSet:
    """What a GUN serves now, only read and never changed: callers may share it.

    Attributes:
        files: Role to current file, ``root``, ``snapshot`` and ``timestamp`` among them.
        dialect: How they are written.
    """

    files: Mapping[str, UnverifiedMetadata[Any]]
    dialect: Dialect

    @classmethod
    def parse(
        cls, files: Mapping[str, bytes], dialect: Dialect, *, limits: Limits | None = None
    ) -> CurrentSet:
        """Read the files of every role.

        Raises:
            VerificationError: One is malformed or too large.
        """
        limits = limits or Limits()
        parsed = {
            role: dialect.parse(role, data, max_bytes=limits.max_bytes(role))
            for role, data in files.items()
        }
        return cls(parsed, dialect)


class ServedFiles(Mapping[str, UnverifiedMetadata[Any]]):
    """Files by role, each read when it's first looked at: a GUN may have thousands of bins.

    Args:
        names: Roles there are.
        read: Gives the file of one; it may block.
    """

    def __init__(
        self, names: Collection[str], read: Callable[[str], UnverifiedMetadata[Any]]
    ) -> None:
        self._names = frozenset(names)
        self._read = read
        self._held: dict[str, UnverifiedMetadata[Any]] = {}

    def __getitem__(self, role: str) -> UnverifiedMetadata[Any]:
        if role not in self._names:
            raise KeyError(role)
        if role not in self._held:
            self._held[role] = self._read(role)
        return self._held[role]

    def __contains__(self, role: object) -> bool:
        return role in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class UploadedFile:
    """One file of an upload, unverified."""

    role: str
    data: bytes


@dataclass(frozen=True)
class OnlineKeys:
    """The server's own public keys for a GUN.

    Attributes:
        snapshot: Keys it can sign snapshots with.
        timestamp: Keys it can sign timestamps with.
    """

    snapshot: Sequence[Key]
    timestamp: Sequence[Key]

    def of(self, role: str) -> Sequence[Key]:
        """Give the keys of one of the two roles."""
        return self.snapshot if role == "snapshot" else self.timestamp


@dataclass(frozen=True)
class Publication:
    """An accepted publication.

    Attributes:
        dialect: Dialect of the GUN.
        roots: New roots, in order of version; may be empty.
        targets: New targets roles.
        snapshot: The publisher's own snapshot; None if the server signs it.
        root: The root in force afterwards.
        needs_snapshot: The server has to sign a new snapshot.
        unchanged: Everything uploaded is served already: there's nothing to do.
        dropped: Roles that the server's snapshot lists no longer.
        relisted: Stored files that the server's snapshot lists again.
    """

    dialect: Dialect
    roots: tuple[UnverifiedMetadata[Root], ...]
    targets: Mapping[str, UnverifiedMetadata[Targets]]
    snapshot: UnverifiedMetadata[Snapshot] | None
    root: UnverifiedMetadata[Root]
    needs_snapshot: bool
    unchanged: bool = False
    dropped: frozenset[str] = frozenset()
    relisted: Mapping[str, UnverifiedMetadata[Targets]] = field(default_factory=dict)


def holds_threshold(root: Root, role: str, held: Sequence[Key]) -> bool:
    """Tell whether these keys can sign for a root's role.

    By id and material: the server looks its keys up by id when it signs.
    """
    material = {(key.keyid, key_material(key)) for key in held}
    entry = root.roles[role]
    ours = {(keyid, key_material(root.keys[keyid])) for keyid in entry.keyids} & material
    return len(ours) >= entry.threshold
