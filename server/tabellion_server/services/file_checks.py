"""Checking stored files one by one, old ones too: is each what its row says, and signed?

Timestamps, snapshots and targets are to be signed by the keys of one of the GUN's roots, which all
stay. Of delegated roles only what is current can be judged: of an old file the delegating one may
have been let go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import Root

from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.roles import TOP_LEVEL_ROLES, role_keys, verify_threshold
from tabellion.errors import ThresholdError, VerificationError
from tabellion_server.services.absences import Absences
from tabellion_server.storage.interface import FileInfo, StoredFile

_LIMITS: Final = Limits()

_Signers = tuple[Mapping[str, Key], Sequence[str], int]


class FileJudge:
    """Judges one GUN's files, given all its roots first; it holds the roots' keys alone."""

    def __init__(self, dialect: Dialect, absences: Absences) -> None:
        """Take the GUN's dialect, and what is told what its files name.

        What is older than its conversion is in Notary's.
        """
        self._absences = absences
        self._dialects = (TUF, NOTARY) if dialect is TUF else (dialect,)
        self._signers: dict[str, dict[tuple[int, bytes], _Signers]] = {}
        self._knows_all_roots = True

    def miss_root(self) -> None:
        """Be told that a root is lacking: then nobody knows whose signature an old file needs."""
        self._knows_all_roots = False

    def problem_of(self, file: StoredFile, info: FileInfo) -> str | None:
        """Tell what is wrong with a file whose SHA-256 is right, None if nothing is."""
        name = f"{file.role} version {file.version}"
        if len(file.data) != info.length:
            return f"{name} has {len(file.data)} bytes, not {info.length}"
        try:
            found, dialect = self._parse(file)
        except VerificationError as error:
            if file.role == "root":
                self.miss_root()
            return f"{name} can't be read: {error.message}"
        if file.role == "root":
            self._learn(found.signed)
        if found.version != file.version:
            return f"{name} says that it's version {found.version}"
        if file.role in TOP_LEVEL_ROLES and not self._is_signed(found):
            return f"{name} isn't signed by the keys of any root that is here"
        self._absences.look_into(file, found.signed, is_notary=dialect is NOTARY)
        return None

    def _parse(self, file: StoredFile) -> tuple[UnverifiedMetadata[Any], Dialect]:
        """Read a file in the GUN's dialect, or else in the one that it had; tell which it is.

        Raises:
            VerificationError: It's in neither; the words are those of the first.
        """
        limit = _LIMITS.max_bytes(file.role)
        first, *others = self._dialects
        try:
            return first.parse(file.role, file.data, max_bytes=limit), first
        except VerificationError:
            for other in others:
                try:
                    return other.parse(file.role, file.data, max_bytes=limit), other
                except VerificationError:
                    continue
            raise

    def _learn(self, root: Root) -> None:
        for role in TOP_LEVEL_ROLES:
            keys, entry = role_keys(root, role)
            listed = repr(sorted((keyid, keys[keyid].to_dict()) for keyid in entry.keyids))
            held = self._signers.setdefault(role, {})
            held[entry.threshold, listed.encode()] = (keys, entry.keyids, entry.threshold)

    def _is_signed(self, found: UnverifiedMetadata[Any]) -> bool:
        if not self._knows_all_roots:
            return True
        for signers in reversed(self._signers.get(found.role, {}).values()):
            try:
                verify_threshold(found, found.role, *signers)
            except ThresholdError:
                continue
            return True
        return False
