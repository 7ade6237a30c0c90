"""What our client writes in a Notary GUN is read by the real clients, on both servers."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from integration import engines
from notary_script import Script
from notary_servers import NotaryServer, RealNotary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

DIGEST = hashlib.sha256(b"image").hexdigest()
SECRETS = {
    f"TABELLION_{role}_PASSPHRASE": "secret-word"
    for role in ("ROOT", "TARGETS", "SIGNER", "SNAPSHOT")
}


@pytest.fixture(params=["real", "ours"])
def script(
    request: pytest.FixtureRequest,
    real_notary: RealNotary,
    our_notary: NotaryServer,
    tmp_path: Path,
) -> Script:
    engines.need("notary")
    return Script({"real": real_notary, "ours": our_notary}[request.param], tmp_path)


def tabellion(script: Script, *words: str, user: str = "owner", status: int = 0) -> str:
    env = {
        "TABELLION_HOME": str(script.folder / user / "tabellion"),
        "TABELLION_SERVER": script.server.url,
        "TABELLION_CA": str(script.server.ca),
        **SECRETS,
    }
    return script.run(
        *(sys.executable, "-m", "tabellion.cli", *words), user=user, status=status, env=env
    )


def sign(script: Script, tag: str, *words: str, user: str = "owner", status: int = 0) -> str:
    image = f"{script.gun}:{tag}"
    return tabellion(
        script, "sign", image, "--digest", f"sha256:{DIGEST}", "--length", "5", *words,
        user=user, status=status,
    )  # fmt: skip


def new_key(script: Script, name: str) -> str:
    """Have somebody make a signing key, and give the file of its public part."""
    tabellion(script, "key", "generate", "--type", "ecdsa", "--name", name, user=name)
    key = tabellion(script, "key", "export", name, user=name)
    return script.file(f"{name}.pub", key[key.index("-----BEGIN") :])


def listed(script: Script, user: str = "reader") -> dict[str, str]:
    """List as the real notary does: tag to role."""
    lines = script.notary("list", script.gun, user=user).splitlines()
    rows = [line.split() for line in lines if DIGEST in line]
    return {row[0]: row[-1] for row in rows}


@pytest.mark.parametrize("snapshot", ["server", "local"])
def test_every_rotation_of_ours_is_followed_by_the_real_client(
    script: Script, snapshot: str
) -> None:
    tabellion(script, "init", "--dialect", "notary", script.gun, "--snapshot", snapshot)
    sign(script, "v1")
    assert listed(script) == {"v1": "targets"}
    rotations = (
        *(("targets",), ("root",), ("timestamp",)),
        *(("snapshot", "--server-managed"), ("snapshot",)),
    )
    for words in rotations:
        tabellion(script, "rotate", script.gun, *words)
        assert listed(script) == {"v1": "targets"}, words
    assert listed(script, user="newcomer") == {"v1": "targets"}
    assert DIGEST in tabellion(script, "verify", f"{script.gun}:v1")
    sign(script, "v2")
    tabellion(script, "revoke", f"{script.gun}:v1")
    assert listed(script) == {"v2": "targets"}


def test_signers_of_ours_sign_as_dockers_do(script: Script) -> None:
    tabellion(script, "init", "--dialect", "notary", script.gun)
    for name in ("alice", "bob"):
        tabellion(script, "signer", "add", script.gun, name, new_key(script, name))
    first = ("--trust-on-first-use",)
    sign(script, "v1", *first, user="alice")
    sign(script, "v2", *first, user="bob")
    sign(script, "v1", user="bob")
    sign(script, "owned", status=2)  # there are signers: the owner says so, or doesn't sign
    sign(script, "owned", "--role", "targets")
    released = {"v1": "targets/releases", "v2": "targets/releases", "owned": "targets"}
    inspected = tabellion(script, "verify", "--json", f"{script.gun}:v1", *first, user="reader")
    signers = json.loads(inspected[inspected.index("{") :])["signers"]
    assert [signer["role"] for signer in signers] == [
        *("targets/releases", "targets/alice", "targets/bob")
    ]
    found = listed(script)
    assert found["v2"] in {"targets/releases", "targets/bob"}
    assert found.keys() == released.keys()
    # Bob's key signed the release last, so alice may go.
    tabellion(script, "signer", "remove", script.gun, "alice")
    assert listed(script, user="newcomer").keys() == released.keys()
    assert DIGEST in tabellion(script, "verify", f"{script.gun}:v1", user="reader")
    # Bob may not: only his key vouches for what is released.
    tabellion(script, "revoke", f"{script.gun}:v2", user="bob")
    assert "v2" not in listed(script, user="newcomer")
    sign(script, "v3", user="alice", status=2)


def test_a_pattern_that_notary_cannot_hold_is_refused(script: Script) -> None:
    tabellion(script, "init", "--dialect", "notary", script.gun)
    path = new_key(script, "alice")
    add = ("signer", "add", script.gun, "alice", path)
    for pattern in ("v?", "1.0", "*-rc"):
        tabellion(script, *add, "--path", pattern, status=2)
    tabellion(script, "signer", "add", script.gun, "releases", path, status=2)
    tabellion(script, *add, "--threshold", "2", status=2)
    tabellion(script, *add, "--path", "v1*")
    sign(script, "v1.1", "--trust-on-first-use", user="alice")
    sign(script, "v2", "--role", "alice", user="alice", status=2)
    assert listed(script).keys() == {"v1.1"}


def test_history_tells_what_tags_meant(script: Script) -> None:
    tabellion(script, "init", "--dialect", "notary", script.gun)
    sign(script, "v1")
    sign(script, "v2")
    tabellion(script, "rotate", script.gun, "targets")
    tabellion(script, "revoke", f"{script.gun}:v1")
    told = tabellion(script, "history", "--json", script.gun)
    entries = json.loads(told[told.index("[") :])
    assert [(entry["kind"], entry["target"], entry["version"]) for entry in entries] == [
        *(("revoked", "v1", 5), ("signed", "v2", 3), ("signed", "v1", 2))
    ]
    assert all(entry["digest"] == f"sha256:{DIGEST}" for entry in entries)
    assert all(entry["at"] is not None for entry in entries)
    told = tabellion(script, "history", f"{script.gun}:v2", "--json")
    assert [entry["target"] for entry in json.loads(told[told.index("[") :])] == ["v2"]


def test_a_gun_that_is_not_there_is_not_signed(script: Script) -> None:
    told = tabellion(script, "verify", f"{script.gun}:v1", "--trust-on-first-use", status=1)
    assert "nothing is signed in" in told
    tabellion(script, "history", script.gun, status=1)
    sign(script, "v1", status=1)


def test_a_threshold_of_ours_is_honoured_by_the_real_client_which_cannot_sign_a_part(
    script: Script,
) -> None:
    keys = [
        tabellion(
            script, "key", "generate", "--role", "targets", "--type", "ecdsa", "--name", name
        ).split()[0]
        for name in ("one", "two")
    ]
    words = ("--targets-key-id", "one", "--targets-key-id", "two", "--targets-threshold", "2")
    tabellion(script, "init", "--dialect", "notary", script.gun, *words)
    sign(script, "v1")
    assert listed(script) == {"v1": "targets"}
    # One of the two keys alone, in the hands of notary's own client: refused, nothing changes.
    folder = str(script.folder / "half" / "trust")
    (script.folder / "half").mkdir()
    tabellion(script, "key", "export", keys[0], "--notary", folder, "--gun", script.gun)
    said = script.notary(
        *("addhash", script.gun, "v2", "5", "--sha256", DIGEST, "-p"), user="half", status=1
    )
    assert "found 1 of 2 needed keys" in said
    assert listed(script, "after") == {"v1": "targets"}
