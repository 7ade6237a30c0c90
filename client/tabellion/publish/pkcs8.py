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

_COST: Final = 2**14  # 16 MiB, below what OpenSSL refuses to spend when it reads
_BLOCK_SIZE: Final = 8
_PARALLELIZATION: Final = 5
_KEY_BYTES: Final = 32
_SEQUENCE, _INTEGER, _OCTETS = 0x30, 0x02, 0x04
_PBES2: Final = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT: Final = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC: Final = bytes.fromhex("060960864801650304012a")


def encrypt(private: PrivateKeyTypes, passphrase: bytes) -> bytes:
    """Give a private key as ``ENCRYPTED PRIVATE KEY`` PEM."""
    plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, vector = os.urandom(16), os.urandom(16)
    kdf = Scrypt(salt, _KEY_BYTES, _COST, _BLOCK_SIZE, _PARALLELIZATION)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(kdf.derive(passphrase)), modes.CBC(vector)).encryptor()
    sealed = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    numbers = [_integer(n) for n in (_COST, _BLOCK_SIZE, _PARALLELIZATION, _KEY_BYTES)]
    derivation = _sequence(_SCRYPT, _sequence(_octets(salt), *numbers))
    cipher = _sequence(_AES_256_CBC, _octets(vector))
    algorithm = _sequence(_PBES2, _sequence(derivation, cipher))
    text = base64.encodebytes(_sequence(algorithm, _octets(sealed))).replace(b"\n", b"")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    begin, end = (f"-----{word} ENCRYPTED PRIVATE KEY-----".encode() for word in ("BEGIN", "END"))
    return b"\n".join([begin, *lines, end, b""])


def _sequence(*parts: bytes) -> bytes:
    return _tagged(_SEQUENCE, b"".join(parts))


def _octets(data: bytes) -> bytes:
    return _tagged(_OCTETS, data)


def _integer(number: int) -> bytes:
    return _tagged(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _tagged(tag: int, data: bytes) -> bytes:
    length = len(data)
    if length < 0x80:  # noqa: PLR2004  (DER's short form)
        return bytes([tag, length]) + data
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + data
