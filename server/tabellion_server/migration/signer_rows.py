"""Private keys as notary-signer stores them: unwrapped with its passphrase, checked by key id.

A row's ``private`` is a compact JWE: the passphrase makes, by PBKDF2, a key that unwraps another
by AES key wrap, which opens the content by AES-256-GCM.

Spec: RFC 7516, RFC 7518 section 4.8; notary-v1 section 13.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from cryptography.hazmat.primitives.serialization import load_der_private_key

from tabellion.core.notary_keys import NotaryKey
from tabellion.errors import KeyStoreError, PassphraseError

KEYWRAP: Final = "PBES2-HS256+A128KW"
ENCRYPTION: Final = "A256GCM"
_MAX_JWE: Final = 16 * 1024
_MAX_ITERATIONS: Final = 1_000_000  # Notary writes 8192; more than this only keeps us busy
_MIN_SALT, _MAX_SALT = 8, 1024
_WRAP_BYTES: Final = 16
_TAG_BYTES: Final = 16
_PARTS: Final = 5
_ED25519_BYTES: Final = 96  # public key, seed, public key again
_ED25519_KEY: Final = 32
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class SignerRow:
    """One row of ``private_keys``.

    Attributes:
        keyid: TUF key id.
        gun: The GUN; empty in rows older than notary-signer's second migration.
        role: ``snapshot`` or ``timestamp``; empty likewise.
        algorithm: ``ecdsa`` or ``ed25519``.
        alias: Names the passphrase.
        private: Compact JWE, ASCII.
        created_at: When it was made, aware UTC.
        used: It has signed; else it waits for a root that names it.
    """

    keyid: str
    gun: str
    role: str
    algorithm: str
    alias: str
    private: bytes
    created_at: datetime
    used: bool

    def __repr__(self) -> str:
        return f"SignerRow(keyid={self.keyid!r}, gun={self.gun!r}, role={self.role!r})"


def unwrap_key(row: SignerRow, passphrase: str) -> tuple[NotaryKey, PrivateKey]:
    """Decrypt a row's private key; it takes some milliseconds of computing.

    Raises:
        PassphraseError: The passphrase doesn't open it.
        KeyStoreError: The row is damaged, or holds another key than its id says.
    """
    plain = _open_jwe(row, passphrase)
    try:
        private = _load_private(row.algorithm, plain)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged(row, f"its content is no {row.algorithm[:20]} key") from error
    key = NotaryKey.of(private.public_key())
    if key.keyid != row.keyid:
        raise _damaged(row, f"it holds the key {key.keyid}")
    return key, private


def _open_jwe(row: SignerRow, passphrase: str) -> bytes:
    if len(row.private) > _MAX_JWE:
        raise _damaged(row, f"{len(row.private)} bytes are too many")
    try:
        header, salt, iterations, wrapped, nonce, content = _read_jwe(row.private.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise _damaged(row, f"not a JWE that notary-signer writes: {str(error)[:80]}") from error
    wrap_key = hashlib.pbkdf2_hmac(
        "sha256",
        passphrase.encode(),
        KEYWRAP.encode("ascii") + b"\0" + salt,
        iterations,
        _WRAP_BYTES,
    )
    try:
        content_key = aes_key_unwrap(wrap_key, wrapped)
    except InvalidUnwrap as error:
        raise PassphraseError(
            f"the passphrase of alias {row.alias[:40]!r} doesn't open key {row.keyid[:64]}",
            hint=f"set {passphrase_variable(row.alias)} as notary-signer has it",
        ) from error
    try:
        return AESGCM(content_key).decrypt(nonce, content, header)
    except (InvalidTag, ValueError) as error:
        raise _damaged(row, "its content was altered") from error


def passphrase_variable(alias: str) -> str:
    """Name the variable that notary-signer reads an alias' passphrase from."""
    return f"NOTARY_SIGNER_{alias.upper()}"


def _read_jwe(text: str) -> tuple[bytes, bytes, int, bytes, bytes, bytes]:
    """Give header as written, salt, iterations, wrapped key, nonce, content with its tag."""
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise ValueError(f"{len(parts)} parts instead of {_PARTS}")
    header, wrapped, nonce, content, tag = (_decode(part) for part in parts)
    if len(tag) != _TAG_BYTES:
        raise ValueError("a tag of another length")
    salt, iterations = _read_header(header)
    return parts[0].encode("ascii"), salt, iterations, wrapped, nonce, content + tag


def _read_header(data: bytes) -> tuple[bytes, int]:
    header: Any = json.loads(data)
    if not isinstance(header, dict) or header.keys() != {"alg", "enc", "p2c", "p2s"}:
        raise ValueError("a header of other members")
    if (header["alg"], header["enc"]) != (KEYWRAP, ENCRYPTION):
        raise ValueError("other algorithms")
    iterations, salt_text = header["p2c"], header["p2s"]
    if type(iterations) is not int or not 1 <= iterations <= _MAX_ITERATIONS:
        raise ValueError(f"p2c isn't from 1 to {_MAX_ITERATIONS}")
    if not isinstance(salt_text, str) or not _MIN_SALT <= len(salt_text) <= _MAX_SALT:
        raise ValueError("p2s is no salt")
    return _decode(salt_text), iterations


def _decode(text: str) -> bytes:
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _load_private(algorithm: str, plain: bytes) -> PrivateKey:
    if algorithm == "ecdsa":
        loaded = load_der_private_key(plain, None)
        if isinstance(loaded, ec.EllipticCurvePrivateKey):
            return loaded
    elif algorithm == "ed25519" and len(plain) == _ED25519_BYTES:
        seed = plain[_ED25519_KEY : 2 * _ED25519_KEY]
        made = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        public = made.public_key().public_bytes_raw()
        if plain == public + seed + public:
            return made
    raise ValueError("not a key of that algorithm")


def _damaged(row: SignerRow, why: str) -> KeyStoreError:
    return KeyStoreError(
        f"row of signer key {row.keyid[:64]!r} is damaged: {why}",
        hint="restore private_keys from a backup, or rotate the key once the GUN is imported",
    )
