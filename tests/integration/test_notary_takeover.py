"""A mirror of a real notary-server is read by the real clients, and takes over with its keys."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration import engines
from notary_docker import DockerScript, DockerWorld
from notary_script import Script
from notary_servers import NotaryServer, RealNotary, our_config, our_notary
from tabellion.core.dialect import NOTARY

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

HELLO = hashlib.sha256(b"hello").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@dataclass(frozen=True)
class Mirroring:
    """One server of ours that mirrors the real one.

    Attributes:
        real: Whom.
        config: Of ours.
    """

    real: RealNotary
    config: Path

    def run(self, *words: str, status: int = 0) -> str:
        """Run ``tabellion-server``, and give what it wrote."""
        variables = {
            f"NOTARY_SIGNER_{alias.upper()}": passphrase
            for alias, passphrase in self.real.signer_passphrases.items()
        }
        done = subprocess.run(
            [sys.executable, "-m", "tabellion_server", *words, "--config", str(self.config)],
            env=os.environ | variables | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def mirror(self, *guns: str) -> str:
        named = [word for gun in guns for word in ("--gun", gun)]
        return self.run("mirror", self.real.url, "--ca", str(self.real.ca), *named)

    def take_keys(self, *words: str, status: int = 0) -> str:
        """Import from a dump of notary-signer alone."""
        dump = self.config.parent / "signer.sql"
        dump.write_text(self.real.dump("signer"))
        return self.run("import-notary", "--signer-db", str(dump), *words, status=status)


@pytest.fixture
def mirroring(real_notary: RealNotary, tmp_path: Path) -> Mirroring:
    engines.need("notary")
    folder = tmp_path / "ours"
    folder.mkdir()
    return Mirroring(real_notary, our_config(folder))


@pytest.fixture
def script(real_notary: RealNotary, tmp_path: Path) -> Script:
    made = Script(real_notary, tmp_path / "people")
    made.folder.mkdir()
    return made


def feed(server: NotaryServer, gun: str) -> list[tuple[int, str]]:
    """Give what a server's changefeed tells of a GUN."""
    _, body = server.get(f"/v2/{gun}/_trust/changefeed?records=100")
    return [(item["Version"], item["SHA256"]) for item in json.loads(body)["records"]]


def version(server: NotaryServer, gun: str, role: str = "timestamp") -> int:
    status, body = server.get(f"/v2/{gun}/_trust/tuf/{role}.json")
    assert status == 200
    return NOTARY.parse(role, body, max_bytes=len(body)).version


def published(script: Script) -> str:
    """Make a GUN whose snapshot and timestamp keys the server holds, each once rotated."""
    gun = script.gun
    script.notary("init", gun)
    script.notary("key", "rotate", gun, "snapshot", "-r")
    script.notary("addhash", gun, "v1", "5", "--sha256", HELLO, "-p")
    script.notary("key", "rotate", gun, "timestamp", "-r")
    return gun


def test_clients_read_on_from_the_mirror_which_takes_over_with_the_signers_keys(
    mirroring: Mirroring, script: Script, real_notary: RealNotary
) -> None:
    gun = published(script)
    script.notary("list", gun, user="warm")
    assert "1 imported" in mirroring.mirror(gun[:-2] + "*")
    with our_notary(mirroring.config) as ours:
        there = {"server": ours.url, "ca": ours.ca}
        for user in ("warm", "cold"):
            assert HELLO in script.notary("list", gun, user=user, **there)
        script.notary("addhash", gun, "v2", "5", "--sha256", OTHER, "-p")
        assert "1 imported" in mirroring.mirror(gun)
        assert "1 unchanged" in mirroring.mirror(gun)
        for user in ("warm", "cold", "new"):
            assert OTHER in script.notary("list", gun, user=user, **there)
        assert feed(real_notary, gun) == feed(ours, gun)

        # Its timestamps aren't ours to sign: nothing can be published here.
        script.notary("addhash", gun, "v3", "5", "--sha256", OTHER, "-p", status=1, **there)
        assert "v3" not in script.notary("list", gun, user="new", **there)
        assert version(ours, gun) == version(real_notary, gun)

        assert "nothing was written" in mirroring.take_keys("--dry-run", "--gun", gun)
        script.notary("publish", gun, status=1, **there)
        assert "1 imported" in mirroring.take_keys("--gun", gun)
        assert "1 unchanged" in mirroring.take_keys("--gun", gun)
        script.notary("publish", gun, **there)  # what was staged
        for words in (("timestamp", "-r"), ("snapshot", "-r"), ("targets",), ("root",)):
            script.notary("key", "rotate", gun, *words, stdin="yes\n", **there)
        for user in ("warm", "cold", "new", "newest"):
            assert "v3" in script.notary("list", gun, user=user, **there)
        before = version(ours, gun)
        assert "1 diverged" in mirroring.run(
            *("mirror", real_notary.url, "--ca", str(real_notary.ca), "--gun", gun), status=1
        )
        assert version(ours, gun) == before > version(real_notary, gun)


def test_without_the_signers_keys_only_an_owner_with_the_snapshot_key_goes_on(
    mirroring: Mirroring, script: Script
) -> None:
    gun = published(script)
    own = f"{gun}-own"
    script.notary("addhash", own, "v1", "5", "--sha256", HELLO, "-p")
    script.notary("list", own, user="warm")
    mirroring.mirror(gun, own)
    with our_notary(mirroring.config) as ours:
        there = {"server": ours.url, "ca": ours.ca}
        before = [ours.get(f"/v2/{gun}/_trust/tuf/{role}.json") for role in ("root", "timestamp")]
        for role in ("timestamp", "snapshot"):
            script.notary("key", "rotate", gun, role, "-r", status=1, **there)
        assert before == [
            ours.get(f"/v2/{gun}/_trust/tuf/{role}.json") for role in ("root", "timestamp")
        ]
        script.notary("key", "rotate", own, "timestamp", "-r", **there)
        script.notary("addhash", own, "v2", "5", "--sha256", OTHER, "-p", **there)
        for user in ("warm", "cold"):
            assert OTHER in script.notary("list", own, user=user, **there)


def test_an_owner_moves_both_roles_here_by_one_root(mirroring: Mirroring, script: Script) -> None:
    gun = published(script)
    script.notary("list", gun, user="warm")
    assert "1 imported" in mirroring.mirror(gun)
    with our_notary(mirroring.config) as ours:
        there = {"server": ours.url, "ca": ours.ca}
        script.notary("addhash", gun, "v3", "5", "--sha256", OTHER, "-p", status=1, **there)
        # The publication that was refused goes on once the owner gave both roles keys of ours.
        script.tabellion("key", "import", "--notary", str(script.folder / "owner" / "trust"))
        place = ("--server", ours.url, "--ca", str(ours.ca), "--trust-on-first-use")
        said = script.tabellion(*place, "rotate", gun, "timestamp", status=2)
        assert "it is a mirror of the GUN" in said
        script.tabellion(*place, "rotate", gun, "snapshot", "timestamp", "--server-managed")
        script.notary("publish", gun, **there)
        for user in ("warm", "brand-new"):
            assert "v3" in script.notary("list", gun, user=user, **there)


def test_docker_goes_on_with_the_mirror_that_took_over(
    mirroring: Mirroring, docker_world: DockerWorld, real_notary: RealNotary, tmp_path: Path
) -> None:
    script = DockerScript(real_notary, tmp_path / "script", world=docker_world)
    script.folder.mkdir()
    script.docker("trust", "key", "generate", "alice", "--dir", str(script.folder), user="alice")
    key = str(script.folder / "alice.pub")
    script.docker("trust", "signer", "add", "--key", key, "alice", script.gun, user="owner")
    first = script.make_image("1", "one")
    script.docker("push", first, user="alice")
    script.docker("pull", first)
    mirroring.mirror(script.gun)
    mirroring.take_keys("--gun", script.gun)
    with our_notary(mirroring.config) as ours:
        script.server = ours
        script.forget()
        script.docker("pull", first)
        second = script.make_image("2", "two")
        script.docker("push", second, user="alice")
        script.docker("trust", "revoke", first, user="alice")
        script.forget()
        script.docker("pull", second)
        script.docker("pull", first, status=1)
        script.docker("pull", second, user="cold")
    script.forget()


def test_keys_alone_for_nothing_that_is_here_are_refused_and_make_no_store(
    mirroring: Mirroring,
) -> None:
    said = mirroring.take_keys(status=2)
    assert "mirror the server first" in said
    assert "--server-db" in mirroring.run("import-notary", status=2)
    assert not list(mirroring.config.parent.glob("*.db"))
    assert not (mirroring.config.parent / "master.key").exists()
