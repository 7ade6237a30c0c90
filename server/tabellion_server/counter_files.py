"""The folder of files by which several workers share their counters.

It's made anew at each start, so nothing old is counted, and removed at the end. While any process
of that start lives it's locked; after a ``kill -9`` of all, the next start removes what they left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus-client finds it; read when that is imported."""

WORKER: Final = "TABELLION_WORKER_NUMBER"
"""The variable that names a worker's files: who takes a dead one's place counts on in them."""

_PREFIX: Final = "tabellion-metrics-"


@contextmanager
def counter_files() -> Iterator[None]:
    """Have such a folder for as long as the block lasts. Blocks.

    Whoever is forked within has the lock, too.
    """
    _remove_left_ones()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _locked(folder, waits=True)
        if lock is not None and folder.exists():
            break
        # Another start took it for one that was left.
        if lock is not None:
            os.close(lock)
    os.environ[FOLDER] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(FOLDER, None)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left_ones() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
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
