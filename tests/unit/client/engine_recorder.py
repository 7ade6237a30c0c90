"""An engine that only writes down what it is told, and a verifier that knows "unsigned"."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tabellion.core.names import Digest
from tabellion.docker import Sources
from tabellion.errors import NotSignedError

DIGEST = Digest.of(b"signed")
ENGINE = """#!{python}
import json, os, pathlib, sys
words = sys.argv[1:]
text = [pathlib.Path(w.partition("=")[2]).read_text() for w in words if w.startswith("--file=")]
if "-" in words:
    text = [sys.stdin.read()]
with open(os.environ["ENGINE_LOG"], "a") as log:
    log.write(json.dumps([words, text]) + "\\n")
if "inspect" in words:
    sys.exit(int(os.environ.get("ENGINE_INSPECT", "1")))
if "pull" in words:
    sys.exit(int(os.environ.get("ENGINE_PULL", "0")))
sys.exit(int(os.environ.get("ENGINE_STATUS", "0")))
"""
AS_PROCESS = """
import asyncio, sys
from tabellion.core.names import Digest
from tabellion.docker import Sources, run_engine
from tabellion.errors import NotSignedError, TabellionError
class Image: digest = Digest.of(b"signed")
async def verify(text):
    if "unsigned" in text:
        raise NotSignedError("nobody signed " + text)
    return Image()
try:
    sys.exit(asyncio.run(run_engine(sys.argv[2:], engine=sys.argv[1], sources=Sources(verify))))
except TabellionError as error:
    print(error.message, error.hint, sep=chr(10), file=sys.stderr)
    sys.exit(error.exit_status)
"""


@dataclass(frozen=True)
class Image:
    digest: Digest = DIGEST


async def verify(text: str) -> Image:
    if "unsigned" in text:
        raise NotSignedError(f"nobody signed {text}")
    return Image()


SOURCES = Sources(verify)


@dataclass
class Recorder:
    """An engine program and what it was told."""

    folder: Path

    def program(self, name: str = "docker") -> str:
        path = self.folder / name
        path.write_text(ENGINE.format(python=sys.executable))
        path.chmod(0o755)
        return str(path)

    @property
    def told(self) -> list[list[str]]:
        return [words for words, _ in self.lines]

    @property
    def lines(self) -> list[tuple[list[str], list[str]]]:
        log = self.folder / "log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def process(recorder: Recorder, *words: str, engine: str = "docker") -> list[str]:
    return [sys.executable, "-c", AS_PROCESS, recorder.program(engine), *words]


def run_process(recorder: Recorder, *words: str, engine: str = "docker") -> int:
    return subprocess.run(process(recorder, *words, engine=engine), check=False).returncode
