"""Whoever used a real notary-server goes on with ours after an import, and never inits again."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from integration import engines
from notary_docker import DockerScript, DockerWorld
from notary_script import Script
from notary_servers import RealNotary, our_config, our_notary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

HELLO = hashlib.sha256(b"hello").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def import_notary(source: RealNotary, folder: Path, gun: str) -> Path:
    """Import the GUNs that start so; give the configuration of our server."""
    config = our_config(folder)
    passphrases = {
        f"NOTARY_SIGNER_{alias.upper()}": value
        for alias, value in source.signer_passphrases.items()
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tabellion_server", "import-notary", "--config", str(config)),
            *("--server-db", source.db_urls["server"]),
            *("--signer-db", source.db_urls["signer"], "--gun", gun),
        ],
        env=engines.plain_environment(folder) | passphrases,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return config


def test_an_owner_who_holds_the_snapshot_key_publishes_on_after_an_import(
    real_notary: RealNotary, tmp_path: Path
) -> None:
    engines.need("notary")
    script = Script(real_notary, tmp_path / "script")
    script.folder.mkdir()
    gun = script.gun
    script.notary("addhash", gun, "v1", "5", "--sha256", HELLO, "-p")
    script.notary("key", "rotate", gun, "root", stdin="yes\n")
    script.notary("list", gun, user="warm")
    folder = tmp_path / "ours"
    folder.mkdir()
    with our_notary(import_notary(real_notary, folder, gun)) as ours:
        for name in ("root.json", "timestamp.json", "1.root.json"):
            path = f"/v2/{gun}/_trust/tuf/{name}"
            assert ours.get(path) == real_notary.get(path)
        script.server = ours
        for user in ("warm", "cold"):
            assert HELLO in script.notary("list", gun, user=user)
        script.notary("addhash", gun, "v2", "5", "--sha256", OTHER, "-p")
        assert OTHER in script.notary("list", gun, user="warm")
        for words in (("timestamp", "-r"), ("targets",), ("snapshot", "-r"), ("root",)):
            script.notary("key", "rotate", gun, *words, stdin="yes\n")
            assert OTHER in script.notary("list", gun, user="warm")


def test_docker_goes_on_after_an_import(
    real_notary: RealNotary, docker_world: DockerWorld, tmp_path: Path
) -> None:
    script = DockerScript(real_notary, tmp_path / "script", world=docker_world)
    script.folder.mkdir()
    script.docker("trust", "key", "generate", "alice", "--dir", str(script.folder), user="alice")
    key = str(script.folder / "alice.pub")
    script.docker("trust", "signer", "add", "--key", key, "alice", script.gun, user="owner")
    first = script.make_image("1", "one")
    script.docker("push", first, user="alice")
    script.docker("pull", first)
    folder = tmp_path / "ours"
    folder.mkdir()
    with our_notary(import_notary(real_notary, folder, script.gun)) as ours:
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
