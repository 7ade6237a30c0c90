"""Temporary folders that don't stay behind, even after a ``kill -9``.

While any process that has one lives it's locked; the next who wants one of its kind removes those
that nobody has locked any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Have a folder for as long as the block lasts, whose name begins so. Blocks.

    Whoever is forked within has the lock, too.
    """
    _remove_left_ones(prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = _locked(folder, waits=True)
        if lock is not None and folder.exists():
            break
        # Another start took it for one that was left.
        if lock is not None:
            os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left_ones(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        lock = _locked(folder, waits=False)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path, *, waits: bool) -> int | None:
    """Lock a folder of this user's; None if it's another's, locked already, or gone."""
    try:
        found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(found).st_uid != os.geteuid():
            raise PermissionError
        fcntl.flock(found, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except OSError:
        os.close(found)
        return None
    return found
