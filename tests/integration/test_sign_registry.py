"""``tabellion sign`` against a real registry that hasn't the tag, or doesn't let anybody in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from integration import engines

pytestmark = pytest.mark.system

LOCKED = "auth:\n  htpasswd: {{realm: tests, path: {path}}}\n"


def sign(folder: Path, image: str) -> tuple[int, str, dict[str, Any]]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TABELLION_")}
    done = subprocess.run(
        [sys.executable, "-m", "tabellion.cli", "sign", "--json", image],
        env={
            **kept,
            "TABELLION_HOME": str(folder / "home"),
            "TABELLION_SERVER": "http://127.0.0.1:1",
            "DOCKER_CONFIG": str(folder),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not (folder / "home").exists()
    return done.returncode, done.stderr, json.loads(done.stdout)["error"]


def test_tag_that_the_registry_does_not_have_is_refused_with_exit_1(tmp_path: Path) -> None:
    with engines.docker_registry(tmp_path / "registry") as registry:
        status, talk, error = sign(tmp_path, f"{registry.host}/app:1.0")
    assert (status, error["code"]) == (1, "unknown-image")
    assert f"has no such tag: {registry.host}/app:1.0" in talk
    assert error["hint"] == "check name and tag; push the image first"


def test_registry_without_credentials_is_a_matter_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text("")
    with engines.docker_registry(
        tmp_path / "registry", extra=LOCKED.format(path=tmp_path / "htpasswd")
    ) as registry:
        status, _, error = sign(tmp_path, f"{registry.host}/app:1.0")
    assert (status, error["code"]) == (2, "access-denied")
    assert f"docker login {registry.host}" in error["hint"]


def test_who_has_no_registry_is_told_what_else_can_be_given(tmp_path: Path) -> None:
    status, talk, error = sign(tmp_path, "127.0.0.1:1/app:1.0")
    assert (status, error["code"]) == (3, "unreachable")
    assert "--digest sha256:... and --length BYTES" in error["hint"]
    assert "--digest sha256:" in talk
