"""Our wrapper and ``pull`` take what docker signed on a Notary GUN, with a real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from integration import engines
from notary_docker import SECRETS, DockerScript, DockerWorld
from notary_servers import NotaryServer, RealNotary
from notary_tamperer import later_version, tamperer

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

SAYS = ("--network=none", "--rm")
on_ours = pytest.mark.parametrize("signed", ["ours"], indirect=True, scope="module")


@dataclass
class Signed:
    """A repository: alice released ``1``, nobody signed ``2``, alice alone says ``3``.

    Attributes:
        script: Its people; ``alice`` signs with docker.
        digest: Of the released image.
    """

    script: DockerScript
    digest: str

    def image(self, tag: str) -> str:
        return f"{self.script.gun}:{tag}"

    def refused(self, *words: str, user: str = "reader", status: int = 1) -> str:
        """Run what must be refused, and see that nothing came into the engine."""
        self.script.forget()
        said = self.script.tabellion(*words, user=user, status=status)
        assert self.script.images() == []
        return said


@pytest.fixture(scope="module", params=["real", "ours"])
def signed(
    request: pytest.FixtureRequest,
    docker_world: DockerWorld,
    real_notary: RealNotary,
    our_notary: NotaryServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Signed]:
    engines.need("docker", "notary")
    server = {"real": real_notary, "ours": our_notary}[request.param]
    script = DockerScript(server, tmp_path_factory.mktemp("wrapper"), world=docker_world)
    keys = str(script.folder)
    script.docker("trust", "key", "generate", "alice", "--dir", keys, user="alice")
    public = str(script.folder / "alice.pub")
    script.docker("trust", "signer", "add", "--key", public, "alice", script.gun, user="owner")
    script.docker("trust", "sign", script.make_image("1", "signed"), user="alice")
    for tag in ("2", "3"):
        script.docker("push", script.make_image(tag, "unsigned"), user="owner", trust=False)
    script.run(
        *("notary", "-s", server.url, "--tlscacert", str(server.ca)),
        *("-d", str(script.folder / "alice" / "docker" / "trust")),
        *("addhash", script.gun, "3", "1000", "-p", "-r", "targets/alice"),
        *("--sha256", script.world.registry.digest(script.repository, "3")[7:]),
        user="alice",
        env={"NOTARY_DELEGATION_PASSPHRASE": SECRETS["DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"]},
    )
    _, root = server.get(f"/v2/{script.gun}/_trust/tuf/1.root.json")
    script.first_root = script.file("root.json", root.decode())
    yield Signed(script, script.world.registry.digest(script.repository, "1"))
    script.forget()


def test_pull_takes_what_docker_signed_by_digest_and_tags_it(signed: Signed) -> None:
    script = signed.script
    script.forget()
    said = script.tabellion("pull", "--json", signed.image("1"), user="reader")
    answer, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
    assert answer["image"] == f"{script.gun}@{signed.digest}"
    assert script.world.engine.images() == [f"{signed.image('1')}@{signed.digest}"]
    for tag, why in (("2", "signed"), ("3", "signed")):
        assert why in signed.refused("pull", signed.image(tag))


def test_the_wrapper_pulls_and_runs_what_docker_signed_and_nothing_else(signed: Signed) -> None:
    script = signed.script
    script.forget()
    script.tabellion("docker", "pull", signed.image("1"), user="reader")
    assert f"{signed.image('1')}@{signed.digest}" in script.world.engine.images()
    run = ("docker", "run", *SAYS)
    said = script.tabellion(*run, signed.image("1"), "cat", "/said", user="reader")
    assert said.startswith("signed")
    for tag in ("2", "3"):
        signed.refused("docker", "pull", signed.image(tag))
        assert "unsigned" not in signed.refused(*run, signed.image(tag), "cat", "/said")
    signed.refused("docker", "pull", f"{script.gun}-never:1")


@on_ours
def test_what_is_only_in_a_signers_own_role_is_not_released(signed: Signed) -> None:
    script = signed.script
    listed = script.notary("-d", str(script.folder / "reading"), "list", script.gun)
    assert "targets/alice" in next(line for line in listed.splitlines() if line.startswith("3 ")), (
        listed
    )  # it is signed, by alice, within the paths she was given
    said = signed.refused("verify", signed.image("3"))
    assert "released" in said or "signed" in said
    script.docker("pull", signed.image("3"), user="consumer", status=1)  # docker agrees
    assert script.images() == []


@on_ours
def test_the_wrapper_builds_on_what_docker_signed_only(signed: Signed) -> None:
    script = signed.script
    script.forget()
    build = ("docker", "build", "--network=none", "-t", f"{script.gun}:built")
    for tag, status in (("2", 1), ("3", 1), ("1", 0)):
        place = script.folder / f"build-{tag}"
        place.mkdir()
        (place / "Dockerfile").write_text(f"FROM {signed.image(tag)}\nRUN cat /said > /built\n")
        script.tabellion(*build, str(place), user="reader", status=status)
        assert (script.images() == []) is (status != 0)
    said = script.world.engine.run("run", *SAYS, f"{script.gun}:built", "cat", "/built").stdout
    assert said == "signed"


@on_ours
def test_files_changed_on_their_way_pull_nothing(signed: Signed) -> None:
    script = signed.script
    with tamperer(script.server, script.folder) as proxy:
        there = replace(script, server=proxy.server)
        for role in ("timestamp", "snapshot", "targets", "targets/releases", "root"):
            proxy.change, proxy.changed = later_version(role), []
            script.forget()
            # Who starts from the root file asks for no other.
            there.first_root = "" if role == "root" else script.first_root
            first = ("--trust-on-first-use",) if role == "root" else ()
            for words in (("pull", *first), ("docker", *first, "run", *SAYS)):
                there.tabellion(
                    *words, signed.image("1"), user=f"no-{role.rpartition('/')[2]}", status=1
                )
            assert proxy.changed, f"nothing of {role} was changed"
            assert script.images() == []
        proxy.change, there.first_root = later_version("nothing"), script.first_root
        there.tabellion("pull", signed.image("1"), user="honest")


@on_ours
def test_podman_pulls_by_digest_what_docker_signed(signed: Signed) -> None:
    script = signed.script
    podman = engines.podman(script.folder / "podman", registry=script.world.registry)
    pull = ("docker", "pull")
    for tag in ("2", "3"):
        script.tabellion(*pull, signed.image(tag), user="reader", engine=podman, status=1)
    assert podman.images() == []
    script.tabellion(*pull, signed.image("1"), user="reader", engine=podman)
    assert podman.images() == [f"{signed.image('1')}@{signed.digest}"]


def test_a_tag_moved_in_the_registry_pulls_nothing(signed: Signed) -> None:
    """Last here: it moves the tag."""
    script = signed.script
    script.docker("push", script.make_image("1", "moved"), user="owner", trust=False)
    moved = script.world.registry.digest(script.repository, "1")
    assert moved != signed.digest
    for words in (("docker", "pull"), ("docker", "run", *SAYS)):
        assert moved in signed.refused(*words, signed.image("1"))
    signed.refused("docker", "pull", f"{script.gun}@{moved}")
    script.tabellion("docker", "pull", f"{script.gun}@{signed.digest}", user="reader")
    said = script.tabellion(
        "docker", "run", *SAYS, signed.image("1"), "cat", "/said", user="reader"
    )
    assert said.startswith("signed")
