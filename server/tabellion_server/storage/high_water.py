"""The high-water mark: up to where a store's changes may have been told, in a file beside it.

A store restored from a backup doesn't know what it signed since, and would give those version
numbers out again. This file is no part of the store's backup and remembers: it names the highest
changefeed id that may be taken, is written ahead in blocks, and is exact after a clean end.

Source: design, promise 3; issue "Keys over years", part 6.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tabellion import atomic_file
from tabellion.core import strict_json
from tabellion.errors import MalformedMetadataError, MetadataTooLargeError
from tabellion_server.storage.interface import StorageError

BLOCK: Final = 64
"""Ids written ahead: so many may be missing after a crash, when nothing was lost."""

_MAX_BYTES: Final = 1024
_MAX_MARK: Final = 2**62


@dataclass(frozen=True, slots=True)
class Mark:
    """What the file says.

    Attributes:
        number: No change has a higher id.
        is_exact: There is a change of that id: the last process ended in order.
    """

    number: int
    is_exact: bool

    def may_be_restored(self, last: int) -> bool:
        """Tell whether a store whose last change has that id lacks some that were told."""
        return last < self.number - (0 if self.is_exact else BLOCK)


class HighWater:
    """The mark of one store, shared by all processes that have the store open. Blocks."""

    def __init__(self, path: Path) -> None:
        """Join those that use the mark; who is alone has it for itself until ``share``.

        Raises:
            StorageError: The file can't be read or isn't a mark.
        """
        self.path = path
        self._mark: Mark | None = None
        try:
            atomic_file.make_folder(path.parent)
            self._users = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        self.is_alone = self.try_alone()
        if not self.is_alone:
            self.share()

    def share(self) -> None:
        """Let others join, once what was found at the start is dealt with; wait for them to."""
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def read(self) -> Mark | None:
        """Read what the file says now; None if there's none yet.

        Raises:
            StorageError: It can't be read or isn't a mark.
        """
        try:
            self._mark = self._read()
        except OSError as error:
            raise self._unusable(error) from error
        return self._mark

    def cover(self, last: int, *, committed: int | None = None) -> None:
        """Have a mark no lower than a change about to be committed or told, on disk.

        Args:
            last: The change's id.
            committed: The newest that is committed, if known: should what is about to be never be,
                nothing is missed for it then.

        Raises:
            StorageError: It can't be written; the change must not be committed.
        """
        held = self._mark
        if held is None or last > held.number:
            with self._guarded():
                held = self.read()
                if held is None or last > held.number:
                    base = last if committed is None else committed
                    self._write(Mark(max(base + BLOCK, last), is_exact=False))

    def covers(self, last: int) -> bool:
        """Tell, without a look at the disk, whether the mark is known to be no lower."""
        return self._mark is not None and last <= self._mark.number

    def try_alone(self) -> bool:
        """Have the mark for itself, till ``share``, if nobody else uses it.

        If others do, this one isn't among them any more: of two that end, one finds itself alone.
        """
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def settle(self, last: int) -> None:
        """Write the exact mark, if nobody else has the store open.

        Args:
            last: The newest change; read while alone, or it may not be the newest any more.

        Raises:
            StorageError: It can't be written.
        """
        if self.try_alone():
            held = self.read()
            if held is not None and not held.may_be_restored(last):
                self._write(Mark(last, is_exact=True))

    def close(self) -> None:
        """Leave those that use the mark."""
        if self._users >= 0:
            os.close(self._users)
            self._users = -1

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keep other processes and threads from writing the mark meanwhile."""
        try:
            guard = os.open(f"{self.path}.guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield
        finally:
            os.close(guard)

    def _read(self) -> Mark | None:
        with contextlib.suppress(FileNotFoundError):
            with self.path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            return self._parse(data)
        return None

    def _parse(self, data: bytes) -> Mark:
        try:
            content: dict[str, Any] = strict_json.parse(data, max_bytes=_MAX_BYTES, what="mark")
        except (MalformedMetadataError, MetadataTooLargeError) as error:
            raise self._not_a_mark() from error
        number, is_exact = content.get("mark"), content.get("exact")
        if type(number) is not int or not 0 <= number <= _MAX_MARK or type(is_exact) is not bool:
            raise self._not_a_mark()
        return Mark(number, is_exact)

    def _write(self, mark: Mark) -> None:
        text = f'{{"mark": {mark.number}, "exact": {str(mark.is_exact).lower()}}}\n'
        try:
            atomic_file.write_atomic(self.path, text.encode())
        except OSError as error:
            raise self._unusable(error) from error
        self._mark = mark

    def _unusable(self, error: OSError) -> StorageError:
        return StorageError(
            f"high-water mark {self.path} can't be used: {error.strerror or error}",
            hint="give its folder back to the server: without it no version may be signed",
        )

    def _not_a_mark(self) -> StorageError:
        return StorageError(
            f"{self.path} isn't a high-water mark",
            hint="restore it from where it was; if it's lost, delete it and run "
            "tabellion-server accept-restore --skip 1000000",
        )
