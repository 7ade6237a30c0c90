"""Private keys in memory and as PEM: made, opened, encrypted."""

from __future__ import annotations

from typing import Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, SSlibKey

from tabellion.errors import KeyStoreError, PassphraseError
from tabellion.publish import pkcs8
from tabellion.publish.public_keys import RSA_BITS, check_fit

KeyType = Literal["ed25519", "ecdsa", "rsa"]
KEY_TYPES: Final[tuple[KeyType, ...]] = ("ed25519", "ecdsa", "rsa")


def make_private_key(keytype: KeyType) -> PrivateKeyTypes:
    """Make a key (RSA: 3072 bits, ECDSA: P-256).

    Raises:
        KeyStoreError: There's no such key type.
    """
    if keytype == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if keytype == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    if keytype == "rsa":
        return rsa.generate_private_key(65537, RSA_BITS)
    raise KeyStoreError(f"there is no key type {keytype!r}", hint=f"known: {', '.join(KEY_TYPES)}")


def load_private_key(pem: bytes, passphrase: str = "") -> CryptoSigner:
    """Read a private key from PEM, encrypted or not.

    Raises:
        KeyStoreError: Not a key, or one that not all clients read.
        PassphraseError: The passphrase doesn't open it.
    """
    private = open_private_key(pem, passphrase, "the PEM")
    return CryptoSigner(private, public_of(private))


def open_private_key(pem: bytes, passphrase: str, what: str) -> PrivateKeyTypes:
    """Read a private key from PEM, encrypted or not; ``what`` names it in error texts.

    Raises:
        KeyStoreError: Not a key.
        PassphraseError: The passphrase doesn't open it.
    """
    is_encrypted = b"ENCRYPTED" in pem
    try:
        return load_pem_private_key(pem, passphrase.encode() if is_encrypted else None)
    except (ValueError, TypeError) as error:
        if is_encrypted and b"-----BEGIN" in pem:
            raise PassphraseError(
                f"the passphrase doesn't open {what}", hint="check it, and that the file is whole"
            ) from error
        raise KeyStoreError(
            f"{what} isn't a private key in PEM", hint="give PKCS#8, PKCS#1 or SEC1 in PEM"
        ) from error
    except UnsupportedAlgorithm as error:
        raise KeyStoreError(f"{what} is a key of a kind that can't be read here") from error


def encrypted_pem(private: PrivateKeyTypes, passphrase: str) -> bytes:
    """Give encrypted PKCS#8.

    Raises:
        PassphraseError: The passphrase is empty.
    """
    if not passphrase:
        raise PassphraseError("the passphrase for a key is empty", hint="use 8 characters or more")
    return pkcs8.encrypt(private, passphrase.encode())


def public_of(private: PrivateKeyTypes) -> SSlibKey:
    """Give the public half, as it appears in metadata.

    Raises:
        KeyStoreError: Not all clients read such keys, or it's weak.
    """
    try:
        key = SSlibKey.from_crypto(private.public_key())
    except Exception as error:
        raise KeyStoreError(
            f"{type(private).__name__} isn't a kind of key that metadata can hold",
            hint=f"use {', '.join(KEY_TYPES)}",
        ) from error
    check_fit(key)
    return key
