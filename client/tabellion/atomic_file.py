"""Small files that survive a crash: written aside, synced, renamed; a lock between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, sync_folder: bool = True) -> None:
    """Replace a file with mode 0600; whoever reads sees the old or the new one, whole.

    Args:
        path: The file; its folder is made if need be.
        data: Its new content.
        sync_folder: The new one also outlives a loss of power, at the price of a second sync.

    Raises:
        OSError: It can't be written; the old one is as it was.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    if sync_folder:
        _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file for good; fine if it isn't there.

    Raises:
        OSError: It can't be deleted.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder, readable by its owner only.

    Raises:
        OSError: It can't be made.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes of this machine respect; the kernel frees it on death.

    Raises:
        OSError: The lock file can't be made.
    """
    make_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
