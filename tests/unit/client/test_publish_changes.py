"""Staged changes: kept whole, in order, whatever is killed or written over."""

from __future__ import annotations

from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from tabellion.core.names import Digest
from tabellion.errors import CacheError, InvalidNameError, PassphraseError, UsageError
from tabellion.publish.changes import (
    AddSigner,
    Change,
    RemoveSigner,
    RevokeTarget,
    SignTarget,
    Staged,
)
from tabellion.publish.passphrases import Passphrases

GUN = "registry.example/team/app"
DIGEST = Digest.of(b"x")
KEY = CryptoSigner.generate_ed25519().public_key
ALL: list[Change] = [
    SignTarget("1.2", DIGEST, 1, {"a": [1, None, "ü"]}, "alice"),
    RevokeTarget("1.1"),
    AddSigner("alice", (KEY,), ("release-*",), 1, terminating=True),
    RemoveSigner("bob"),
]


def test_changes_come_back_as_they_were_staged(tmp_path: Path) -> None:
    staged = Staged(tmp_path)
    assert staged.read(GUN) == []
    assert staged.add(GUN, ALL[:2]) == 2
    assert staged.add(GUN, ALL[2:]) == 4
    assert Staged(tmp_path).read(GUN) == ALL
    assert staged.guns() == [GUN]


def test_what_was_staged_while_publishing_stays(tmp_path: Path) -> None:
    staged = Staged(tmp_path)
    staged.add(GUN, ALL)
    staged.drop(GUN, ALL[:3])
    assert staged.read(GUN) == ALL[3:]


def test_reset_forgets_all_even_unreadable_ones(tmp_path: Path) -> None:
    staged = Staged(tmp_path)
    staged.add(GUN, ALL)
    (path,) = (tmp_path / "staged").glob("*.json")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CacheError, match="staged changes"):
        staged.read(GUN)
    staged.reset(GUN)
    assert staged.read(GUN) == []
    assert staged.guns() == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: SignTarget("../x", DIGEST, 1),
        lambda: SignTarget("", DIGEST, 1),
        lambda: SignTarget("x", DIGEST, -1),
        lambda: SignTarget("x", DIGEST, 1, {"a": 1.5}),
        lambda: SignTarget("x", DIGEST, 1, {"a": object()}),
        lambda: SignTarget("x", DIGEST, 1, role="root"),
        lambda: SignTarget("x", Digest.of(b"", "sha512"), 1),
        lambda: AddSigner("targets", (KEY,), ("*",)),
        lambda: AddSigner("alice", (KEY,), ()),
        lambda: AddSigner("alice", (KEY,), ("[a]",)),
        lambda: AddSigner("alice", (KEY, KEY), ("*",), 2),
        lambda: AddSigner("alice", (KEY,), ("*",), 0),
    ],
    ids=range(12),
)
def test_change_that_could_never_be_published_is_refused_at_once(make: object) -> None:
    assert callable(make)
    with pytest.raises((UsageError, InvalidNameError)):
        make()


def test_passphrase_comes_from_variable_file_or_person(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("from a file\nsecond line\n")
    asked: list[tuple[str, bool]] = []

    def prompt(question: str, is_new: bool) -> str:  # noqa: FBT001
        asked.append((question, is_new))
        return "from a person"

    environ = {
        "TABELLION_ROOT_PASSPHRASE": "from a variable",
        "TABELLION_TARGETS_PASSPHRASE_FILE": str(file),
    }
    passphrases = Passphrases(environ=environ, prompt=prompt)
    assert passphrases.existing("root", "1" * 64) == "from a variable"
    assert passphrases.existing("snapshot", "2" * 64) == "from a file"
    assert passphrases.existing("signer", "3" * 64, "alice") == "from a person"
    assert passphrases.existing("signer", "3" * 64, "alice") == "from a person"
    assert asked == [("Passphrase of signer key alice (333333333333)", False)]
    passphrases.forget("3" * 64)
    passphrases.existing("signer", "3" * 64)
    assert len(asked) == 2
    assert passphrases.new("signer", "bob") == "from a person"


def test_without_terminal_and_variable_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(PassphraseError) as refused:
        Passphrases(environ={}).existing("releases", "1" * 64)
    assert "TABELLION_SIGNER_PASSPHRASE" in refused.value.hint
    both = {"TABELLION_ROOT_PASSPHRASE": "a", "TABELLION_ROOT_PASSPHRASE_FILE": "b"}
    missing = {"TABELLION_ROOT_PASSPHRASE_FILE": str(tmp_path / "nowhere")}
    short = {"TABELLION_ROOT_PASSPHRASE": "short"}
    for environ in (both, missing, short):
        with pytest.raises(PassphraseError):
            Passphrases(environ=environ).new("root")
