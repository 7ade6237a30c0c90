"""Nodes on one PostgreSQL: their folders and configuration, and commands run there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def config_of(url: str) -> str:
    return f"""
[server]
listen = "127.0.0.1:0"
[storage]
url = "{url}"
[keys]
master_key_file = "../master.key"
"""


def command(verb: str, folder: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "server.toml").write_text(text)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "tabellion_server",
            verb,
            "--config",
            folder / "server.toml",
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
