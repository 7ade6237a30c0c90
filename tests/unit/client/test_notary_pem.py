"""Key files of Notary and docker: read as they write them; hostile ones are refused."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tabellion.errors import KeyStoreError, PassphraseError
from tabellion.publish import der, pkcs8
from tabellion.publish.der import DerReader
from tabellion.publish.notary_pem import MAX_FILE, canonical_id_of, read_blocks, write_key
from tabellion.publish.private_keys import KEY_TYPES, KeyType, make_private_key

VECTORS = Path(__file__).parents[2] / "vectors" / "notary"
NOTARY = {"root": "rootpass1", "targets": "targetpass1"}
DOCKER = {"root": "rootpass1"}
DIRS = [("notary-trust-dir", NOTARY, "delegpass1"), ("docker-trust-dir", DOCKER, "repopass1")]


def key_files(name: str) -> dict[str, bytes]:
    with tarfile.open(VECTORS / f"{name}.tgz") as archive:
        files = {Path(member.name).name: archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in files.items() if file and name.endswith(".key")}


ALICE = next(data for data in key_files("notary-trust-dir").values() if b"role: alice" in data)
PRIVATE = ec.generate_private_key(ec.SECP256R1())


def armoured(kind: str, body: bytes, *headers: str) -> bytes:
    head = "".join(f"{line}\n" for line in headers) + ("\n" if headers else "")
    text = base64.encodebytes(body).decode()
    return f"-----BEGIN {kind}-----\n{head}{text}-----END {kind}-----\n".encode()


def opened(pem: bytes, passphrase: str = "") -> PrivateKeyTypes:
    (block,) = read_blocks(pem)
    return block.open(passphrase)


def plain(private: PrivateKeyTypes) -> bytes:
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(("name", "passphrases", "other"), DIRS)
def test_keys_that_the_real_clients_wrote_are_read(
    name: str, passphrases: dict[str, str], other: str
) -> None:
    files = key_files(name)
    assert len(files) >= 5
    for file, data in files.items():
        (block,) = read_blocks(data)
        assert block.is_encrypted
        assert bool(block.gun) == (block.role == "targets")
        private = block.open(passphrases.get(block.role, other))
        assert f"{canonical_id_of(private)}.key" == file
        with pytest.raises(PassphraseError):
            block.open("wrong passphrase")


@pytest.mark.parametrize("keytype", KEY_TYPES)
def test_key_comes_back_as_it_was_written(keytype: KeyType) -> None:
    private = make_private_key(keytype)
    pem = write_key(private, "sécret ü", role="targets", gun="host:5000/a", canonical_id="abc")
    lines = pem.decode("ascii").splitlines()
    assert lines[:5] == [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----",
        "gun: host:5000/a",
        "path: abc",
        "role: targets",
        "",
    ]
    (block,) = read_blocks(pem)
    assert (block.role, block.gun, block.canonical_id) == ("targets", "host:5000/a", "abc")
    assert plain(block.open("sécret ü")) == plain(private)
    for wrong in ("", "secret"):
        with pytest.raises(PassphraseError):
            block.open(wrong)


def test_no_wrong_passphrase_passes_for_a_damaged_key() -> None:
    (block,) = read_blocks(ALICE)
    for number in range(600):  # some leave good padding
        with pytest.raises(PassphraseError):
            block.open(str(number))


def test_writing_needs_a_passphrase_and_a_role_that_fits_a_header() -> None:
    with pytest.raises(PassphraseError):
        write_key(PRIVATE, "", role="root")
    for bad in ("two\nlines", "ü", "x" * 600):
        with pytest.raises(KeyStoreError):
            write_key(PRIVATE, "secret", role=bad)


def test_several_keys_in_one_file_amid_text_and_other_blocks() -> None:
    other = armoured("EC PARAMETERS", b"anything")
    blocks = read_blocks(b"Bag Attributes\r\n" + ALICE + other + ALICE.replace(b"\n", b"\r\n"))
    assert [block.role for block in blocks] == ["alice", "alice"]
    assert blocks[0].body == blocks[1].body


@pytest.mark.parametrize("format_", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize(
    "private", [PRIVATE, rsa.generate_private_key(65537, 2048)], ids=["ecdsa", "rsa"]
)
def test_standard_and_older_forms_are_read(
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, format_: PrivateFormat
) -> None:
    bare = private.private_bytes(Encoding.PEM, format_, NoEncryption())
    assert plain(opened(bare)) == plain(private)
    sealed = private.private_bytes(Encoding.PEM, format_, BestAvailableEncryption(b"secret"))
    assert plain(opened(sealed, "secret")) == plain(private)
    with pytest.raises(PassphraseError):
        opened(sealed, "wrong")
    headed = sealed.replace(b"KEY-----\n", b"KEY-----\nrole: bob\n", 1)
    if b"DEK-Info" in headed:
        (block,) = read_blocks(headed)
        assert (block.role, block.is_encrypted) == ("bob", True)
        assert plain(block.open("secret")) == plain(private)


def test_key_that_openssl_or_we_encrypted_is_read(tmp_path: Path) -> None:
    assert plain(opened(pkcs8.encrypt(PRIVATE, b"secret"), "secret")) == plain(PRIVATE)
    source = tmp_path / "plain.pem"
    pem = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    source.write_bytes(pem)
    for options in ([], ["-v2prf", "hmacWithSHA1"], ["-scrypt"], ["-v2", "aes-128-cbc"]):
        words = ["openssl", "pkcs8", "-topk8", "-in", str(source), "-passout", "pass:secret"]
        done = subprocess.run(["/usr/bin/env", *words, *options], capture_output=True, check=True)
        assert plain(opened(done.stdout, "secret")) == plain(PRIVATE)


def test_openssl_reads_what_is_inside_once_the_headers_are_gone(tmp_path: Path) -> None:
    private = make_private_key("rsa")
    lines = write_key(private, "secret", role="root").splitlines(keepends=True)
    path = tmp_path / "key.pem"
    path.write_bytes(b"".join([lines[0], *lines[3:]]))
    words = ["openssl", "asn1parse", "-in", str(path)]
    done = subprocess.run(["/usr/bin/env", *words], capture_output=True, check=True)
    assert b"PBES2" in done.stdout
    assert b"prf" not in done.stdout
    assert b"aes-256-cbc" in done.stdout


@pytest.mark.parametrize("size", [16, 24, 32])
def test_older_ed25519_files_are_read(size: int) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    content = public + private.private_bytes_raw() + public
    assert plain(opened(armoured("ED25519 PRIVATE KEY", content))) == plain(private)

    vector, key, last = bytes(range(16)), b"", b""
    while len(key) < size:
        last = hashlib.md5(last + b"secret" + vector[:8], usedforsecurity=False).digest()
        key += last
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key[:size]), modes.CBC(vector)).encryptor()
    sealed = encryptor.update(padder.update(content) + padder.finalize())
    dek = f"DEK-Info: AES-{size * 8}-CBC,{vector.hex().upper()}"
    pem = armoured("ED25519 PRIVATE KEY", sealed, "Proc-Type: 4,ENCRYPTED", dek)
    assert plain(opened(pem, "secret")) == plain(private)
    with pytest.raises(PassphraseError):
        opened(pem, "wrong")
    with pytest.raises(KeyStoreError):
        opened(pem.replace(b"AES-", b"DES-"), "secret")


def test_ed25519_key_whose_halves_differ_is_refused() -> None:
    one, other = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    public = other.public_key().public_bytes_raw()
    content = public + one.private_bytes_raw() + public
    with pytest.raises(KeyStoreError, match="halves"):
        opened(armoured("ED25519 PRIVATE KEY", content))
    with pytest.raises(KeyStoreError, match="95"):
        opened(armoured("ED25519 PRIVATE KEY", content[:95]))


def sealed_with(derivation: bytes) -> bytes:
    return pkcs8.sealed_pem(plain(PRIVATE), bytes(32), derivation)


def pbkdf2(*numbers: int) -> bytes:
    parameters = [der.octets(bytes(8)), *(der.integer(number) for number in numbers)]
    return der.sequence(der.oid(pkcs8.PBKDF2), der.sequence(*parameters))


def scrypt(*numbers: int) -> bytes:
    parameters = [der.octets(bytes(8)), *(der.integer(number) for number in numbers)]
    return der.sequence(der.oid(pkcs8.SCRYPT), der.sequence(*parameters))


@pytest.mark.parametrize(
    "derivation",
    [
        pbkdf2(10_000_001),
        pbkdf2(2**62),
        pbkdf2(0),
        pbkdf2(2048, 16),
        pbkdf2(),
        scrypt(2**20, 8, 1),
        scrypt(2**14, 8, 2**20),
        scrypt(2**14, 8, 0),
        scrypt(15, 8, 1),
        scrypt(2**14, 8, 1, 16),
        der.sequence(der.oid(b"\x2a\x03"), der.sequence(der.octets(b""))),
    ],
)
def test_file_that_asks_for_endless_work_is_refused_at_once(derivation: bytes) -> None:
    (block,) = read_blocks(sealed_with(derivation))
    started = time.monotonic()
    with pytest.raises(KeyStoreError):
        block.open("secret")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"nonsense",
        armoured("PUBLIC KEY", b"x"),
        ALICE[:-10],
        ALICE[:-40] + ALICE,
        ALICE.replace(b"-----END ENCRYPTED", b"-----END"),
        ALICE.replace(b"role: alice", b"role: alice\nrole: bob"),
        ALICE.replace(b"role: alice", b"role: al\x00ice"),
        ALICE.replace(b"role: alice", "role: älice".encode()),
        ALICE.replace(b"role: alice", b"\n".join(b"h%d: x" % number for number in range(17))),
        ALICE.replace(b"MIHu", b"MI!u"),
        armoured("PRIVATE KEY", bytes(9000)),
        ALICE * 1001,
        b"x" * (MAX_FILE + 1),
        b"-----END PRIVATE KEY-----\n",
    ],
)
def test_broken_file_is_refused(pem: bytes) -> None:
    with pytest.raises(KeyStoreError) as refused:
        read_blocks(pem)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (b"\x02\x00", DerReader.integer),
        (b"\x02\x01\x80", DerReader.integer),
        (b"\x02\x02\x00\x01", DerReader.integer),
        (b"\x02\x09" + b"\x01" * 9, DerReader.integer),
        (b"\x04\x80\x00\x00", DerReader.octets),
        (b"\x04\x81\x05abcde", DerReader.octets),
        (b"\x04\x82\x00\x80" + bytes(128), DerReader.octets),
        (b"\x04\x83\x00\x00\x01a", DerReader.octets),
        (b"\x04\x05abc", DerReader.octets),
        (b"\x04", DerReader.octets),
        (b"\x04\x81", DerReader.octets),
        (b"\x05\x01a", DerReader.null),
        (b"\x06\x00", DerReader.octets),
        (b"", DerReader.sequence),
    ],
)
def test_der_has_one_encoding_only(data: bytes, read: Callable[[DerReader], object]) -> None:
    with pytest.raises(KeyStoreError):
        read(DerReader(data))


@given(st.integers(0, 2**63 - 1), st.binary(max_size=300))
def test_der_reads_what_it_writes(number: int, data: bytes) -> None:
    reader = DerReader(der.sequence(der.integer(number), der.octets(data), der.null()))
    inner = reader.sequence()
    reader.end()
    assert (inner.integer(), inner.octets()) == (number, data)
    inner.null()
    inner.end()


def test_der_goes_only_so_deep() -> None:
    data = b""
    for _ in range(40):
        data = der.sequence(data)
    with pytest.raises(KeyStoreError, match="deep"):
        descend(DerReader(data))


def descend(reader: DerReader) -> None:
    while reader.next_tag is not None:
        reader = reader.sequence()


KINDS = ["ENCRYPTED PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "ED25519 PRIVATE KEY"]


@settings(deadline=None)
@given(st.binary(max_size=400), st.sampled_from(KINDS))
def test_garbage_raises_nothing_but_our_errors(body: bytes, kind: str) -> None:
    with contextlib.suppress(KeyStoreError, PassphraseError):
        read_blocks(body)
    with contextlib.suppress(KeyStoreError, PassphraseError):
        opened(armoured(kind, body), "secret")


@settings(deadline=None)
@given(st.data())
def test_any_changed_byte_raises_nothing_but_our_errors(data: st.DataObject) -> None:
    pem = write_fast()
    source = data.draw(st.sampled_from([ALICE, pem]))
    at = data.draw(st.integers(0, len(source) - 1))
    changed = source[:at] + data.draw(st.binary(max_size=2)) + source[at + 1 :]
    with contextlib.suppress(KeyStoreError, PassphraseError):
        for block in read_blocks(changed):
            block.open("delegpass1")


def write_fast() -> bytes:
    return PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
