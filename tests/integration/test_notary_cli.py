"""The real ``notary`` does the same with our server as with the real notary-server.

Each scenario is run against both in turn; exit statuses and output are compared step by step.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from integration import engines
from notary_script import Script, compare
from notary_servers import NotaryServer, RealNotary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

HELLO = hashlib.sha256(b"hello").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def key_id(script: Script, *, role: str) -> str:
    """Give the ID of the owner's key of a role."""
    listed = script.notary("key", "list")
    (found,) = re.findall(rf"^\s*{role}\s.*?([0-9a-f]{{64}})", listed, re.MULTILINE)
    return str(found)


def started(script: Script) -> str:
    """Publish a GUN with the target ``v1``, and give the GUN."""
    script.notary("init", script.gun)
    script.notary("addhash", script.gun, "v1", "5", "--sha256", HELLO)
    script.notary("publish", script.gun)
    return script.gun


def signer(script: Script, name: str) -> tuple[str, str]:
    """Make a signer's key; give the certificate's file and the key's ID, imported as ``name``."""
    key, certificate = (str(script.folder / f"{name}.{end}") for end in ("key", "crt"))
    script.run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-sha256", "-days", "30", "-subj", f"/CN={name}"),
        *("-keyout", key, "-out", certificate),
    )
    script.steps.pop()  # openssl prints dots by chance
    script.notary("key", "import", key, "--role", name, user=name)
    listed = script.notary("key", "list", user=name)
    (found,) = re.findall(r"[0-9a-f]{64}", listed)
    return certificate, str(found)


def life_of_targets(script: Script) -> None:
    gun = script.gun
    script.notary("list", gun, status=1)
    script.notary("init", gun)
    script.notary("list", gun, status=1, user="reader")
    hello = script.file("hello", "hello")
    script.notary("add", gun, "v1", hello)
    assert "v1" in script.notary("status", gun)
    script.notary("publish", gun)
    assert HELLO in script.notary("list", gun, user="reader")
    script.notary("addhash", gun, "v2", "5", "--sha256", OTHER, "-p")
    assert OTHER in script.notary("lookup", gun, "v2", user="reader")
    assert HELLO in script.notary("lookup", gun, "v1", user="cold")
    script.notary("lookup", gun, "v3", status=1, user="reader")
    script.notary("verify", gun, "v1", "-i", hello, "-q", user="reader")
    script.notary("verify", gun, "v2", "-i", hello, "-q", status=1, user="reader")
    unsorted = script.file("unsorted.json", '{"b":1,"a":2}')  # the client signs it as it is
    script.notary("add", gun, "v3", hello, "--custom", unsorted, "-p", status=1)
    script.notary("reset", gun, "--all")
    custom = script.file("custom.json", '{"a":1,"b":["tag",null]}')
    script.notary("add", gun, "<v&4>", hello, "--custom", custom, "-p")
    assert "<v&4>" in script.notary("list", gun, user="reader")
    script.notary("remove", gun, "v1", "-p")
    script.notary("lookup", gun, "v1", status=1, user="reader")
    assert "v2" in script.notary("list", gun, user="cold")
    script.notary("publish", gun)  # nothing staged: an upload without parts
    script.notary("add", gun, "v5", hello)
    script.notary("reset", gun, "--all")
    script.notary("publish", gun)
    script.notary("lookup", gun, "v5", status=1, user="reader")
    script.notary("witness", gun, "targets", "-p")
    assert "v2" in script.notary("list", gun, user="reader")


def delegations(script: Script) -> None:
    gun = started(script)
    alice, alice_id = signer(script, "alice")
    bob, bob_id = signer(script, "bob")
    script.notary("delegation", "add", gun, "targets/releases", alice, "--all-paths", "-p")
    script.notary("delegation", "add", gun, "targets/bob", bob, "--paths", "bob-", "-p")
    listed = script.notary("delegation", "list", gun, user="reader")
    assert alice_id in listed
    assert bob_id in listed
    add = ("addhash", gun, "a1", "5", "--sha256", HELLO, "-r", "targets/releases", "-p")
    script.notary(*add, user="alice", status=1, own_words=True)  # the owner holds the snapshot
    script.notary("reset", gun, "--all", user="alice")
    script.notary("key", "rotate", gun, "snapshot", "-r")
    script.notary(*add, user="alice")
    assert "targets/releases" in script.notary("list", gun, user="reader")
    script.notary("addhash", gun, "b1", *add[3:], status=1, user="bob")
    script.notary("reset", gun, "--all", user="bob")
    for name, status in (("bob-1", 0), ("other", 1)):  # beyond bob's paths
        words = ("addhash", gun, name, "5", "--sha256", OTHER, "-r", "targets/bob", "-p")
        script.notary(*words, user="bob", status=status)
    script.notary("reset", gun, "--all", user="bob")
    seen = script.notary("list", gun, "-r", "targets/bob", user="reader")
    assert ("bob-1" in seen, "other" in seen) == (True, False)
    script.notary("delegation", "add", gun, "targets/releases/deep", bob, "--all-paths")
    script.notary("publish", gun, status=1)  # the owner hasn't alice's key
    script.notary("reset", gun, "--all")
    deep = ("delegation", "add", gun, "targets/releases/deep", bob, "--all-paths", "-p")
    script.notary(*deep, user="alice")
    words = ("addhash", gun, "d1", "5", "--sha256", OTHER, "-r", "targets/releases/deep", "-p")
    script.notary(*words, user="bob")
    assert "d1" in script.notary("list", gun, user="cold")
    script.notary("witness", gun, "targets/releases", "-p", user="alice")
    script.notary("witness", gun, "targets/bob", "-p", status=1, user="alice")
    script.notary("delegation", "add", gun, "targets/releases", bob, "-p")
    script.notary("witness", gun, "targets/releases", "-p", user="bob")
    script.notary("delegation", "remove", gun, "targets/releases", alice_id, "-p")
    assert "a1" in script.notary("list", gun, user="reader")
    script.notary("delegation", "purge", gun, "--key", bob_id, "-p")
    # The real server goes on listing files nobody may sign, of which the client warns.
    shown = ("delegation", "list", gun)
    assert bob_id not in script.notary(*shown, user="reader", own_words=True)
    script.notary("delegation", "remove", gun, "targets/bob", "-y", "-p", own_words=True)
    assert "targets/bob" not in script.notary(*shown, user="reader", own_words=True)
    script.notary("delegation", "remove", gun, "targets/never", "-y", "-p", own_words=True)
    assert "v1" in script.notary("list", gun, user="late", own_words=True)


def rotations(script: Script) -> None:
    gun = started(script)
    script.notary("list", gun, user="reader")
    for words in (
        ("snapshot", "-r"),
        ("timestamp", "-r"),
        ("targets",),
        ("snapshot",),
        ("root",),
        ("timestamp", "-r"),
        ("targets",),
        ("snapshot", "-r"),
    ):
        answer = "yes\n" if words[0] == "root" else ""
        script.notary("key", "rotate", gun, *words, stdin=answer)
        assert HELLO in script.notary("lookup", gun, "v1", user="reader")
        assert HELLO in script.notary("lookup", gun, "v1", user=f"after-{len(script.steps)}")
    script.notary("addhash", gun, "v2", "5", "--sha256", OTHER, "-p")
    assert "v2" in script.notary("list", gun, user="reader")
    script.notary("key", "rotate", gun, "timestamp", status=1)
    script.notary("key", "rotate", gun, "targets", "-r", status=1)
    script.notary("key", "rotate", gun, "releases", status=1)
    script.notary("key", "rotate", gun, "root", stdin="no\n")  # it asks, and stops
    script.notary("key", "rotate", gun, "targets", status=1, user="reader")
    assert "v2" in script.notary("list", gun, user="reader")


def deletion(script: Script) -> None:
    gun = started(script)
    script.notary("list", gun, user="reader")
    script.notary("delete", gun, "--remote")
    script.notary("delete", gun, "--remote")  # nothing is left: still fine
    script.notary("list", gun, status=1, user="cold")
    script.notary("list", gun, status=1)
    script.notary("list", gun, user="reader")  # its cache lasts as long as its timestamp
    script.notary("init", gun)
    script.notary("addhash", gun, "again", "5", "--sha256", OTHER, "-p")
    assert "again" in script.notary("list", gun, user="later")
    script.notary("list", gun, status=1, user="reader")  # it trusts the old root


def refusals(script: Script) -> None:
    gun = script.gun
    for words in (
        ("lookup", gun, "v1"),
        ("delegation", "list", gun),
        ("verify", gun, "v1", "-q"),
    ):
        script.notary(*words, status=1)
    script.notary("init", "no spaces/Ä*", status=1)
    script.notary("list", gun, status=1, server="https://127.0.0.1:1")
    started(script)
    script.notary("init", gun, user="stranger")  # its own idea of the GUN, not published
    script.notary("addhash", gun, "evil", "5", "--sha256", OTHER, user="stranger")
    script.notary("publish", gun, status=1, user="stranger")
    assert "evil" not in script.notary("list", gun, user="reader")
    script.notary("list", gun, server="https://127.0.0.1:1", user="reader")  # from its cache


def given_root_key(script: Script) -> None:
    gun = script.gun
    script.notary("key", "generate", "ecdsa")
    root = key_id(script, role="root")
    script.notary("init", gun, "-p")
    assert key_id(script, role="root") == root
    script.notary("addhash", gun, "v1", "5", "--sha256", HELLO, "-p")
    exported = str(script.folder / "exported.pem")
    script.notary("key", "export", "-o", exported)
    script.notary("key", "import", exported, user="second")
    script.notary("addhash", gun, "v2", "5", "--sha256", OTHER, "-p", user="second")
    script.notary("addhash", gun, "v3", "5", "--sha256", OTHER, "-p")
    listed = script.notary("list", gun, user="reader")
    assert all(name in listed for name in ("v1", "v2", "v3"))


def two_machines(script: Script) -> None:
    """Two machines stage against the same version; the later publisher takes in the earlier's."""
    gun = started(script)
    shutil.copytree(script.folder / "owner", script.folder / "second")
    script.notary("addhash", gun, "v2", "5", "--sha256", OTHER)
    script.notary("addhash", gun, "v3", "5", "--sha256", OTHER, user="second")
    script.notary("publish", gun)
    script.notary("publish", gun, user="second")
    listed = script.notary("list", gun, user="reader")
    assert all(name in listed for name in ("v1", "v2", "v3"))


# How the real server's GUNs may look, beside docker's names.
GUNS = (
    "{}/Team/App",
    "single-{}",
    "Registry.EXAMPLE:5000/{}/x_y-z.1",
    "{}/ünï/cøde",
    "{}/a@sha256:00+b",
    "{}/" + "x" * 242,
)


def odd_guns(script: Script) -> None:
    for pattern in GUNS:
        gun = pattern.format(script.gun.rpartition("/")[2])
        script.notary("addhash", gun, "v1", "5", "--sha256", HELLO, "-p", own_words=True)
        assert HELLO in script.notary("list", gun, user="reader", own_words=True)
    # the words differ by the name that differs from run to run
    script.steps[:] = [replace(step, words="") for step in script.steps]


@pytest.mark.parametrize(
    "scenario",
    [
        life_of_targets,
        delegations,
        rotations,
        deletion,
        refusals,
        given_root_key,
        two_machines,
        odd_guns,
    ],
)
def test_notary_does_with_ours_what_it_does_with_the_real_server(
    scenario: Callable[[Script], None],
    real_notary: RealNotary,
    our_notary: NotaryServer,
    tmp_path: Path,
) -> None:
    engines.need("notary", "openssl")
    compare(scenario, tmp_path, real_notary, our_notary)


@pytest.mark.parametrize("gun", ["with space/{}", "{}/_trust/tuf"])
def test_ours_refuses_guns_that_hide_what_they_name(
    gun: str, real_notary: RealNotary, our_notary: NotaryServer, tmp_path: Path
) -> None:
    """Names with white space or our own path in them are legal with the real server."""
    engines.need("notary")
    for server, status in ((real_notary, 0), (our_notary, 1)):
        script = Script(server, tmp_path / server.name)
        script.folder.mkdir()
        name = gun.format(script.gun.rpartition("/")[2])
        script.notary("addhash", name, "v1", "5", "--sha256", HELLO, "-p", status=status)
        said = script.notary("list", name, user="reader", status=status)
        assert (HELLO in said) is (status == 0)


def test_ours_refuses_the_key_removal_with_which_the_real_server_breaks_readers(
    real_notary: RealNotary, our_notary: NotaryServer, tmp_path: Path
) -> None:
    """The one deviation: a file nobody re-signed would be left without a valid signature."""
    engines.need("notary", "openssl")
    for server, status in ((real_notary, 0), (our_notary, 1)):
        script = Script(server, tmp_path / server.name)
        script.folder.mkdir()
        gun = started(script)
        script.notary("key", "rotate", gun, "snapshot", "-r")
        alice, alice_id = signer(script, "alice")
        bob, _ = signer(script, "bob")
        role = "targets/releases"
        script.notary("delegation", "add", gun, role, alice, bob, "--all-paths", "-p")
        words = ("addhash", gun, "a1", "5", "--sha256", HELLO, "-r", role, "-p")
        script.notary(*words, user="alice")
        before = server.get(f"/v2/{gun}/_trust/tuf/timestamp.json")
        remove = ("delegation", "remove", gun, role, alice_id, "-p")
        said = script.notary(*remove, status=status)
        assert ("publish it re-signed together with this" in said) is (status == 1)
        assert (server.get(f"/v2/{gun}/_trust/tuf/timestamp.json") == before) is (status == 1)
        assert ("a1" in script.notary("list", gun, user="reader")) is (status == 1)
