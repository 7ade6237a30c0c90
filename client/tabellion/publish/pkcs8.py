"""Encrypted PKCS#8 with a key derivation that costs an attacker something.

``cryptography`` writes PBES2 with 2048 rounds of PBKDF2 (0.2 ms), which a graphics card tries by
the million, and takes no other number: its ``encryption_builder`` is for OpenSSH and PKCS#12.
This writes PBES2 with scrypt (0.1 s) and AES-256-CBC: ``cryptography`` and OpenSSL read it. The
DER is written by hand as long as ``cryptography.hazmat.asn1`` is declared unstable.

Spec: RFC 8018 appendix A.4, RFC 7914 section 7, RFC 5958.
"""

from __future__ import annotations

import base64
import os
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tabellion.publish import der

_COST: Final = 2**14  # 16 MiB, below what OpenSSL refuses to spend when it reads
_BLOCK_SIZE: Final = 8
_PARALLELIZATION: Final = 5
_KEY_BYTES: Final = 32
PBES2: Final = bytes.fromhex("2a864886f70d01050d")
PBKDF2: Final = bytes.fromhex("2a864886f70d01050c")
SCRYPT: Final = bytes.fromhex("2b06010401da47040b")
AES_256_CBC: Final = bytes.fromhex("60864801650304012a")


def encrypt(private: PrivateKeyTypes, passphrase: bytes) -> bytes:
    """Give a private key as ``ENCRYPTED PRIVATE KEY`` PEM."""
    plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt = os.urandom(16)
    kdf = Scrypt(salt, _KEY_BYTES, _COST, _BLOCK_SIZE, _PARALLELIZATION)
    numbers = [der.integer(n) for n in (_COST, _BLOCK_SIZE, _PARALLELIZATION, _KEY_BYTES)]
    derivation = der.sequence(der.oid(SCRYPT), der.sequence(der.octets(salt), *numbers))
    return sealed_pem(plain, kdf.derive(passphrase), derivation)


def sealed_pem(plain: bytes, key: bytes, derivation: bytes, headers: tuple[str, ...] = ()) -> bytes:
    """Give DER encrypted with AES-256-CBC as ``ENCRYPTED PRIVATE KEY`` PEM.

    Args:
        plain: What to encrypt.
        key: 32 bytes.
        derivation: How ``key`` came from the passphrase, an encoded AlgorithmIdentifier.
        headers: Lines ``name: value`` to put before the body.
    """
    vector = os.urandom(16)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).encryptor()
    sealed = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    cipher = der.sequence(der.oid(AES_256_CBC), der.octets(vector))
    algorithm = der.sequence(der.oid(PBES2), der.sequence(derivation, cipher))
    text = base64.b64encode(der.sequence(algorithm, der.octets(sealed))).decode("ascii")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    head = [*headers, ""] if headers else []
    begin, end = (f"-----{word} ENCRYPTED PRIVATE KEY-----" for word in ("BEGIN", "END"))
    return "\n".join([begin, *head, *lines, end, ""]).encode("ascii")
