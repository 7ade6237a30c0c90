"""Public keys as people pass them around: PEM, or a key object of TUF metadata."""

from __future__ import annotations

import json
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import Root

from tabellion.core.names import Digest
from tabellion.core.notary_keys import MIN_RSA_BITS, NotaryKey, PublicKey
from tabellion.core.roles import KNOWN_SCHEMES, key_material, rsa_bits
from tabellion.errors import KeyStoreError, TabellionError

RSA_BITS: Final = 3072
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"


def fingerprint_of(key: Key) -> str:
    """Give the SHA-256 of a key's material in hex, the same however the key is written."""
    return Digest.of(key_material(key)).hex


def root_fingerprints(root: Root) -> list[str]:
    """Give the fingerprints of a root's own keys, any of which readers may start from."""
    keyids = root.roles["root"].keyids
    return [fingerprint_of(root.keys[keyid]) for keyid in keyids if keyid in root.keys]


def canonical_id_of(key: Key) -> str:
    """Give the id that Notary and docker show for a key, the same in every certificate of it.

    Raises:
        KeyStoreError: Its public part can't be read, or Notary knows no such keys.
    """
    return NotaryKey.of(crypto_key_of(key)).keyid


def crypto_key_of(key: Key) -> PublicKey:
    """Give a public key as cryptography has it.

    Raises:
        KeyStoreError: Its public part can't be read, or is of a kind that Notary doesn't know.
    """
    public = load_pem_public_key(public_pem(key))
    if not isinstance(
        public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
    ):
        raise KeyStoreError(f"Notary knows no keys like {key.keyid[:12]}")
    return public


def load_public_key(data: bytes, *, what: str = "public key") -> Key:
    """Read a public key as others give it: PEM, or one JSON key object of TUF metadata.

    Of an X.509 certificate in PEM it's the first one's key; nothing else in it counts, its expiry
    and issuer neither.

    Raises:
        KeyStoreError: Neither, a private key, or of a kind that not all clients read.
    """
    hint = "give the file made by: tabellion key export KEYID"
    if b"PRIVATE KEY" in data:
        raise KeyStoreError(f"{what} is a private key: don't pass it around", hint=hint)
    try:
        if data.lstrip().startswith(b"{"):
            content = json.loads(data)
            keyid = content.pop("keyid", None)
            key: Key = Key.from_dict("", content)
            public = load_pem_public_key(public_pem(key))
        else:
            keyid = None
            is_certificate = _CERTIFICATE in data
            public = (
                NotaryKey.of_certificates(data).public_key
                if is_certificate
                else load_pem_public_key(data)
            )
        made = SSlibKey.from_crypto(public)
        check_fit(made)
    except KeyStoreError:
        raise
    except TabellionError as error:
        raise KeyStoreError(f"{what} isn't a public key: {error.message}", hint=hint) from error
    except Exception as error:
        raise KeyStoreError(f"{what} isn't a public key", hint=hint) from error
    if keyid is not None and keyid != made.keyid:
        raise KeyStoreError(f"{what} says it's {str(keyid)[:64]}, but it's {made.keyid}", hint=hint)
    return made


def public_pem(key: Key) -> bytes:
    """Give a public key as PEM (SubjectPublicKeyInfo).

    Raises:
        KeyStoreError: Its public part can't be read.
    """
    public = key.keyval.get("public")
    try:
        if key.keytype == "ed25519":
            raw = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(public)))
            return raw.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        loaded = load_pem_public_key(str(public).encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyStoreError(f"key {key.keyid[:12]} can't be read: {error}") from error
    return loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def check_fit(key: Key) -> None:
    """Refuse a key that not all clients read, or a weak one.

    Raises:
        KeyStoreError: It is one.
    """
    if (key.keytype, key.scheme) not in KNOWN_SCHEMES:
        raise KeyStoreError(
            f"a key of type {key.keytype}/{key.scheme} isn't read by all clients",
            hint="use ed25519, ECDSA P-256 or RSA",
        )
    bits = rsa_bits(key)
    if bits is not None and bits < MIN_RSA_BITS:
        raise KeyStoreError(f"an RSA key of {bits} bits is weak", hint=f"use {RSA_BITS} bits")
