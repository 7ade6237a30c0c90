"""Docker's content trust does the same with our server as with the real notary-server.

Each scenario is run against both in turn, with a real dockerd and registry.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integration import engines
from notary_docker import DockerScript, DockerWorld, compare_docker
from notary_servers import NotaryServer, RealNotary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

SAYS = ("run", "--rm", "--network=none")


def inspected(script: DockerScript) -> dict[str, Any]:
    said = script.docker("trust", "inspect", script.gun, user="anybody")
    (found,), _ = json.JSONDecoder().raw_decode(said)  # warnings may come after it
    assert isinstance(found, dict)
    return found


def tags(script: DockerScript) -> dict[str, list[str]]:
    return {tag["SignedTag"]: tag["Signers"] for tag in inspected(script)["SignedTags"]}


def push_pull_run_build(script: DockerScript) -> None:
    image = script.make_image("1", "signed")
    script.docker("push", image, user="owner")
    digest = script.world.registry.digest(script.repository, "1")
    unsigned = script.make_image("2", "unsigned")
    script.docker("push", unsigned, user="owner", trust=False)
    script.forget()

    assert digest in script.docker("pull", image)
    assert f"{image}@{digest}" in script.world.engine.images()
    assert script.docker(*SAYS, image, "cat", "/said").startswith("signed")
    recipe = Path(script.file("Dockerfile", f"FROM {image}\nLABEL made=here\n"))
    build = ("build", "--network=none", "-f", str(recipe), "-t", f"{script.gun}:built", ".")
    script.docker(*build)

    script.forget()
    script.docker("pull", unsigned, status=1)
    assert script.docker(*SAYS, unsigned, "cat", "/said", status=125).count("unsigned") == 0
    script.file("Dockerfile", f"FROM {unsigned}\n")
    script.docker(*build, status=1)
    script.docker("pull", f"{script.gun}-never:1", status=1)
    assert script.images() == []

    moved = script.make_image("1", "moved")
    script.docker("push", moved, user="owner", trust=False)
    assert script.world.registry.digest(script.repository, "1") != digest
    script.forget()
    assert script.docker(*SAYS, image, "cat", "/said").startswith("signed")
    assert digest in script.docker("pull", image)

    again = script.make_image("1", "again")
    script.docker("push", again, user="owner")
    script.forget()
    assert script.docker(*SAYS, image, "cat", "/said").startswith("again")


def signers(script: DockerScript) -> None:
    script.docker("trust", "inspect", script.gun, status=1)
    for name in ("alice", "bob"):
        place = str(script.folder)
        script.docker("trust", "key", "generate", name, "--dir", place, user=name)
        key = str(script.folder / f"{name}.pub")
        script.docker("trust", "signer", "add", "--key", key, name, script.gun, user="owner")
    image = script.make_image("1", "one")
    script.docker("trust", "sign", image, user="stranger", status=1)
    script.docker("trust", "sign", image, user="alice")
    assert tags(script) == {"1": ["alice"]}
    script.docker("trust", "sign", image, user="bob")
    assert tags(script) == {"1": ["alice", "bob"]}
    assert {signer["Name"] for signer in inspected(script)["Signers"]} == {"alice", "bob"}
    script.forget()
    digest = script.world.registry.digest(script.repository, "1")
    assert digest in script.docker("pull", image)
    second = script.make_image("2", "two")
    script.docker("push", second, user="bob")
    assert tags(script) == {"1": ["alice", "bob"], "2": ["bob"]}

    script.docker("trust", "revoke", image, user="alice")
    assert tags(script) == {"1": ["bob"], "2": ["bob"]} or tags(script) == {"2": ["bob"]}
    script.docker("trust", "revoke", image, user="bob")
    assert tags(script) == {"2": ["bob"]}
    script.docker("pull", image, status=1)
    script.docker("trust", "revoke", "-y", script.gun, user="bob")
    assert tags(script) == {}
    script.forget()
    script.docker("pull", second, status=1)
    assert script.images() == []
    script.docker("trust", "revoke", f"{script.gun}-never:1", user="owner", status=1)
    # This docker removes no signer but the last, and then only when asked for it.
    remove = ("trust", "signer", "remove")
    script.docker(*remove, "--force", "alice", script.gun, user="owner")
    assert {signer["Name"] for signer in inspected(script)["Signers"]} == {"alice", "bob"}
    script.docker(*remove, "nobody", script.gun, user="owner", status=1)


def the_only_signer_goes(script: DockerScript) -> None:
    script.docker("trust", "key", "generate", "alice", "--dir", str(script.folder), user="alice")
    key = str(script.folder / "alice.pub")
    script.docker("trust", "signer", "add", "--key", key, "alice", script.gun, user="owner")
    image = script.make_image("1", "one")
    script.docker("trust", "sign", image, user="alice")
    script.docker("pull", image)
    script.docker("trust", "signer", "remove", "alice", script.gun, user="owner", stdin="y\n")
    assert inspected(script)["Signers"] == []
    for user in ("consumer", "late"):
        script.docker("pull", image, user=user, status=1)
    script.docker("trust", "sign", image, user="alice", status=1)


def trust_server_away(script: DockerScript) -> None:
    image = script.make_image("1", "one")
    away = replace(script.server, url="https://127.0.0.1:1")
    script.docker("push", image, user="owner", server=away, status=1)
    script.docker("push", image, user="owner")
    script.forget()
    script.docker("pull", image, user="cold", server=away, status=1)
    assert script.images() == []
    plain = replace(script.server, url=script.server.url.replace("https", "http"))
    script.docker("pull", image, user="plain", server=plain, status=1)
    script.docker("pull", image, user="cold")


@pytest.mark.parametrize(
    "scenario", [push_pull_run_build, signers, the_only_signer_goes, trust_server_away]
)
def test_docker_does_with_ours_what_it_does_with_the_real_server(
    scenario: Callable[[DockerScript], None],
    docker_world: DockerWorld,
    real_notary: RealNotary,
    our_notary: NotaryServer,
    tmp_path: Path,
) -> None:
    engines.need("docker")
    compare_docker(scenario, tmp_path, docker_world, real_notary, our_notary)
