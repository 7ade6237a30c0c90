"""``trust`` and ``anchors`` without a server: what is refused, and what keys may be given as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anchorage import print_of
from forge import Forge
from notary_gun import NotaryGun
from tabellion.cli import app
from tabellion.cli.anchors import _keys, _moment
from tabellion.errors import TabellionError, UsageError
from tabellion.publish.public_keys import public_pem

GUN = "trust.example/app"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a root file, a text file and an empty home."""
    (tmp_path / "root.json").write_bytes(Forge().release()["root"])
    (tmp_path / "text").write_bytes(b"text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TABELLION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("TABELLION_SERVER", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", GUN], "a root file or a root key is needed"),
        (["add", GUN, "--root", "root.json", "--root-key", "0" * 64], "is needed"),
        (["add", "--root", "root.json"], "one GUN is needed"),
        (["add", GUN, "--root", "text"], "isn't a root of"),
        (["add", GUN, "--root", "nosuchfile"], "can't be read: no such file"),
        (["add", GUN, "--root-key", "abc"], "isn't a root key fingerprint"),
        (["add", GUN, "--root", "root.json", "--for", "a/*"], "--for is about a collection"),
        (["add", "--anchors", "https://u:p@x.example/a", "--root", "root.json"], "a password"),
        (["add", "--anchors", "https://x.example/a/", "--root", "root.json"], "an empty part"),
        (["add", "--anchors", "https://x.example", "--root", "root.json"], "0 characters"),
        (["add", "--anchors", "https://x.example/a?b", "--root", "root.json"], "isn't a server"),
        (["add", "--anchors", "ftp://x.example/a", "--root", "root.json"], "isn't an http"),
        (["add", "--anchors", "a", "--root", "root.json"], "no trust server is configured"),
        (["add", "--anchors", "https://x.example/a", "--root-key", "0" * 64], "its root file"),
        (["add", GUN, "--anchors", "https://x.example/a", "--root", "root.json"], "root file"),
        (
            ["add", "--anchors", "https://x.example/a", "--root", "root.json", "--for", "a*"],
            "isn't a pattern",
        ),
        (["replace", GUN, "--root", "root.json"], "nothing of"),
        (["replace", GUN], "the new root file is needed"),
        (["remove", "--anchors", "a"], "no anchor collection"),
        (["remove", GUN, "--anchors", "a"], "both given"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert app.run(["trust", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "hint: " in said.err
    assert said.out == ""
    assert not (folder / "home").exists()


@pytest.mark.usefixtures("folder")
def test_what_is_trusted_is_listed_and_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["trust", "add", GUN, "--root", "root.json"]) == 0
    assert app.run(["trust", "add", "--gun", "data", "--root-key", f"sha256:{'A' * 64}"]) == 0
    anchors = "http://127.0.0.1:1/team/anchors"
    given = ["trust", "add", "--anchors", anchors, "--root", "root.json"]
    assert app.run([*given, "--for", "a/*", "--for", "b/**"]) == 0
    capsys.readouterr()
    assert app.run(["--json", "trust", "list"]) == 0
    rows = {row["gun"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows[GUN]["how"], rows[GUN]["root_version"]) == ("root file", 1)
    assert (rows["data"]["how"], rows["data"]["root_fingerprints"]) == ("root key", ["a" * 64])
    collection = rows["team/anchors"]
    assert collection["server"] == "http://127.0.0.1:1"
    assert (collection["kind"], collection["for"]) == ("anchors", ["a/*", "b/**"])
    for name in (GUN, "--gun=data", "--anchors=team/anchors"):
        assert app.run(["trust", "remove", name]) == 0
    capsys.readouterr()
    assert app.run(["--json", "trust", "list"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_keys_of_an_entry_are_fingerprints_key_files_and_root_files(tmp_path: Path) -> None:
    forge = Forge()
    key = forge.signers["root"][0]
    (tmp_path / "key.pub").write_bytes(public_pem(key.public_key))
    (tmp_path / "root.json").write_bytes(forge.release()["root"])
    (tmp_path / "notary.json").write_bytes(NotaryGun().release()["root"])
    for word in ("key.pub", "root.json"):
        assert _keys([str(tmp_path / word)], None) == (frozenset({print_of(key)}), 1)
    assert _keys([f"sha256:{'AB' * 32}"], None) == (frozenset({"ab" * 32}), 1)
    both = [str(tmp_path / "root.json"), str(tmp_path / "notary.json")]
    assert len(_keys(both, 2)[0]) == 2
    with pytest.raises(UsageError, match="not how many have to sign"):
        _keys(both, None)
    (tmp_path / "text").write_bytes(b"text")
    forge.signers["root"] = Forge().signers["root"]
    (tmp_path / "forged.json").write_bytes(forge.sign("root", forge.root))
    for word in ("text", "forged.json", "nosuchfile", "ab" * 31):
        with pytest.raises(TabellionError):
            _keys([str(tmp_path / word)], None)


def test_an_expiry_is_a_moment_to_come() -> None:
    assert _moment(None) is None
    assert str(_moment("2999-01-02")) == "2999-01-02 00:00:00+00:00"
    assert str(_moment("2999-01-02T12:00:00+02:00")) == "2999-01-02 10:00:00+00:00"
    assert _moment("365d") is not None
    for text in ("2001-01-01", "0d", "soon", "", "-1d"):
        with pytest.raises(UsageError, match="isn't a moment to come"):
            _moment(text)
