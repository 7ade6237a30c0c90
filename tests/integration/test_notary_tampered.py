"""Files changed on their way are refused by the real clients, with our server and the real one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from integration import engines
from notary_docker import DockerScript, DockerWorld, compare_docker
from notary_script import Script, compare
from notary_servers import NotaryServer, RealNotary
from notary_tamperer import later_version, tamperer

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

HELLO = hashlib.sha256(b"hello").hexdigest()
FILES = ("root", "timestamp", "snapshot", "targets")


def changed_files(script: Script) -> None:
    gun = script.gun
    script.notary("addhash", gun, "v1", "5", "--sha256", HELLO, "-p")
    with tamperer(script.server, script.folder) as proxy:
        url, ca = proxy.server.url, proxy.server.ca
        honest = script.notary("lookup", gun, "v1", user="honest", server=url, ca=ca)
        assert HELLO in honest
        for role in FILES:
            proxy.change, proxy.changed = later_version(role), []
            said = script.notary(
                *("lookup", gun, "v1"), user=f"no-{role}", server=url, ca=ca, status=1
            )
            assert HELLO not in said
            assert proxy.changed, f"nothing of {role} was changed"


def files_of_another_gun(script: Script) -> None:
    gun, other = script.gun, f"{script.gun}-other"
    for name, target in ((gun, "v1"), (other, "evil")):
        script.notary("addhash", name, target, "5", "--sha256", HELLO, "-p")
    script.notary("list", gun, user="warm")
    with tamperer(script.server, script.folder) as proxy:
        url, ca = proxy.server.url, proxy.server.ca
        proxy.reroute = lambda path: path.replace(f"/{gun}/", f"/{other}/")
        for user in ("cold", "warm"):
            said = script.notary("list", gun, user=user, server=url, ca=ca, status=1)
            assert "evil" not in said


@pytest.mark.parametrize("scenario", [changed_files, files_of_another_gun])
def test_notary_refuses_what_was_changed_on_its_way(
    scenario: Callable[[Script], None],
    real_notary: RealNotary,
    our_notary: NotaryServer,
    tmp_path: Path,
) -> None:
    engines.need("notary")
    compare(scenario, tmp_path, real_notary, our_notary)


def docker_gets_changed_files(script: DockerScript) -> None:
    image = script.make_image("1", "signed")
    script.docker("push", image, user="owner")
    script.forget()
    with tamperer(script.server, script.folder) as proxy:
        for role in FILES:
            proxy.change, proxy.changed = later_version(role), []
            script.docker("pull", image, user=f"no-{role}", server=proxy.server, status=1)
            assert proxy.changed, f"nothing of {role} was changed"
            assert script.images() == []
        proxy.change = later_version("nothing")
        run = ("run", "--rm", "--network=none", image, "cat", "/said")
        assert script.docker(*run, user="honest", server=proxy.server).startswith("signed")


def test_docker_refuses_what_was_changed_on_its_way(
    docker_world: DockerWorld, real_notary: RealNotary, our_notary: NotaryServer, tmp_path: Path
) -> None:
    engines.need("docker")
    compare_docker(docker_gets_changed_files, tmp_path, docker_world, real_notary, our_notary)
