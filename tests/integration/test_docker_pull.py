"""The whole way with real programs: push, sign, pull what is signed, refuse what isn't."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration import engines
from tabellion.core.names import Digest, parse_reference
from tabellion.registry import RegistryClient

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

SECRET = "only-for-tests"


@dataclass
class World:
    """A registry, a trust server, dockerd; ``app:1`` is signed, ``app:2`` isn't."""

    folder: Path
    registry: engines.Registry
    server: engines.TrustServer
    docker: engines.Engine

    @property
    def gun(self) -> str:
        return f"{self.registry.host}/app"

    def consumer(self, home: str, engine: engines.Engine) -> engines.Engine:
        """Give the command line of one who pulls, starting from the publisher's root file."""
        root = self.folder / "root.json"
        root.write_bytes(self.server.root(self.gun))
        return engines.tabellion(
            engine.env
            | {
                "TABELLION_HOME": str(self.folder / home),
                "TABELLION_SERVER": self.server.url,
                "TABELLION_ROOT": str(root),
                "TABELLION_ENGINE": engine.words[0],
            }
        )

    def publisher(self) -> engines.Engine:
        return engines.tabellion(
            self.docker.env
            | {
                "TABELLION_HOME": str(self.folder / "publisher"),
                "TABELLION_SERVER": self.server.url,
                "TABELLION_ROOT_PASSPHRASE": SECRET,
                "TABELLION_TARGETS_PASSPHRASE": SECRET,
                "TABELLION_SIGNER_PASSPHRASE": SECRET,
            }
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("docker")
    with (
        engines.docker_registry(folder / "registry") as registry,
        engines.docker_daemon(folder / "dockerd") as docker,
        engines.trust_server(folder / "server") as server,
    ):
        world = World(folder, registry, server, docker)
        engines.push_image(docker, f"{world.gun}:1", "signed")
        engines.push_image(docker, f"{world.gun}:2", "unsigned")
        publisher = world.publisher()
        publisher.run("init", world.gun)
        publisher.run("sign", f"{world.gun}:1")
        yield world


@pytest.fixture
def empty_docker(world: World) -> engines.Engine:
    world.docker.run("container", "prune", "-f")
    while left := set(world.docker.run("images", "-aq", "--no-trunc").stdout.split()):
        # a parent goes after its children, whatever the order of the list
        removed = [world.docker.run("rmi", "-f", image, check=False) for image in left]
        assert any(done.returncode == 0 for done in removed), removed
    assert world.docker.images() == []
    return world.docker


def test_docker_pull_takes_the_signed_image_by_digest_and_tags_it(
    world: World, empty_docker: engines.Engine
) -> None:
    done = world.consumer("a", empty_docker).run("docker", "pull", f"{world.gun}:1")
    digest = world.registry.digest("app", "1")
    assert f"{world.gun}@{digest}" in done.stdout
    assert empty_docker.images() == [f"{world.gun}:1@{digest}"]


def test_docker_pull_refuses_an_unsigned_image_and_pulls_nothing(
    world: World, empty_docker: engines.Engine
) -> None:
    before = world.registry.log_text().count("/blobs/")
    done = world.consumer("b", empty_docker).run("docker", "pull", f"{world.gun}:2", check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{world.gun}" in done.stderr
    assert "tabellion sign" in done.stderr
    assert "Traceback" not in done.stderr
    assert empty_docker.images() == []
    assert world.registry.log_text().count("/blobs/") == before


def test_docker_run_of_an_unsigned_image_runs_nothing(
    world: World, empty_docker: engines.Engine
) -> None:
    done = world.consumer("b", empty_docker).run(
        "docker", "run", "--network=none", f"{world.gun}:2", "cat", "/said", check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert empty_docker.run("ps", "-aq").stdout == ""
    assert empty_docker.images() == []


def test_docker_run_gives_the_containers_output_and_status(
    world: World, empty_docker: engines.Engine
) -> None:
    done = world.consumer("a", empty_docker).run(
        "docker", "run", "--rm", "--network", "none", f"{world.gun}:1",
        "sh", "-c", "cat /said; exit 7", check=False,
    )  # fmt: skip
    assert done.returncode == 7
    assert done.stdout == "signed"
    again = world.consumer("a", empty_docker).run(
        "docker", "run", "--rm", "-i", "--network=none", f"{world.gun}:1", "cat", stdin=b"typed"
    )
    assert again.stdout == "typed"


def test_docker_run_keeps_the_terminal(world: World, empty_docker: engines.Engine) -> None:
    consumer = world.consumer("a", empty_docker)
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [*consumer.words, "docker", "run", "--rm", "-it", "--network=none", f"{world.gun}:1",
             "sh", "-c", "test -t 0 && test -t 1"],
            stdin=slave, stdout=slave, stderr=slave, env=consumer.env, check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 0


def test_a_signal_reaches_the_container(world: World, empty_docker: engines.Engine) -> None:
    consumer = world.consumer("a", empty_docker)
    words = (
        "docker", "run", "--rm", "--network=none", f"{world.gun}:1",
        "sh", "-c", "trap 'exit 9' TERM; echo ready; while true; do sleep 0.1; done",
    )  # fmt: skip
    with subprocess.Popen(
        [*consumer.words, *words], env=consumer.env, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(timeout=30) == 9


def test_docker_create_makes_a_container_of_the_signed_digest(
    world: World, empty_docker: engines.Engine
) -> None:
    done = world.consumer("a", empty_docker).run(
        "docker", "create", "--network=none", "--name", "made", f"{world.gun}:1", "true"
    )
    shown = empty_docker.run("inspect", "--format", "{{.Config.Image}} {{.Id}}", "made").stdout
    empty_docker.run("rm", "made")
    assert shown.split() == [
        f"{world.gun}@{world.registry.digest('app', '1')}",
        done.stdout.strip(),
    ]


def test_docker_build_takes_signed_base_images_only(
    world: World, empty_docker: engines.Engine, tmp_path: Path
) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(
        f"ARG VERSION=2\nFROM {world.registry.host}/app:${{VERSION}} AS base\n"
        "FROM base\nRUN cat /said > /built\n"
    )
    consumer = world.consumer("a", empty_docker)
    words = ("docker", "build", "--network=none", "-t", "built", str(tmp_path))
    refused = consumer.run(*words, check=False)
    assert refused.returncode == 1
    assert empty_docker.images() == []
    consumer.run(*words[:2], "--build-arg", "VERSION=1", *words[2:])
    said = empty_docker.run("run", "--rm", "--network=none", "built", "cat", "/built")
    assert said.stdout == "signed"


def test_an_unverified_command_passes_through_with_its_status(
    world: World, empty_docker: engines.Engine
) -> None:
    consumer = world.consumer("a", empty_docker)
    assert consumer.run("docker", "images", "-q").stdout == ""
    assert consumer.run("docker", "rmi", "absent", check=False).returncode == 1


async def test_a_signed_index_is_pulled_and_its_children_count_as_signed(
    world: World, empty_docker: engines.Engine
) -> None:
    async with RegistryClient(docker_config=world.folder) as client:
        child = await client.manifest(parse_reference(f"{world.gun}:1"))
    index = Digest.of(world.registry.put_index("app", "multi", child))
    world.publisher().run("sign", f"{world.gun}:multi")
    consumer = world.consumer("a", empty_docker)
    consumer.run("docker", "pull", f"{world.gun}:multi")
    assert f"{world.gun}:multi@{index}" in empty_docker.images()
    words = ("docker", "run", "--rm", "--network=none", f"{world.gun}@{child.digest}")
    assert consumer.run(*words, "cat", "/said").stdout == "signed"


def test_podman_pulls_the_signed_image_by_digest_and_refuses_the_unsigned(world: World) -> None:
    podman = engines.podman(world.folder / "podman", registry=world.registry)
    consumer = world.consumer("podman-user", podman)
    refused = consumer.run("docker", "pull", f"{world.gun}:2", check=False)
    assert refused.returncode == 1
    assert podman.images() == []
    consumer.run("docker", "--engine", "podman", "pull", f"{world.gun}:1")
    digest = world.registry.digest("app", "1")
    assert podman.images() == [f"{world.gun}:1@{digest}"]


def test_podman_is_told_that_the_registry_on_loopback_speaks_http(world: World) -> None:
    podman = engines.podman(
        world.folder / "podman-https", registry=world.registry, knows_http=False
    )
    digest = world.registry.digest("app", "1")
    plain = podman.run("pull", f"{world.gun}@{digest}", check=False)
    assert "HTTPS" in plain.stderr  # why it has to be told
    consumer = world.consumer("podman-https-user", podman)
    answered = json.loads(consumer.run("pull", "--json", f"{world.gun}:1").stdout)
    assert answered["image"] == f"{world.gun}@{digest}"
    assert podman.images() == [f"{world.gun}:1@{digest}"]
    podman.run("rmi", "-f", "-a")
    consumer.run("docker", "create", "--name", "made", f"{world.gun}:1", "true")
    assert podman.images() == [f"{world.gun}:1@{digest}"]
    podman.run("rm", "made")


def test_podmans_infra_image_is_verified_and_pinned(world: World) -> None:
    podman = engines.podman(world.folder / "podman-pod", registry=world.registry)
    consumer = world.consumer("podman-pod-user", podman)
    words = ("docker", "pod", "create", "--name", "made", "--infra-image")
    refused = consumer.run(*words, f"{world.gun}:2", check=False)
    assert refused.returncode == 1
    assert podman.images() == []
    assert podman.run("pod", "ps", "-q").stdout == ""
    done = consumer.run(*words, f"{world.gun}:1", check=False)
    assert podman.images() == [f"{world.gun}:1@{world.registry.digest('app', '1')}"], done.stderr
    podman.run("pod", "rm", "-f", "made")


@pytest.mark.parametrize("words", [("pull",), ("docker", "run"), ("docker", "create")])
def test_an_engine_that_cannot_pull_is_trouble_and_said_so(
    world: World, empty_docker: engines.Engine, words: tuple[str, ...]
) -> None:
    down = engines.Engine(empty_docker.words, empty_docker.env | {"DOCKER_HOST": "unix:///absent"})
    broken = engines.podman(world.folder / "podman-broken", registry=world.registry)
    with (world.folder / "podman-broken" / "registries.conf").open("a") as file:
        file.write("blocked = true\n")
    for engine, status in ((down, 1), (broken, 125)):
        name = engine.words[0]
        done = world.consumer("a", engine).run("--json", *words, f"{world.gun}:1", check=False)
        assert done.returncode == 3
        error = json.loads(done.stdout)["error"]
        assert error["code"] == "engine"
        assert f"by {name} failed with status {status}" in error["message"]
        assert error["hint"].startswith(f"{name} said: ")
        assert done.stderr.splitlines()[-1] == f"hint: {error['hint']}"
    own = world.consumer("a", broken).run("docker", "pull", f"{world.gun}:1", check=False)
    assert own.returncode == 125  # the user's own command: the engine's own status


@pytest.mark.parametrize("engine", ["rocket", "/absent/docker"])
def test_an_unknown_or_missing_engine_is_a_matter_of_usage(world: World, engine: str) -> None:
    consumer = world.consumer("a", world.docker)
    for words in (("pull",), ("docker",)):
        done = consumer.run(*words, "--engine", engine, *("pull",) * (words[0] == "docker"),
                            f"{world.gun}:1", check=False)  # fmt: skip
        assert done.returncode == 2
        assert "hint: " in done.stderr
        assert "--engine" in done.stderr


def test_skopeo_copies_by_the_verified_digest(world: World, tmp_path: Path) -> None:
    engines.need("skopeo")
    consumer = world.consumer("a", world.docker)
    assert consumer.run("verify", f"{world.gun}:2", check=False).returncode == 1
    digest = consumer.run("verify", f"{world.gun}:1").stdout.split()[-1].rpartition("@")[2]
    assert digest == world.registry.digest("app", "1")
    skopeo = engines.Engine(("skopeo",), engines.plain_environment(tmp_path))
    skopeo.run(
        "--insecure-policy", "copy", "--src-tls-verify=false",
        f"docker://{world.gun}@{digest}", f"dir:{tmp_path / 'copy'}",
    )  # fmt: skip
    assert (tmp_path / "copy" / "manifest.json").is_file()


def test_a_pushed_over_tag_is_refused_and_the_signed_bytes_are_what_is_pulled(
    world: World, empty_docker: engines.Engine
) -> None:
    """Last here: it moves the tag."""
    signed = world.registry.digest("app", "1")
    engines.push_image(empty_docker, f"{world.gun}:1", "pushed over")
    moved = world.registry.digest("app", "1")
    assert moved != signed
    consumer = world.consumer("a", empty_docker)
    refused = consumer.run("docker", "pull", f"{world.gun}@{moved}", check=False)
    assert refused.returncode == 1
    assert empty_docker.images() == []
    for words in (("pull",), ("run", "--rm", "--network=none")):
        refused = consumer.run("docker", *words, f"{world.gun}:1", check=False)
        assert refused.returncode == 1
        assert f"{moved} in the registry now" in refused.stderr
        assert empty_docker.images() == []
    consumer.run("docker", "pull", f"{world.gun}@{signed}")
    said = consumer.run("docker", "run", "--rm", "--network=none", f"{world.gun}:1", "cat", "/said")
    assert said.stdout == "signed"
    # Already here and verified by digest, the signed image runs whatever the tag says elsewhere.
    forget = f"http://{world.registry.host}/v2/app/manifests/{signed}"
    request = urllib.request.Request(forget, method="DELETE")  # loopback
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310  # loopback
    empty_docker.run("rmi", "-f", f"{world.gun}:1", f"{world.gun}@{signed}", check=False)
    assert empty_docker.images() == []
    gone = consumer.run("docker", "pull", f"{world.gun}:1", check=False)
    assert gone.returncode == 1
    assert empty_docker.images() == []
