"""Our client reads what the real clients wrote, from our server and from the real one."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from integration import engines
from notary_docker import DockerScript, DockerWorld
from notary_script import Script
from notary_servers import NotaryServer, RealNotary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

HELLO = hashlib.sha256(b"hello").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def tabellion(script: Script, *words: str, user: str, status: int = 0) -> str:
    """Run our command line as a person of the script's."""
    env = {
        "TABELLION_HOME": str(script.folder / user / "tabellion"),
        "TABELLION_SERVER": script.server.url,
        "TABELLION_CA": str(script.server.ca),
    }
    return script.run(
        *(sys.executable, "-m", "tabellion.cli", *words), user=user, status=status, env=env
    )


def written_by_notary(script: Script) -> None:
    gun = script.gun
    hello = script.file("hello", "hello")
    script.notary("addhash", gun, "v1", "5", "--sha256", HELLO, "-p")
    verify = ("verify", "--gun", gun, "v1", "--file", hello)
    tabellion(script, *verify, user="careful", status=1)  # which root? nobody said
    assert HELLO in tabellion(script, *verify, "--trust-on-first-use", user="reader")
    for words in (("snapshot", "-r"), ("timestamp", "-r"), ("targets",), ("root",)):
        script.notary("key", "rotate", gun, *words, stdin="yes\n")
        assert HELLO in tabellion(script, *verify, user="reader")
    script.notary("addhash", gun, "v2", "5", "--sha256", OTHER, "-p")
    listed = tabellion(script, "list", "--gun", gun, user="reader")
    assert "v1" in listed
    assert "v2" in listed
    script.notary("remove", gun, "v1", "-p")
    tabellion(script, *verify, user="reader", status=1)


@pytest.mark.parametrize("scenario", [written_by_notary])
@pytest.mark.parametrize("which", ["real", "ours"])
def test_a_gun_of_the_real_notary_is_read(
    scenario: Callable[[Script], None],
    which: str,
    real_notary: RealNotary,
    our_notary: NotaryServer,
    tmp_path: Path,
) -> None:
    engines.need("notary")
    scenario(Script({"real": real_notary, "ours": our_notary}[which], tmp_path))


@pytest.mark.parametrize("which", ["real", "ours"])
def test_images_signed_by_docker_are_verified(
    which: str,
    docker_world: DockerWorld,
    real_notary: RealNotary,
    our_notary: NotaryServer,
    tmp_path: Path,
) -> None:
    server = {"real": real_notary, "ours": our_notary}[which]
    script = DockerScript(server, tmp_path, world=docker_world)
    script.docker("trust", "key", "generate", "alice", "--dir", str(tmp_path), user="alice")
    key = str(tmp_path / "alice.pub")
    script.docker("trust", "signer", "add", "--key", key, "alice", script.gun, user="owner")
    image = script.make_image("1", "one")
    script.docker("trust", "sign", image, user="alice")
    digest = script.world.registry.digest(script.repository, "1")
    first = tabellion(script, "verify", "--trust-on-first-use", image, user="reader")
    assert first.splitlines()[0] == digest
    assert "alice" in tabellion(script, "inspect", script.gun, user="reader")
    script.docker("trust", "revoke", image, user="alice")
    tabellion(script, "verify", image, user="reader", status=1)
    script.forget()
