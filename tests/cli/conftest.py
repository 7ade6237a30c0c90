from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forking_server import shell_command


@pytest.fixture(scope="module")
def quick_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder with a ``tabellion`` that starts at once."""
    with shell_command(tmp_path_factory.mktemp("commands")) as folder:
        yield folder
