"""Keys on disk: nobody else reads them, no fault loses them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from notary_gun import certified
from tabellion.errors import KeyStoreError, PassphraseError
from tabellion.publish.keystore import KeyStore
from tabellion.publish.private_keys import KEY_TYPES, KeyType
from tabellion.publish.public_keys import fingerprint_of, load_public_key

PASSPHRASE = "correct horse ü"


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path)


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.mark.parametrize("keytype", KEY_TYPES)
def test_key_signs_and_its_files_are_private(keys: KeyStore, keytype: KeyType) -> None:
    info = keys.generate("targets", passphrase=PASSPHRASE, keytype=keytype, gun="g", name="mine")
    signer = keys.signer(info.keyid, PASSPHRASE)
    info.key.verify_signature(signer.sign(b"data"), b"data")
    assert info.keytype == keytype
    assert info.path.stat().st_mode & 0o777 == 0o600
    assert keys.folder.stat().st_mode & 0o777 == 0o700
    assert keys.list() == [info]
    public = load_public_key(keys.export("mine"))
    assert (public.keyid, fingerprint_of(public)) == (info.keyid, info.fingerprint)
    as_json = json.dumps({"keyid": info.keyid, **info.key.to_dict()}).encode()
    assert load_public_key(as_json).keyid == info.keyid


def test_openssl_reads_the_encrypted_file(keys: KeyStore) -> None:
    info = keys.generate("root", passphrase="plain ascii", keytype="ecdsa")
    command = ["openssl", "pkey", "-in", str(info.path), "-passin", "pass:plain ascii", "-pubout"]
    done = subprocess.run(["/usr/bin/env", *command], capture_output=True, check=True)
    assert load_public_key(done.stdout).keyid == info.keyid


def test_wrong_passphrase_is_refused(keys: KeyStore) -> None:
    info = keys.generate("root", passphrase=PASSPHRASE)
    for wrong in ("", "wrong", PASSPHRASE + " "):
        with pytest.raises(PassphraseError):
            keys.signer(info.keyid, wrong)


def test_empty_passphrase_makes_no_key(keys: KeyStore) -> None:
    with pytest.raises(PassphraseError):
        keys.generate("root", passphrase="")
    assert keys.list() == []


def test_passwd_changes_the_passphrase_and_a_wrong_old_one_nothing(keys: KeyStore) -> None:
    info = keys.generate("root", passphrase=PASSPHRASE)
    before = everything(keys.folder)
    with pytest.raises(PassphraseError):
        keys.passwd(info.keyid, "wrong", "another one")
    assert everything(keys.folder) == before
    keys.passwd(info.keyid, PASSPHRASE, "another one")
    keys.signer(info.keyid, "another one")
    with pytest.raises(PassphraseError):
        keys.signer(info.keyid, PASSPHRASE)


def test_file_readable_by_others_is_refused(keys: KeyStore) -> None:
    info = keys.generate("root", passphrase=PASSPHRASE)
    info.path.chmod(0o640)
    with pytest.raises(KeyStoreError, match="0640") as refused:
        keys.signer(info.keyid, PASSPHRASE)
    assert "chmod 600" in refused.value.hint


def test_swapped_private_key_is_refused(keys: KeyStore) -> None:
    one = keys.generate("root", passphrase=PASSPHRASE)
    other = keys.generate("root", passphrase=PASSPHRASE)
    one.path.write_bytes(other.path.read_bytes())
    with pytest.raises(KeyStoreError, match="another private key"):
        keys.signer(one.keyid, PASSPHRASE)


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_import_takes_pem_of_other_tools(keys: KeyStore, is_encrypted: bool) -> None:  # noqa: FBT001
    private = ec.generate_private_key(ec.SECP256R1())
    lock = BestAvailableEncryption(b"theirs") if is_encrypted else NoEncryption()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, lock)
    info = keys.import_(pem, "signer", passphrase="theirs", new_passphrase=PASSPHRASE)
    assert info.key == CryptoSigner(private).public_key
    keys.signer(info.keyid, PASSPHRASE)
    with pytest.raises(KeyStoreError, match="already"):
        keys.import_(pem, "signer", passphrase="theirs", new_passphrase=PASSPHRASE)


def test_import_refuses_what_cannot_sign_for_all_clients(keys: KeyStore) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505  (the point of it)
    odd = ec.generate_private_key(ec.SECP384R1())
    pems = [
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for private in (weak, odd)
    ]
    for pem in (*pems, b"", b"not a key", os.urandom(500), b"-----BEGIN PRIVATE KEY-----\n"):
        with pytest.raises(KeyStoreError):
            keys.import_(pem, "signer", passphrase=PASSPHRASE)
    assert everything(keys.folder) == {}


def test_find_by_id_prefix_or_name(keys: KeyStore) -> None:
    info = keys.generate("signer", passphrase=PASSPHRASE, name="alice")
    keys.generate("signer", passphrase=PASSPHRASE, name="bob")
    for text in (info.keyid, info.keyid[:16], "alice"):
        assert keys.find(text) == info
    for text in ("", "carol", info.keyid[:3], "../" + info.keyid):
        with pytest.raises(KeyStoreError):
            keys.find(text)


def test_name_of_another_key_is_refused_and_writes_nothing(keys: KeyStore) -> None:
    keys.generate("signer", passphrase=PASSPHRASE, name="alice")
    keys.generate("signer", passphrase=PASSPHRASE)
    keys.generate("signer", passphrase=PASSPHRASE)  # no name is no name in common
    before = everything(keys.folder)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(KeyStoreError, match="'alice' already"):
        keys.generate("root", passphrase=PASSPHRASE, name="alice")
    with pytest.raises(KeyStoreError, match="'alice' already"):
        keys.import_(pem, "signer", passphrase=PASSPHRASE, name="alice")
    assert everything(keys.folder) == before


def test_note_without_key_is_ignored_and_a_broken_note_is_named(keys: KeyStore) -> None:
    info = keys.generate("root", passphrase=PASSPHRASE)
    info.path.rename(info.path.with_suffix(".away"))
    assert keys.list() == []
    info.path.with_suffix(".away").rename(info.path)
    info.path.with_suffix(".json").write_text("{")
    with pytest.raises(KeyStoreError, match="note"):
        keys.list()


def test_delete_forgets_both_files(keys: KeyStore) -> None:
    info = keys.generate("root", passphrase=PASSPHRASE)
    keys.delete(info.keyid)
    assert everything(keys.folder) == {}


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"{}", b"[]", b'{"keytype":"x","scheme":"y","keyval":{"public":"z"}}', b"\xff"],
)
def test_public_key_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(KeyStoreError):
        load_public_key(data)


def test_private_key_is_not_taken_for_a_public_one(keys: KeyStore) -> None:
    info = keys.generate("root", passphrase=PASSPHRASE)
    with pytest.raises(KeyStoreError, match="private"):
        load_public_key(keys.export(info.keyid, "private"))


def test_example_keys_are_the_servers_list() -> None:
    folder = Path(__file__).parents[3] / "keys-example"
    listed = {line.split()[0] for line in (folder / "FINGERPRINTS").read_text().splitlines()}
    from tabellion_server.keys.example_keys import EXAMPLE_KEY_FINGERPRINTS  # noqa: PLC0415

    assert listed == EXAMPLE_KEY_FINGERPRINTS


def test_of_a_certificate_the_key_counts() -> None:
    signer = certified()
    pem = base64.b64decode(signer.public_key.keyval["public"])
    assert load_public_key(pem) == SSlibKey.from_crypto(signer.public_key.public_key)
    with pytest.raises(KeyStoreError, match="isn't a public key"):
        load_public_key(pem[:200])
