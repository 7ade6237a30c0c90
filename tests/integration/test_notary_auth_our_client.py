"""Our command line logs in where the real ``notary`` does: at notary-server and at ours."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from yarl import URL

from integration import engines
from integration.test_notary_auth import GUN, Notary, notary

__all__ = ["notary"]  # the fixture
pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
CONTENT = "content"


def _run(
    server: Notary, home: Path, words: tuple[str, ...], env: dict[str, str]
) -> tuple[int, str]:
    home.mkdir(exist_ok=True)
    environ = engines.plain_environment(home) | {
        "TABELLION_HOME": str(home / "tabellion"),
        "TABELLION_SERVER": server.server.url,
        "TABELLION_CA": str(server.server.ca),
        "DOCKER_CONFIG": str(home),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tabellion.cli", *words],
        env=environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


async def test_our_client_reads_what_the_token_service_lets_it(
    notary: Notary,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text(CONTENT)
    await notary.run("init", GUN, user="dave")
    await notary.run("add", GUN, "v1", str(tmp_path / "file"), user="dave")
    await notary.run("publish", GUN, user="dave")
    words = ("verify", "--gun", GUN, "v1", "--file", str(tmp_path / "file"))
    first = (*words, "--trust-on-first-use")
    digest = hashlib.sha256(CONTENT.encode()).hexdigest()

    status, said = await asyncio.to_thread(_run, notary, tmp_path / "nobody", first, {})
    assert status == 2, said
    assert "docker login" in said
    pair = base64.b64encode(b"eve:secret").decode()
    as_eve = {"NOTARY_AUTH": pair}
    status, said = await asyncio.to_thread(_run, notary, tmp_path / "eve", first, as_eve)
    assert (status, digest in said) == (0, True), said
    for host in (URL(notary.server.url).authority, "registry.example"):
        home = tmp_path / host.replace(":", "-")
        home.mkdir()
        (home / "config.json").write_text(json.dumps({"auths": {host: {"auth": pair}}}))
        status, said = await asyncio.to_thread(_run, notary, home, first, {})
        assert (status, digest in said) == (0, True), said
    notary.service.grants[""] = {"pull"}
    status, said = await asyncio.to_thread(_run, notary, tmp_path / "nobody", first, {})
    assert (status, digest in said) == (0, True), said
