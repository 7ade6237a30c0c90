"""A GUN that the real notary made becomes a TUF GUN; ours and python-tuf read it from then on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from integration import engines
from integration.test_notary_cli import signer
from notary_script import Script
from notary_servers import NotaryServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

HELLO = hashlib.sha256(b"hello").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


class Fetcher(FetcherInterface):
    """Fetches for python-tuf, over https by the server's own authority."""

    def __init__(self, server: NotaryServer) -> None:
        self.server = server

    def _fetch(self, url: str) -> Iterator[bytes]:
        status, data = self.server.get(url.removeprefix(self.server.url))
        if status != 200:
            raise DownloadHTTPError("no", status)
        return iter([data])


def python_tuf(script: Script, root: bytes, path: str) -> str | None:
    """Ask python-tuf's own client what a name stands for."""
    home = script.folder / f"python-tuf-{path}"
    home.mkdir()
    base = f"{script.server.url}/v2/{script.gun}/_trust/tuf/"
    updater = Updater(str(home), base, bootstrap=root, fetcher=Fetcher(script.server))
    found = updater.get_targetinfo(path)
    return None if found is None else found.hashes["sha256"]


def test_a_gun_of_the_real_notary_is_converted_and_everybody_reads_on(
    our_notary: NotaryServer, tmp_path: Path
) -> None:
    engines.need("notary")
    script = Script(our_notary, tmp_path)
    gun = script.gun
    script.notary("init", gun, "-p")
    script.notary("addhash", gun, "v1", "5", "--sha256", OTHER, "-p")
    script.notary("key", "rotate", gun, "snapshot", "-r")
    alice, _ = signer(script, "alice")
    script.notary("delegation", "add", gun, "targets/releases", alice, "--all-paths", "-p")
    for name in ("v1", "v2"):
        words = (gun, name, "5", "--sha256", HELLO, "-r", "targets/releases", "-p")
        script.notary("addhash", *words, user="alice")
    old_root = our_notary.get(f"/v2/{gun}/_trust/tuf/1.root.json")[1]
    (tmp_path / "old.root.json").write_bytes(old_root)

    image = f"{gun}:v1"
    script.tabellion("verify", "--trust-on-first-use", image, user="warm")
    for person in ("owner", "alice"):
        folder = str(tmp_path / person / "trust")
        script.tabellion("key", "import", "--notary", folder, user=person)
    script.tabellion("convert", "--gun", gun, "--to", "tuf", status=2)  # nobody to be asked
    told = script.tabellion(
        *("convert", "--gun", gun, "--to", "tuf", "--dry-run", "--trust-on-first-use")
    )
    assert "targets/releases goes on as releases for *" in told
    assert "releases: 1 more of its keys have to sign" in told
    done = script.tabellion("convert", "--gun", gun, "--to", "tuf", "--yes")
    file = Path(done.splitlines()[0])
    shutil.copy(file, tmp_path / "to-sign.json")
    script.tabellion("verify", image, user="warm")
    assert script.notary("list", gun, user="reader")
    told = script.tabellion(
        *("publish", "--cosign", "to-sign.json", "--trust-on-first-use"), user="alice"
    )
    assert "published (root version" in told

    trusts = {
        "warm": (),
        "first": ("--trust-on-first-use",),
        "pinned": ("--root", str(tmp_path / "old.root.json")),
    }
    for user, trust in trusts.items():
        for name in ("v1", "v2"):
            digest = script.tabellion("verify", *trust, f"{gun}:{name}", user=user)
            assert f"sha256:{HELLO}" in digest
    script.notary("list", gun, user="later", status=1, own_words=True)
    version = max(
        number
        for number in range(1, 9)
        if our_notary.get(f"/v2/{gun}/_trust/tuf/{number}.root.json")[0] == 200
    )
    new_root = our_notary.get(f"/v2/{gun}/_trust/tuf/{version}.root.json")[1]
    assert version > 1
    assert python_tuf(script, new_root, "v1") == HELLO
    assert python_tuf(script, new_root, "nothing") is None
    # Signing goes on as well, by its signer and by its owner.
    digest = f"sha256:{OTHER}"
    script.tabellion("sign", f"{gun}:v3", "--digest", digest, "--length", "5", user="alice")
    assert digest in script.tabellion("verify", f"{gun}:v3", user="warm")
