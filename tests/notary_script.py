"""Run the same commands of the real ``notary`` against two servers, and compare step by step."""

from __future__ import annotations

import difflib
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import forked_command
from integration import engines
from notary_servers import NotaryServer

TABELLION = (sys.executable, "-m", "tabellion.cli")
PASSPHRASES = {
    "NOTARY_ROOT_PASSPHRASE": "root passphrase",
    "NOTARY_TARGETS_PASSPHRASE": "targets passphrase",
    "NOTARY_SNAPSHOT_PASSPHRASE": "snapshot passphrase",
    "NOTARY_DELEGATION_PASSPHRASE": "delegation passphrase",
}
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)"
_DAYS = r"\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \w+ \d{4}"


@dataclass(frozen=True)
class Step:
    """What one command did.

    Attributes:
        words: The command, with what differs from run to run named.
        status: Its exit status.
        output: What it wrote on both channels, normalized likewise; empty if it needn't agree.
    """

    words: str
    status: int
    output: str


@dataclass
class Script:
    """One run of a scenario: its own GUN and people, each with a trust directory.

    Attributes:
        server: Whom the commands talk to.
        folder: Everything of this run.
        gun: Nobody else's.
        steps: What was run so far.
    """

    server: NotaryServer
    folder: Path
    gun: str = field(default_factory=lambda: f"registry.example/interop/{secrets.token_hex(6)}")
    steps: list[Step] = field(default_factory=list)

    def notary(
        self,
        *words: str,
        status: int | None = 0,
        user: str = "owner",
        stdin: str = "",
        server: str = "",
        ca: Path | None = None,
        own_words: bool = False,
    ) -> str:
        """Run ``notary`` as a person, demand its exit status, and give what it wrote.

        Args:
            words: Verb and arguments.
            status: The exit status it must have; None: any.
            user: Whose trust directory is used; it needn't exist.
            stdin: What it's answered.
            server: Another address than the server's.
            ca: The authority of that address.
            own_words: The servers word this differently; only the exit status is compared.
        """
        home = self.folder / user
        home.mkdir(parents=True, exist_ok=True)
        flags = ["-s", server or self.server.url, "-d", str(home / "trust")]
        flags += ["--tlscacert", str(ca or self.server.ca)]
        return self.run(
            *("notary", *flags, *words),
            status=status,
            user=user,
            stdin=stdin,
            own_words=own_words,
        )

    def run(
        self,
        *words: str,
        status: int | None = 0,
        user: str = "owner",
        stdin: str = "",
        env: dict[str, str] | None = None,
        own_words: bool = False,
    ) -> str:
        """Run any program as a person, and note the step."""
        env = engines.plain_environment(self.folder / user) | PASSPHRASES | (env or {})
        done: forked_command.Done | subprocess.CompletedProcess[str]
        if words[:3] == TABELLION:
            done = forked_command.run(words[3:], env=env, cwd=self.folder, stdin=stdin)
        else:
            done = subprocess.run(
                words,
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                cwd=self.folder,
                timeout=60,
                env=env,
            )
        output = done.stdout + done.stderr
        shown = self._normal(" ".join(words))
        self.steps.append(Step(shown, done.returncode, "" if own_words else self._normal(output)))
        assert status in (None, done.returncode), (
            f"{self.server.name}: {shown}: exit {done.returncode} instead of {status}\n{output}\n"
            f"{self.server.log.read_text(errors='replace')[-1500:]}"
        )
        return output

    def tabellion(
        self,
        *words: str,
        status: int = 0,
        user: str = "owner",
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run our command line as a person; ``env`` has more variables."""
        variables = {
            "TABELLION_HOME": str(self.folder / user / "tabellion"),
            "TABELLION_SERVER": self.server.url,
            "TABELLION_CA": str(self.server.ca),
        }
        for kind in ("ROOT", "TARGETS", "SIGNER"):
            variables[f"TABELLION_{kind}_PASSPHRASE"] = f"passphrase of {kind}"
        variables |= env or {}
        return self.run(*TABELLION, *words, status=status, user=user, env=variables)

    def file(self, name: str, text: str) -> str:
        """Write a file, and give its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def _normal(self, text: str) -> str:
        """Name what differs from run to run: the place, the GUN, keys, moments, short IDs."""
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
        for found, name in (
            (str(self.folder), "FOLDER"),
            (self.server.url, "URL"),
            (self.server.host, "HOST"),
            (str(self.server.ca), "CA"),
            (self.gun, "GUN"),
        ):
            text = text.replace(found, name)
        text = re.sub(r"https://127.0.0.1:\d+", "URL", text)  # a proxy's
        text = re.sub(rf"{_TIME}|{_DAYS}", "MOMENT", text)
        text = re.sub(r"time=\S+|took \S+", "TIME", text)
        text = re.sub(r"\b[0-9a-f]{64}\b", "HASH", text)
        text = re.sub(r"\b[0-9a-f]{7}\b|\.\.\.\S+", "SHORT", text)
        text = re.sub(r"-{3,}", "---", text)  # as wide as the longest name in a table
        return re.sub(r"[ \t]+", " ", text)


def compare(
    scenario: Callable[[Script], None], folder: Path, real: NotaryServer, ours: NotaryServer
) -> None:
    """Run a scenario against both servers; each step must end and speak alike."""
    runs = []
    for server in (real, ours):
        script = Script(server, folder / server.name)
        script.folder.mkdir()
        scenario(script)
        runs.append(script.steps)
    compare_steps(*runs)


def compare_steps(expected: list[Step], found: list[Step]) -> None:
    """Demand that two runs of a scenario ended and spoke alike; the first is the real server's."""
    assert expected, "the scenario ran nothing"
    assert [(step.words, step.status) for step in found] == [
        (step.words, step.status) for step in expected
    ]
    for theirs, own in zip(expected, found, strict=True):
        # keys and warnings come in any order
        said, answered = (sorted(step.output.splitlines()) for step in (theirs, own))
        assert answered == said, "\n".join(["real, then ours:", *difflib.ndiff(said, answered)])
