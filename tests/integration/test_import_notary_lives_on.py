"""What a real Notary held is served by ours, and its clients go on with no ``init``."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from notary_script import Script
from notary_servers import RealNotary, our_config, our_notary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

HELLO = hashlib.sha256(b"hello").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def run_import(config: Path, real: RealNotary, *places: str, gun: str) -> str:
    variables = {
        f"OLD_{alias.upper()}": passphrase for alias, passphrase in real.signer_passphrases.items()
    }
    named = [f"--passphrase-env={alias}=OLD_{alias.upper()}" for alias in real.signer_passphrases]
    words = [sys.executable, "-m", "tabellion_server", "import-notary", "--config", str(config)]
    done = subprocess.run(
        [*words, "--server-db", places[0], "--signer-db", places[1], "--gun", gun, *named],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | variables,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("form", ["live", "dump"])
def test_clients_of_the_old_server_publish_and_rotate_on_the_imported_one(
    real_notary: RealNotary, tmp_path: Path, form: str
) -> None:
    script = Script(real_notary, tmp_path / "people")
    script.folder.mkdir()
    gun = script.gun
    script.notary("init", gun)
    script.notary("key", "rotate", gun, "snapshot", "-r")
    script.notary("addhash", gun, "v1", "5", "--sha256", HELLO, "-p")
    script.notary("key", "rotate", gun, "timestamp", "-r")
    script.notary("list", gun, user="warm")
    places = list(real_notary.db_urls.values())
    if form == "dump":
        places = [str(tmp_path / f"{name}.sql") for name in real_notary.db_urls]
        for name, place in zip(real_notary.db_urls, places, strict=True):
            Path(place).write_text(real_notary.dump(name))
    (tmp_path / "ours").mkdir()
    config = our_config(tmp_path / "ours")
    assert "1 imported" in run_import(config, real_notary, *places, gun=gun)
    with our_notary(config) as ours:
        there = {"server": ours.url, "ca": ours.ca}
        assert HELLO in script.notary("list", gun, user="warm", **there)
        assert HELLO in script.notary("list", gun, user="cold", **there)
        script.notary("addhash", gun, "v2", "5", "--sha256", OTHER, "-p", **there)
        script.notary("key", "rotate", gun, "timestamp", "-r", **there)
        script.notary("key", "rotate", gun, "targets", **there)
        for user in ("warm", "cold", "new"):
            assert OTHER in script.notary("list", gun, user=user, **there)
        feed = f"/v2/{gun}/_trust/changefeed?records=100"
        theirs, own = (server.get(feed)[1] for server in (real_notary, ours))
        told = theirs.split(b'"SHA256":"')[1:]
        assert len(told) == 3, theirs
        for item in told:
            assert item[:64] in own
