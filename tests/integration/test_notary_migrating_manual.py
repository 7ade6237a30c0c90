"""The steps of ``server/MIGRATING.md``, as they stand there, with real servers and clients."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from integration import engines
from notary_docker import SECRETS, DockerScript, DockerWorld
from notary_servers import NotaryServer, RealNotary, our_config, our_notary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

MANUAL = Path(__file__).parents[2] / "server" / "MIGRATING.md"


def shown(section: str, beginning: str) -> list[str]:
    """Give a section's commands that begin so, whole."""
    text = MANUAL.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    joined = re.sub(r"\\\n\s*", "", text)
    return re.findall(rf"^ {{4,}}({beginning}.*)$", joined, re.MULTILINE)


class Operator:
    """Types what the manual shows in a shell, with this place's names in it."""

    def __init__(self, folder: Path, env: Mapping[str, str], names: Mapping[str, str]) -> None:
        self.folder = folder
        self.env = {**engines.plain_environment(folder), **env}
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        self.names = names

    def type(self, command: str, more: str = "", status: int = 0) -> str:
        for name, meant in self.names.items():
            command = command.replace(name, meant)
        done = subprocess.run(
            ["bash", "-c", f"{command}{more}"],  # noqa: S607  # bash is where the system keeps it
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def script(docker_world: DockerWorld, real_notary: RealNotary, tmp_path: Path) -> DockerScript:
    """Make a GUN with an image that docker signed, its keys in the owner's folder."""
    engines.need("docker", "notary")
    made = DockerScript(real_notary, tmp_path / "people", world=docker_world)
    made.folder.mkdir()
    made.docker("push", made.make_image("1.2", "signed"), user="owner")
    made.forget()
    return made


@pytest.fixture
def operator(script: DockerScript, real_notary: RealNotary, tmp_path: Path) -> Operator:
    """Give one who may only read the databases."""
    folder = tmp_path / "operator"
    folder.mkdir()
    our_config(folder)
    database = real_notary.database
    for name, tables in (("server", "tuf_files, changefeed"), ("signer", "private_keys")):
        for command in ("CREATE ROLE reader LOGIN", f"GRANT SELECT ON {tables} TO reader"):
            subprocess.run(
                ["psql", "-q", database.url(name), "-c", command],  # noqa: S607  # Debian's own
                check=name == "signer" and "GRANT" in command,
                capture_output=True,
            )
    passphrases = {
        f"NOTARY_SIGNER_{alias.upper()}": value
        for alias, value in real_notary.signer_passphrases.items()
    }
    names = {
        "reader@db.example": f"reader@127.0.0.1:{database.port}",
        "notaryserver": "server",
        "notarysigner": "signer",
        "https://notary.example": real_notary.url,
        "registry.example/team/app": script.gun,
    }
    libpq = {"PGHOST": "127.0.0.1", "PGPORT": str(database.port), "PGUSER": "postgres"}
    return Operator(folder, passphrases | libpq, names)


Reader = Callable[[NotaryServer], None]


@pytest.fixture
def reads(script: DockerScript) -> Reader:
    """Point docker to our server as the manual shows, and pull; then ``notary`` likewise."""

    def read(ours: NotaryServer) -> None:
        script.forget()
        home = script.folder / "reader"
        authority = home / ".docker" / "tls" / ours.host / "ca.crt"
        authority.parent.mkdir(parents=True)
        authority.write_bytes(ours.ca.read_bytes())
        env = {
            name: value
            for name, value in script.world.engine.env.items()
            if name not in {"DOCKER_CONFIG", "HOME"}
        }
        user = Operator(
            home,
            env,
            {
                "https://trust.example:4443": ours.url,
                "registry.example/team/app": script.gun,
            },
        )
        user.type("; ".join(shown("Point the clients here", "(?:export|docker) ")))
        assert len(script.images()) == 1

        (home / ".notary").mkdir()
        settings = {"remote_server": {"url": ours.url, "root_ca": str(ours.ca)}}
        (home / ".notary" / "config.json").write_text(json.dumps(settings))
        assert "1.2" in user.type(f"notary list {script.gun}")

    return read


@pytest.mark.parametrize("form", ["database", "dump"])
def test_a_notary_server_is_brought_over_as_the_manual_shows(
    operator: Operator, script: DockerScript, reads: Reader, form: str
) -> None:
    section = "Bring a notary-server over"
    (command,) = shown(section, "tabellion-server ")
    assert "--dry-run" in command
    if form == "dump":
        for line in shown(section, "pg_dump "):
            operator.type(line)
        command = re.sub(r"postgresql://\S+/notary(server|signer)", r"\1.sql", command)
    only = f" --gun '{script.gun}'"
    assert "nothing was written: 1 imported" in operator.type(command, only)
    assert not list(operator.folder.glob("*.db"))
    command = command.replace("--dry-run", "")
    assert "1 imported" in operator.type(command, only)
    assert "1 unchanged" in operator.type(command, only)
    with our_notary(operator.folder / "server.toml") as ours:
        script.server = ours
        script.docker("push", script.make_image("2", "second"), user="owner")
        reads(ours)
    script.forget()


def test_a_notary_server_is_mirrored_and_taken_over_as_the_manual_shows(
    operator: Operator, script: DockerScript, real_notary: RealNotary, reads: Reader
) -> None:
    section = "Mirror a server over HTTP"
    named, listed = shown(section, "tabellion-server mirror ")
    ca = f" --ca {real_notary.ca}"
    assert "1 imported" in operator.type(named, ca)
    (operator.folder / "guns.txt").write_text(f"{script.gun}\n")
    again, _, interval = listed.partition(" --every ")
    assert interval.startswith("1h")
    assert "1 unchanged" in operator.type(again, f" --config server.toml{ca}")
    with our_notary(operator.folder / "server.toml") as ours:
        reads(ours)
        script.server = ours
        second = script.make_image("2", "second")
        script.docker("push", second, user="owner", status=1)
        for line in shown("Bring a notary-server over", "pg_dump "):
            operator.type(line)
        whole, only = shown(section, "tabellion-server import-notary ")
        assert "1 imported" in operator.type(only)
        assert "1 unchanged" in operator.type(whole)
        script.docker("push", second, user="owner")
    script.forget()


def test_keys_go_over_and_back_as_the_manual_shows(script: DockerScript) -> None:
    home = script.folder / "owner"
    (home / ".docker").symlink_to(home / "docker")
    script.notary("key", "generate", "ecdsa", "--role", "alice")
    (home / ".notary").symlink_to(home / "trust")
    secret = SECRETS["DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"]
    person = Operator(
        home,
        {
            **SECRETS,
            "NOTARY_DELEGATION_PASSPHRASE": "delegation passphrase",
            **{f"TABELLION_{role}_PASSPHRASE": secret for role in ("ROOT", "TARGETS", "SIGNER")},
        },
        {},
    )
    docker, notary, listing, *back = shown("Keys, over and back", "tabellion ")
    taken = person.type(docker).split()
    assert len(taken) == 2  # root and targets
    (alice,) = person.type(notary).split()
    listed = [line.split("\t") for line in person.type(listing).splitlines()]
    assert sorted(row[1] for row in listed) == ["root", "signer", "targets"]
    before = {path: path.read_bytes() for path in (home / "docker").rglob("*.key")}
    for path in (home / "trust" / "private").iterdir():
        path.unlink()
    person.names = {"KEYID": alice}
    for command in back:
        person.type(command)
    after = {path: path.read_bytes() for path in (home / "docker").rglob("*.key")}
    assert after.items() > before.items()
    assert "alice" in script.notary("key", "list")
