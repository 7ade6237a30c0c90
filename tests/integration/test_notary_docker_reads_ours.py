"""Docker reads what our client wrote, on our server and on the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from notary_docker import DockerScript, DockerWorld
from notary_servers import NotaryServer, RealNotary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]


@pytest.fixture(params=["real", "ours"])
def server(
    request: pytest.FixtureRequest, real_notary: RealNotary, our_notary: NotaryServer
) -> NotaryServer:
    """Give each of both servers in turn."""
    return {"real": real_notary, "ours": our_notary}[request.param]


def test_docker_takes_what_our_owner_and_signers_sign(
    server: NotaryServer, docker_world: DockerWorld, tmp_path: Path
) -> None:
    script = DockerScript(server, tmp_path, world=docker_world)
    image = script.make_image("1", "one")
    script.docker("push", image, user="owner", trust=False)
    digest = script.world.registry.digest(script.repository, "1")
    script.tabellion("init", "--dialect", "notary", script.gun)
    script.tabellion("sign", image)
    script.forget()
    assert digest in script.docker("pull", image)

    script.tabellion("key", "generate", "--name", "alice", user="alice")
    public = script.tabellion("key", "export", "alice", user="alice")
    script.tabellion("signer", "add", script.gun, "alice", script.file("alice.pub", public))
    second = script.make_image("2", "two")
    script.docker("push", second, user="owner", trust=False)
    script.tabellion("sign", "--trust-on-first-use", second, user="alice")
    said = script.docker("trust", "inspect", script.gun, user="anybody")
    (found,), _ = json.JSONDecoder().raw_decode(said)
    signed = {tag["SignedTag"]: tag["Signers"] for tag in found["SignedTags"]}
    assert signed["2"] == ["alice"]
    script.forget()
    script.docker("pull", second)
    script.tabellion("revoke", second, user="alice")
    script.docker("pull", second, status=1)
    script.forget()
