"""The encryption of private key files undone, with bounds on what a hostile file may cost.

PBES2 with PBKDF2 or scrypt and AES-CBC, and the ``DEK-Info`` of before PKCS#8.

Spec: RFC 8018 appendix A, RFC 7914 section 7, RFC 1421 section 4.6.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7

from tabellion.errors import KeyStoreError, PassphraseError
from tabellion.publish import der
from tabellion.publish.der import DerReader
from tabellion.publish.pkcs8 import AES_256_CBC, PBES2, PBKDF2, SCRYPT

_MAX_ROUNDS: Final = 2_000_000  # about a second
_MAX_SCRYPT: Final = 2**24  # cost x block size x parallelization; 16 MiB to 2 GiB of work
_MAX_SCRYPT_MEMORY: Final = 2**18  # cost x block size; 32 MiB, OpenSSL's own bound
_IV_BYTES: Final = 16
_SALT_BYTES: Final = 8

_PRF: Final = {
    bytes.fromhex("2a864886f70d0207"): "sha1",
    bytes.fromhex("2a864886f70d0209"): "sha256",
    bytes.fromhex("2a864886f70d020a"): "sha384",
    bytes.fromhex("2a864886f70d020b"): "sha512",
}
_AES: Final = {
    bytes.fromhex("608648016503040102"): 16,
    bytes.fromhex("608648016503040116"): 24,
    AES_256_CBC: 32,
}
_DEK: Final = {"AES-128-CBC": 16, "AES-192-CBC": 24, "AES-256-CBC": 32}


def unsealed(body: bytes, passphrase: bytes, what: str) -> bytes:
    """Undo the encryption of an EncryptedPrivateKeyInfo (DER), PBES2; ``what`` names it in errors.

    Raises:
        KeyStoreError: Not DER, encrypted otherwise, or asks for too much work.
        PassphraseError: The passphrase doesn't open it; one wrong one in 256 isn't noticed here.
    """
    outer = DerReader(body)
    info = outer.sequence()
    outer.end()
    algorithm = info.sequence()
    if algorithm.oid() != PBES2:
        raise _other_encryption(what)
    scheme = algorithm.sequence()
    algorithm.end()
    derivation, cipher = scheme.sequence(), scheme.sequence()
    scheme.end()
    size = _AES.get(cipher.oid())
    if size is None:
        raise _other_encryption(what)
    vector = cipher.octets()
    cipher.end()
    sealed = info.octets()
    info.end()
    key = _derived(derivation, passphrase, size, what)
    return _unpadded(key, vector, sealed, what)


def _derived(derivation: DerReader, passphrase: bytes, size: int, what: str) -> bytes:
    name = derivation.oid()
    parameters = derivation.sequence()
    derivation.end()
    salt = parameters.octets()
    if name == PBKDF2:
        rounds = parameters.integer()
        if parameters.next_tag == der.INTEGER and parameters.integer() != size:
            raise _other_encryption(what)
        digest = "sha1"
        if parameters.next_tag is not None:
            prf = parameters.sequence()
            digest = _PRF.get(prf.oid(), "")
            parameters.end()
        if not digest:
            raise _other_encryption(what)
        if not 0 < rounds <= _MAX_ROUNDS:
            raise KeyStoreError(
                f"{what} asks for {rounds} rounds of key derivation, not 1 to {_MAX_ROUNDS}",
                hint="no honest key does; get it from its owner again",
            )
        return hashlib.pbkdf2_hmac(digest, passphrase, salt, rounds, size)
    if name != SCRYPT:
        raise _other_encryption(what)
    cost, block, parallel = (parameters.integer() for _ in range(3))
    if parameters.next_tag == der.INTEGER and parameters.integer() != size:
        raise _other_encryption(what)
    parameters.end()
    if not (0 < cost * block <= _MAX_SCRYPT_MEMORY and 0 < cost * block * parallel <= _MAX_SCRYPT):
        raise KeyStoreError(
            f"{what} asks for more scrypt work than is done here",
            hint="no honest key needs as much; get it from its owner again",
        )
    try:
        return Scrypt(salt, size, cost, block, parallel).derive(passphrase)
    except (ValueError, MemoryError) as error:
        raise unreadable(what, error) from error


def undone_dek(body: bytes, dek: str, passphrase: bytes, what: str) -> bytes:
    """Undo the encryption that a ``DEK-Info`` header tells, as OpenSSL does it.

    Its key is the MD5 of passphrase and IV, once.

    Raises:
        KeyStoreError: Encrypted otherwise than with AES-CBC.
        PassphraseError: The passphrase doesn't open it; one wrong one in 256 isn't noticed here.
    """
    name, _, text = dek.partition(",")
    size = _DEK.get(name)
    try:
        vector = bytes.fromhex(text)
    except ValueError:
        vector = b""
    if size is None or len(vector) != _IV_BYTES:
        raise _other_encryption(what)
    key = last = b""
    while len(key) < size:
        data = last + passphrase + vector[:_SALT_BYTES]
        last = hashlib.md5(data, usedforsecurity=False).digest()
        key += last
    return _unpadded(key[:size], vector, body, what)


def _unpadded(key: bytes, vector: bytes, sealed: bytes, what: str) -> bytes:
    try:
        decryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).decryptor()
        padded = decryptor.update(sealed) + decryptor.finalize()
    except ValueError as error:
        raise unreadable(what, error) from error
    unpadder = PKCS7(128).unpadder()
    try:
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise wrong(what) from error


def wrong(what: str) -> PassphraseError:
    """Say that the passphrase is wrong."""
    return PassphraseError(
        f"the passphrase doesn't open {what}", hint="check it, and that the file is whole"
    )


def unreadable(what: str, error: Exception) -> KeyStoreError:
    """Say that a key is of no kind that can be read."""
    return KeyStoreError(
        f"{what} is a key that can't be read: {str(error)[:200]}",
        hint="use ECDSA P-256, RSA or ed25519",
    )


def _other_encryption(what: str) -> KeyStoreError:
    return KeyStoreError(
        f"{what} is encrypted in a way that isn't read here",
        hint="re-encrypt it with: openssl pkcs8 -topk8 -v2 aes-256-cbc",
    )
