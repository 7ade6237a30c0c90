"""Run the same ``docker`` commands with content trust against two trust servers."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from integration import engines
from notary_script import Script, compare_steps
from notary_servers import NotaryServer

SECRETS = {
    "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": "root passphrase",
    "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "repository passphrase",
}


@dataclass(frozen=True)
class DockerWorld:
    """dockerd and a registry; trust servers are chosen by each script."""

    registry: engines.Registry
    engine: engines.Engine


@contextmanager
def docker_world(folder: Path) -> Iterator[DockerWorld]:
    """Run dockerd and docker-registry."""
    with (
        engines.docker_registry(folder / "registry") as registry,
        engines.docker_daemon(folder / "dockerd") as docker,
    ):
        yield DockerWorld(registry, docker)


@dataclass
class DockerScript(Script):
    """One run of a scenario with docker: its own repository, people with a DOCKER_CONFIG each.

    Attributes:
        first_root: The root file that our command line starts from; empty: it's told otherwise.
    """

    world: DockerWorld = field(kw_only=True)
    repository: str = field(default_factory=lambda: f"interop/{secrets.token_hex(6)}")
    first_root: str = ""

    def __post_init__(self) -> None:
        self.gun = f"{self.world.registry.host}/{self.repository}"

    def docker(
        self,
        *words: str,
        status: int = 0,
        user: str = "consumer",
        trust: bool = True,
        server: NotaryServer | None = None,
        stdin: str = "",
    ) -> str:
        """Run ``docker`` as a person; ``server`` is another trust server than the script's.

        What it writes isn't compared: layers and progress come as they come.
        """
        server = server or self.server
        config = self.folder / user / "docker"
        authority = config / "tls" / server.host / "ca.crt"
        if not authority.exists():
            authority.parent.mkdir(parents=True)
            shutil.copyfile(server.ca, authority)
        env = self.world.engine.env | SECRETS | {"DOCKER_CONFIG": str(config)}
        env["DOCKER_CONTENT_TRUST"] = str(int(trust))
        env["DOCKER_CONTENT_TRUST_SERVER"] = server.url
        return self.run(
            "docker", *words, status=status, user=user, env=env, own_words=True, stdin=stdin
        )

    def tabellion(
        self,
        *words: str,
        status: int = 0,
        user: str = "owner",
        env: Mapping[str, str] | None = None,
        engine: engines.Engine | None = None,
    ) -> str:
        """Run our command line as a person who has the engine, or another one."""
        engine = engine or self.world.engine
        variables = engine.env | {"TABELLION_ENGINE": engine.words[0]} | dict(env or {})
        if self.first_root:
            variables["TABELLION_ROOT"] = self.first_root
        return super().tabellion(*words, status=status, user=user, env=variables)

    def make_image(self, tag: str, text: str) -> str:
        """Make an image that says ``text``, under a tag of the repository."""
        name = f"{self.gun}:{tag}"
        self.world.engine.run("import", "-", name, stdin=engines.image_tar(text))
        return name

    def forget(self) -> None:
        """Remove the repository's images from the engine: what is there next was pulled."""
        if found := self.images():  # the newest first: children before parents
            self.world.engine.run("rmi", "-f", *found)
        assert self.images() == []

    def images(self) -> list[str]:
        """Give the IDs of the repository's images in the engine."""
        output = self.world.engine.run("images", "--no-trunc", "-q", self.gun).stdout
        return list(dict.fromkeys(output.split()))


def compare_docker(
    scenario: Callable[[DockerScript], None],
    folder: Path,
    world: DockerWorld,
    real: NotaryServer,
    ours: NotaryServer,
) -> None:
    """Run a scenario with both trust servers; each step must end alike."""
    runs = []
    for server in (real, ours):
        script = DockerScript(server, folder / server.name, world=world)
        script.folder.mkdir()
        scenario(script)
        script.forget()
        runs.append(script.steps)
    compare_steps(*runs)
