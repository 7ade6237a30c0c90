"""Backups of keys: whole or refused, nothing overwritten, nothing readable by others."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabellion.cli import app
from tabellion.errors import KeyStoreError, PassphraseError, TabellionError
from tabellion.publish.key_backup import back_up, restore
from tabellion.publish.key_bundle import BundledKey, open_bundle, seal
from tabellion.publish.key_notes import KeyInfo
from tabellion.publish.keystore import KeyStore
from tabellion.publish.private_keys import make_private_key, public_of

PASSPHRASE = "of the backup ü"
OWN = "the key's own"
WEAK = 10  # of scrypt, for speed: the format is the same


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make keys and their backup once: each takes the time that a guess at its passphrase would."""
    folder = tmp_path_factory.mktemp("template")
    store = KeyStore(folder / "home")
    store.generate("root", passphrase=OWN, keytype="ecdsa", name="root")
    store.generate("targets", passphrase=OWN, gun="registry.example/app")
    store.generate("signer", passphrase="another one", name="alice")
    back_up(store, store.list(), folder / "bundle", PASSPHRASE, log2_n=WEAK)
    return folder


@pytest.fixture
def keys(template: Path, tmp_path: Path) -> KeyStore:
    shutil.copytree(template / "home", tmp_path / "home")
    return KeyStore(tmp_path / "home")


@pytest.fixture
def bundle(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(template / "bundle", tmp_path))


@pytest.fixture
def empty(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "other")


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    if not folder.exists():
        return {}
    return {path.name: (path.stat().st_mode, path.read_bytes()) for path in folder.iterdir()}


def outcomes(store: KeyStore, file: Path, **more: Any) -> dict[str, str]:
    return {each.info.role: each.outcome for each in restore(store, file, PASSPHRASE, **more)}


ALL_RESTORED = dict.fromkeys(("root", "targets", "signer"), "restored")


def test_a_restored_store_is_the_old_one_to_the_byte(
    keys: KeyStore, bundle: Path, empty: KeyStore
) -> None:
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert outcomes(empty, bundle) == ALL_RESTORED
    assert everything(empty.folder) == everything(keys.folder)
    assert empty.folder.stat().st_mode & 0o777 == 0o700
    assert [info.keyid for info in empty.list()] == [info.keyid for info in keys.list()]
    empty.signer("root", OWN)  # each still under its own
    with pytest.raises(PassphraseError):
        empty.signer("root", PASSPHRASE)


def test_a_dry_run_tells_the_same_and_writes_nothing(bundle: Path, empty: KeyStore) -> None:
    assert outcomes(empty, bundle, is_dry_run=True) == ALL_RESTORED
    assert not empty.folder.parent.exists()


def test_what_is_here_stays_and_is_told(keys: KeyStore, bundle: Path) -> None:
    keys.passwd("alice", "another one", "a newer one")
    keys.delete("root")
    before = everything(keys.folder)
    assert outcomes(keys, bundle) == {"root": "restored", "targets": "here", "signer": "differs"}
    after = everything(keys.folder)
    assert {name: after[name] for name in before} == before
    keys.signer("alice", "a newer one")
    keys.signer("root", OWN)


def test_a_name_that_another_key_has_is_told(bundle: Path, empty: KeyStore) -> None:
    empty.generate("signer", passphrase=OWN, name="alice")
    shared = {each.info.name: each.shares_name for each in restore(empty, bundle, PASSPHRASE)}
    assert shared == {"root": False, "": False, "alice": True}


def test_a_note_left_alone_by_a_crash_does_not_keep_its_key_out(
    keys: KeyStore, bundle: Path
) -> None:
    keys.find("root").path.unlink()
    assert outcomes(keys, bundle) == {"root": "restored", "targets": "here", "signer": "here"}
    keys.signer("root", OWN)


def test_a_backup_overwrites_nothing_and_a_failed_one_leaves_nothing(
    keys: KeyStore, bundle: Path, tmp_path: Path
) -> None:
    before = bundle.read_bytes()
    with pytest.raises(KeyStoreError, match="already"):
        back_up(keys, keys.list(), bundle, PASSPHRASE, log2_n=WEAK)
    assert bundle.read_bytes() == before
    with pytest.raises(KeyStoreError, match="can't be written"):
        back_up(keys, keys.list(), tmp_path / "no" / "folder", PASSPHRASE, log2_n=WEAK)
    assert not (tmp_path / "no").exists()
    with pytest.raises(PassphraseError):
        back_up(keys, keys.list(), tmp_path / "new", "", log2_n=WEAK)
    with pytest.raises(KeyStoreError, match="no keys"):
        back_up(keys, [], tmp_path / "new", PASSPHRASE, log2_n=WEAK)
    keys.find("root").path.chmod(0o644)
    with pytest.raises(KeyStoreError, match="0644"):
        back_up(keys, keys.list(), tmp_path / "new", PASSPHRASE, log2_n=WEAK)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_no_half_backup(
    keys: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyStoreError, match="no space"):
        back_up(keys, keys.list(), tmp_path / "new", PASSPHRASE, log2_n=WEAK)
    assert not (tmp_path / "new").exists()


def test_some_keys_can_be_backed_up(keys: KeyStore, tmp_path: Path, empty: KeyStore) -> None:
    back_up(keys, [keys.find("alice")], tmp_path / "one", PASSPHRASE, log2_n=WEAK)
    assert outcomes(empty, tmp_path / "one") == {"signer": "restored"}
    assert [info.name for info in empty.list()] == ["alice"]


def test_a_byte_altered_anywhere_is_refused_and_restores_nothing(
    keys: KeyStore, tmp_path: Path, empty: KeyStore
) -> None:
    file = tmp_path / "one"
    back_up(keys, [keys.find("alice")], file, PASSPHRASE, log2_n=WEAK)
    data = file.read_bytes()
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1 << (place % 8)
        with pytest.raises((KeyStoreError, PassphraseError)):
            open_bundle(bytes(altered), PASSPHRASE)
    for cut in (0, 1, 20, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:cut])
        with pytest.raises((KeyStoreError, PassphraseError)):
            restore(empty, file, PASSPHRASE)
    file.write_bytes(data + b"x")
    with pytest.raises(PassphraseError):
        restore(empty, file, PASSPHRASE)
    assert not empty.folder.exists()


@pytest.mark.parametrize("wrong", ["", "wrong", PASSPHRASE + " "])
def test_a_wrong_passphrase_restores_nothing(bundle: Path, empty: KeyStore, wrong: str) -> None:
    with pytest.raises(PassphraseError):
        restore(empty, bundle, wrong)
    assert not empty.folder.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log2_n", 40),
        ("log2_n", 21),
        ("log2_n", 1),
        ("log2_n", True),
        ("log2_n", "17"),
        ("p", 5),
        ("p", 10**9),
        ("r", 4096),
        ("kdf", "argon2id"),
        ("cipher", "none"),
        ("salt", ""),
        ("salt", "AAAA"),
        ("nonce", "!"),
    ],
)
def test_parameters_beyond_bounds_are_refused_before_any_work(
    bundle: Path, empty: KeyStore, name: str, value: Any
) -> None:
    magic, header, rest = bundle.read_bytes().split(b"\n", 2)
    altered = json.dumps({**json.loads(header), name: value}).encode()
    bundle.write_bytes(b"\n".join([magic, altered, rest]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with pytest.raises(KeyStoreError, match="header"):
        restore(empty, bundle, PASSPHRASE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 0.2
    assert not empty.folder.exists()


def unencrypted(key: BundledKey) -> BundledKey:
    return BundledKey(key.note, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda keyid, key: ("../" + keyid[3:], key),
        lambda keyid, key: ("f" * 64, key),
        lambda keyid, key: (keyid, unencrypted(key)),
        lambda keyid, key: (keyid, BundledKey(key.note, key.pem + unencrypted(key).pem)),
        lambda keyid, key: (keyid, BundledKey(b"{}", key.pem)),
        lambda keyid, key: (
            keyid,
            BundledKey(key.note.replace(b'"role": "', b'"role": "x'), key.pem),
        ),
        lambda keyid, key: (keyid, BundledKey(key.note, key.pem + b" " * 65_536)),
    ],
    ids=["path", "another id", "plain", "plain too", "no note", "no role", "too large"],
)
def test_what_is_no_encrypted_key_is_refused_and_the_whole_bundle_with_it(
    bundle: Path, empty: KeyStore, change: Callable[[str, BundledKey], tuple[str, BundledKey]]
) -> None:
    held = open_bundle(bundle.read_bytes(), PASSPHRASE)
    # A root's key: one of the changes is of its role.
    first, *others = sorted(held.items(), key=lambda item: b"root" not in item[1].note)
    evil = dict([*others, change(*first)])
    bundle.write_bytes(seal(evil, PASSPHRASE, log2_n=WEAK))
    with pytest.raises(KeyStoreError):
        restore(empty, bundle, PASSPHRASE)
    assert not empty.folder.exists()


NOTES = st.builds(lambda text: json.dumps(text).encode(), st.text(max_size=200))


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=70),
        st.builds(BundledKey, NOTES, st.none() | NOTES),
        max_size=5,
    ),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
)
def test_what_is_sealed_comes_back(held: dict[str, BundledKey], passphrase: str) -> None:
    assert open_bundle(seal(held, passphrase, log2_n=WEAK), passphrase) == held


@given(st.binary(max_size=300), st.booleans())
def test_bytes_that_are_no_bundle_raise_only_our_errors(
    data: bytes,
    is_marked: bool,  # noqa: FBT001  (hypothesis passes it)
) -> None:
    with pytest.raises(TabellionError):
        open_bundle((b"tabellion-keys 1\n" if is_marked else b"") + data, PASSPHRASE)


def test_the_bundle_shows_nothing_of_the_keys(keys: KeyStore, bundle: Path) -> None:
    data = bundle.read_bytes()
    for info in keys.list():
        assert info.keyid.encode() not in data
    assert not re.search(rb"PRIVATE|registry\.example|alice", data)


def folder_of(info: KeyInfo) -> Path:
    return info.path.parent


def test_a_folder_that_others_may_read_is_refused_at_every_use(keys: KeyStore) -> None:
    info = keys.find("alice")
    folder_of(info).chmod(0o755)
    with pytest.raises(KeyStoreError, match="0755") as refused:
        keys.signer(info.keyid, "another one")
    assert refused.value.hint == f"chmod 700 {keys.folder}"
    assert list(keys.exposed()) == [(keys.folder, 0o755, 0o700)]
    folder_of(info).chmod(0o700)
    info.path.chmod(0o604)
    assert list(keys.exposed()) == [(info.path, 0o604, 0o600)]
    info.path.chmod(0o600)
    assert list(keys.exposed()) == []
    keys.signer(info.keyid, "another one")
    shutil.rmtree(keys.folder)
    assert list(keys.exposed()) == []


def test_of_a_key_elsewhere_a_backup_notes_where_it_is(
    keys: KeyStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = public_of(make_private_key("ecdsa"))
    far = keys.refer(elsewhere, "hv:release", "signer", name="far")
    monkeypatch.setenv("TABELLION_BACKUP_PASSPHRASE", PASSPHRASE)
    home = ["--home", str(keys.folder.parent)]
    assert app.run([*home, "key", "backup", str(tmp_path / "all")]) == 0
    said = capsys.readouterr().err
    assert "tabellion: 3 keys in" in said
    assert "key far can't leave hv:release: only that is noted" in said
    # Named, it is asked for: there the note alone won't do.
    assert app.run([*home, "key", "backup", str(tmp_path / "one"), "alice", "far"]) == 2
    assert "can't leave hv:release" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()
    other = ["--home", str(tmp_path / "other")]
    assert app.run([*other, "key", "restore", str(tmp_path / "all")]) == 0
    assert "(the note of it: the key is at hv:release)" in capsys.readouterr().err
    assert everything(tmp_path / "other" / "keys") == everything(keys.folder)
    assert KeyStore(tmp_path / "other").find("far").uri == far.uri == "hv:release"
