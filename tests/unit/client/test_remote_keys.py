"""Private key objects whose key is elsewhere, here in another object of this process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Timestamp

from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.release import next_timestamp
from tabellion.core.roles import verify_threshold
from tabellion.errors import KeyStoreError, SignerError
from tabellion.publish.certificates import root_certificate
from tabellion.signers.remote_keys import RemoteEcKey, RemoteKey, remote_key

Sign = Callable[[bytes], bytes]
EC, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()
NOW = datetime(2026, 11, 27, tzinfo=UTC)
PSS = padding.PSS(padding.MGF1(SHA256()), 32)


def sign_ec(data: bytes, key: ec.EllipticCurvePrivateKey = EC) -> bytes:
    return key.sign(data, ec.ECDSA(SHA256()))


KEYS: dict[str, RemoteKey] = {
    "ecdsa": remote_key(EC.public_key(), sign_ec),
    "rsa": remote_key(RSA.public_key(), lambda data: RSA.sign(data, PSS, SHA256())),
    "ed25519": remote_key(ED.public_key(), ED.sign),
}


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
@pytest.mark.parametrize("kind", KEYS)
def test_metadata_of_both_dialects_is_signed_as_by_a_key_in_memory(
    dialect: Dialect, kind: str
) -> None:
    key = dialect.adopt_key(SSlibKey.from_crypto(KEYS[kind].public_key()))
    payload = next_timestamp(dialect, None, b"a snapshot", 1, expires_at=NOW)
    data = dialect.sign(payload, [dialect.signer(KEYS[kind], key)])
    parsed = dialect.parse("timestamp", data, max_bytes=len(data))
    verify_threshold(parsed, "timestamp", {key.keyid: key}, [key.keyid], 1)


def test_a_root_certificate_is_signed_by_the_key_itself() -> None:
    made = root_certificate(KEYS["ecdsa"], "registry.example/app", now=NOW)
    (certificate,) = made.certificates
    certificate.verify_directly_issued_by(certificate)
    assert certificate.public_key() == EC.public_key()


@pytest.mark.parametrize(
    "answer",
    [lambda data: sign_ec(data, OTHER), lambda _: sign_ec(b"other"), lambda _: b""],
    ids=["another key", "another payload", "nothing"],
)
def test_a_signature_that_does_not_hold_goes_no_further(answer: Sign) -> None:
    key = remote_key(EC.public_key(), answer)
    with pytest.raises(SignerError, match="another one than was noted"):
        TUF.sign(
            Timestamp(expires=NOW),
            [TUF.signer(key, SSlibKey.from_crypto(EC.public_key()))],
        )
    with pytest.raises(SignerError):
        root_certificate(key, "registry.example/app", now=NOW)


@pytest.mark.parametrize("kind", KEYS)
def test_the_private_part_can_not_leave(kind: str) -> None:
    key = KEYS[kind]
    with pytest.raises(KeyStoreError, match="can't leave"):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key


def test_other_hashes_and_paddings_are_refused_before_anything_is_asked() -> None:
    def never(_: bytes) -> bytes:
        raise AssertionError

    key, rsa_key = RemoteEcKey(EC.public_key(), never), remote_key(RSA.public_key(), never)
    for algorithm in (SHA384(), Prehashed(SHA256())):
        with pytest.raises(KeyStoreError, match="SHA-256 only"):
            key.sign(b"data", ec.ECDSA(algorithm))
    assert isinstance(rsa_key, rsa.RSAPrivateKey)
    with pytest.raises(KeyStoreError, match="RSA-PSS only"):
        rsa_key.sign(b"data", padding.PKCS1v15(), SHA256())
