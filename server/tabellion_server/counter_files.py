"""The folder of files by which several workers share their counters.

It's made anew at each start, so nothing old is counted, and removed at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tabellion_server.scratch import scratch_folder

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus-client finds it; read when that is imported."""

WORKER: Final = "TABELLION_WORKER_NUMBER"
"""The variable that names a worker's files: who takes a dead one's place counts on in them."""

_PREFIX: Final = "tabellion-metrics-"


@contextmanager
def counter_files() -> Iterator[None]:
    """Have such a folder for as long as the block lasts. Blocks."""
    with scratch_folder(_PREFIX) as folder:
        os.environ[FOLDER] = str(folder)
        try:
            yield
        finally:
            os.environ.pop(FOLDER, None)
