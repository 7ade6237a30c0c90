"""Run the ``*.txt`` scenarios beside this file: what a person types, and what they see.

Grammar, line by line::

    # a comment
    $ command          run by bash; ``\\`` at the end continues it
    1| text            expected on stdout
    2| text            expected on stderr
    ? 1                expected exit status, 0 if not given

Both streams must match whole; a stream without lines must stay empty. ``1| ...`` stands for any
lines. Placeholders: ``<HEX64>`` ``<HEX8>`` ``<N>`` ``<TIME>`` ``<URL>`` ``<ANY>``; ``<SERVER>`` is
the server's address and ``<HOME>`` the folder the commands run in.

Each scenario has its own home and GUNs; the server is one real process for all of them.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tabellion.cli.embedded import EmbeddedServer

FOLDER = Path(__file__).parent
REAL_STARTS = {"usage", "demo", "refused_init"}  # the others start by forking
PLACEHOLDERS = {
    "<HEX64>": "[0-9a-f]{64}",
    "<HEX8>": "[0-9a-f]{8}",
    "<N>": "[0-9]+",
    "<TIME>": r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+]00:00| UTC)?",
    "<URL>": r"https?://[^\s'\"]+",
    "<ANY>": ".*",
}


@dataclass
class Step:
    line: int
    command: str
    streams: dict[str, list[str]] = field(default_factory=lambda: {"1": [], "2": []})
    status: int = 0


def parse(text: str) -> list[Step]:
    steps: list[Step] = []
    continues = False
    for number, line in enumerate(text.splitlines(), 1):
        if continues:
            steps[-1].command += "\n" + line.strip()
            continues = line.endswith("\\")
        elif line.startswith("$ "):
            steps.append(Step(number, line[2:]))
            continues = line.endswith("\\")
        elif line[:2] in {"1|", "2|"}:
            steps[-1].streams[line[0]].append(line[2:].removeprefix(" "))
        elif line.startswith("? "):
            steps[-1].status = int(line[2:])
        else:
            assert not line or line.startswith("#"), f"line {number} isn't a scenario: {line}"
    return steps


def pattern(lines: list[str], values: dict[str, str]) -> str:
    expression = ""
    for line in lines:
        if line == "...":
            expression += "(?:.*\n)*?"
            continue
        parts = re.split("(<[A-Z0-9]+>)", line)
        for part in parts:
            expression += PLACEHOLDERS.get(part) or re.escape(values.get(part, part))
        expression += "\n"
    return expression


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


def environment(home: Path, server: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TABELLION_")}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "TABELLION_HOME": str(home / "home"),
        "TABELLION_SERVER": server,
        "TABELLION_ROOT_PASSPHRASE": "root-secret",
        "TABELLION_TARGETS_PASSPHRASE": "targets-secret",
        "TABELLION_SIGNER_PASSPHRASE": "signer-secret",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "80",
    }


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path, server: EmbeddedServer, tmp_path: Path, quick_commands: Path) -> None:
    env = environment(tmp_path, server.url)
    if path.stem not in REAL_STARTS:
        env["PATH"] = f"{quick_commands}:{env['PATH']}"
    values = {"<SERVER>": server.url, "<HOME>": str(tmp_path)}
    for step in parse(path.read_text(encoding="utf-8")):
        done = subprocess.run(
            ["bash", "-c", step.command],  # noqa: S607  # bash is where the system keeps it
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        where = f"{path.name}:{step.line}: $ {step.command}"
        shown = f"{where}\n--- stdout\n{done.stdout}--- stderr\n{done.stderr}"
        assert done.returncode == step.status, f"exit {done.returncode}, not {step.status}: {shown}"
        for stream, text in (("1", done.stdout), ("2", done.stderr)):
            expected = pattern(step.streams[stream], values)
            assert re.fullmatch(expected, text), f"stream {stream} differs: {shown}"
