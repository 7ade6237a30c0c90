"""Keys of GnuPG's agent, and ``tabellion key`` with a key that is elsewhere."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from key_places import end_gnupg, gnupg_key, live
from tabellion.cli.app import commands
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import KeyStoreError, SignerError, TabellionError
from tabellion.signers.registry import RemoteSigners
from tabellion.signers.remote_keys import verify


@pytest.fixture(scope="module")
def gnupg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # Not in pytest's own folder: a socket's path can't be as long.
    home = Path(f"/tmp/gnupg-{os.getpid()}")  # noqa: S108  (made by us, mode 0700)
    home.mkdir(mode=0o700)
    assert tmp_path_factory
    yield home
    end_gnupg(home)
    subprocess.run(["rm", "-r", str(home)], check=False)  # noqa: S607  (the system's)
