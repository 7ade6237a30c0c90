"""Private keys as Notary and docker keep them: PEM with ``role``, ``gun`` and ``path`` headers.

The encrypted form is PBES2 with PBKDF2-HMAC-SHA1 and AES-256-CBC over a PKCS#8 that other programs
refuse: version 1 without a public key (EC), an algorithm without NULL (RSA), an OID of its own for
Ed25519 (the octets are public, seed, public). OpenSSL's PEM reader refuses the headers besides.
Standard PKCS#8 and the older forms with ``DEK-Info`` are read too.

Spec: Notary 0.7.0 ``tuf/utils/pkcs8.go`` and ``x509.go``, as measured in notary-v1 section 10;
RFC 1421 section 4.6, RFC 8018 appendix A, RFC 5958.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from tabellion.core.notary_keys import NotaryKey
from tabellion.errors import KeyStoreError, PassphraseError
from tabellion.publish import der
from tabellion.publish.der import DerReader
from tabellion.publish.pkcs8 import PBKDF2, sealed_pem
from tabellion.publish.unsealing import undone_dek, unreadable, unsealed, wrong

MAX_FILE: Final = 1024 * 1024
_MAX_BLOCKS: Final = 1000
_MAX_HEADERS: Final = 16
_MAX_HEADER_LINE: Final = 600
_MAX_DER: Final = 8 * 1024  # RSA of 8192 bits has 4.7 KiB
_ROUNDS: Final = 600_000  # Notary writes 2048 and reads any number
_SALT_BYTES: Final = 8
_KEY_BYTES: Final = 32
_ED25519_BYTES: Final = 96

_ENCRYPTED: Final = "ENCRYPTED PRIVATE KEY"
_ED25519_KIND: Final = "ED25519 PRIVATE KEY"
_TRADITIONAL: Final = frozenset({"EC PRIVATE KEY", "RSA PRIVATE KEY", _ED25519_KIND})
_KINDS: Final = _TRADITIONAL | {_ENCRYPTED, "PRIVATE KEY"}
_EDGE: Final = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]{1,40})-----[ \t\r]*")
_HEADER: Final = re.compile(rb"([A-Za-z0-9-]{1,40}): ?([\x20-\x7e]{0,512}?)[ \t\r]*")

_EC: Final = bytes.fromhex("2a8648ce3d0201")
_RSA: Final = bytes.fromhex("2a864886f70d010101")
_NOTARY_ED25519: Final = bytes.fromhex("2b06010401da470f01")


@dataclass(frozen=True)
class KeyBlock:
    """One private key of a PEM file, not yet opened.

    Attributes:
        kind: PEM type, such as ``ENCRYPTED PRIVATE KEY``.
        headers: Name to value.
        body: The decoded body, as found.
    """

    kind: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def role(self) -> str:
        """Give ``root``, ``targets``, ``snapshot`` or a signer's name; "" if there's none."""
        return self.headers.get("role", "")

    @property
    def gun(self) -> str:
        """Give the GUN, "" if there's none."""
        return self.headers.get("gun", "")

    @property
    def canonical_id(self) -> str:
        """Give the id that an exported file claims, "" if it doesn't."""
        return self.headers.get("path", "")

    @property
    def is_encrypted(self) -> bool:
        """Tell whether a passphrase is needed."""
        return self.kind == _ENCRYPTED or (self.kind in _TRADITIONAL and "DEK-Info" in self.headers)

    def open(self, passphrase: str, what: str = "the PEM") -> PrivateKeyTypes:
        """Give the key; ``what`` names it in error texts.

        Raises:
            KeyStoreError: Not a key, or of a kind that can't be read here.
            PassphraseError: The passphrase doesn't open it.
        """
        if self.kind == _ENCRYPTED:
            plain = unsealed(self.body, passphrase.encode("utf-8", "surrogateescape"), what)
            try:
                _key_parts(plain)
            except KeyStoreError as error:  # one in 256 wrong passphrases leaves good padding
                raise wrong(what) from error
            return _private(plain, what)
        if self.kind == _ED25519_KIND:
            body = self.body
            if self.is_encrypted:
                body = undone_dek(
                    body,
                    self.headers["DEK-Info"],
                    passphrase.encode("utf-8", "surrogateescape"),
                    what,
                )
                if len(body) != _ED25519_BYTES:
                    raise wrong(what)
            return _ed25519(body, what)
        if self.kind in _TRADITIONAL:
            return self._traditional(passphrase, what)
        return _private(self.body, what)

    def _traditional(self, passphrase: str, what: str) -> PrivateKeyTypes:
        names = [name for name in ("Proc-Type", "DEK-Info") if name in self.headers]
        lines = [f"{name}: {self.headers[name]}" for name in names]
        body = base64.encodebytes(self.body).decode("ascii")
        head = "\n".join([f"-----BEGIN {self.kind}-----", *lines, *([""] if lines else []), body])
        pem = f"{head}-----END {self.kind}-----\n".encode("ascii")
        secret = passphrase.encode("utf-8", "surrogateescape") if self.is_encrypted else None
        try:
            return load_pem_private_key(pem, secret)
        except UnsupportedAlgorithm as error:
            raise unreadable(what, error) from error
        except (ValueError, TypeError) as error:
            raise (wrong(what) if self.is_encrypted else unreadable(what, error)) from error


def read_blocks(data: bytes, what: str = "the PEM") -> list[KeyBlock]:
    """Find the private keys in a PEM file; text and blocks of other kinds are passed over.

    Raises:
        KeyStoreError: Too large, no private key in it, or a block is broken.
    """
    if len(data) > MAX_FILE:
        raise KeyStoreError(
            f"{what} has more than {MAX_FILE} bytes", hint="give a file of private keys in PEM"
        )
    found: list[KeyBlock] = []
    kind, lines = "", list[bytes]()
    for line in data.split(b"\n"):
        edge = _EDGE.fullmatch(line)
        if edge is None:
            lines.append(line)
            continue
        word, name = edge[1], edge[2].decode("ascii")
        if (word == b"BEGIN") == bool(kind) or (kind and name != kind):
            raise _broken(what, "BEGIN and END don't pair")
        if kind in _KINDS:
            found.append(_block(kind, lines, what))
        kind, lines = (name, []) if word == b"BEGIN" else ("", [])
        if len(found) > _MAX_BLOCKS:
            raise _broken(what, f"more than {_MAX_BLOCKS} keys")
    if kind:
        raise _broken(what, f"no END {kind}")
    if not found:
        raise KeyStoreError(
            f"{what} isn't a private key in PEM", hint="give PKCS#8, PKCS#1, SEC1 or Notary's PEM"
        )
    return found


def write_key(
    private: PrivateKeyTypes,
    passphrase: str,
    *,
    role: str,
    gun: str | None = None,
    canonical_id: str | None = None,
) -> bytes:
    """Give a key as both CLIs write it, but with more rounds of key derivation.

    Args:
        private: ECDSA, RSA or Ed25519.
        passphrase: Protects it.
        role: ``root``, ``targets``, ``snapshot``, or a signer's name.
        gun: The GUN of a ``targets`` or ``snapshot`` key.
        canonical_id: For a file to be passed around, which importers name the key by.

    Raises:
        KeyStoreError: A key of another kind, or a header that can't be written.
        PassphraseError: The passphrase is empty.
    """
    if not passphrase:
        raise PassphraseError("the passphrase for a key is empty", hint="use 8 characters or more")
    named = {"gun": gun, "path": canonical_id, "role": role}
    headers = tuple(f"{name}: {value}" for name, value in named.items() if value)
    if not all(_HEADER.fullmatch(line.encode("utf-8")) for line in headers):
        raise KeyStoreError(f"role {role[:64]!r} can't stand in a key file", hint="use ASCII names")
    salt = os.urandom(_SALT_BYTES)
    key = hashlib.pbkdf2_hmac(
        "sha1", passphrase.encode("utf-8", "surrogateescape"), salt, _ROUNDS, _KEY_BYTES
    )
    parameters = der.sequence(der.octets(salt), der.integer(_ROUNDS))
    derivation = der.sequence(der.oid(PBKDF2), parameters)
    return sealed_pem(_notary_pkcs8(private), key, derivation, headers)


def canonical_id_of(private: PrivateKeyTypes) -> str:
    """Give the id that names a key in both CLIs, and its file in their folders.

    Raises:
        KeyStoreError: A key of a kind that Notary doesn't keep.
    """
    if not isinstance(
        private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    ):
        raise _not_kept(private)
    return NotaryKey.of(private.public_key()).keyid


def _notary_pkcs8(private: PrivateKeyTypes) -> bytes:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        public = private.public_key().public_bytes_raw()
        content = public + private.private_bytes_raw() + public
        algorithm = der.sequence(der.oid(_NOTARY_ED25519))
        return der.sequence(der.integer(0), algorithm, der.octets(content))
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise _not_kept(private)
    content = private.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    if isinstance(private, rsa.RSAPrivateKey):
        algorithm = der.sequence(der.oid(_RSA))
        return der.sequence(der.integer(0), algorithm, der.octets(content))
    standard = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    curve = _key_parts(standard).parameter
    algorithm = der.sequence(der.oid(_EC), der.oid(curve))
    return der.sequence(der.integer(1), algorithm, der.octets(content))


def _block(kind: str, lines: list[bytes], what: str) -> KeyBlock:
    headers: dict[str, str] = {}
    body = list(lines)
    while body and b":" in body[0]:
        line = body.pop(0)
        header = _HEADER.fullmatch(line) if len(line) <= _MAX_HEADER_LINE else None
        if header is None or len(headers) == _MAX_HEADERS:
            raise _broken(what, "a header can't be read")
        name = header[1].decode("ascii")
        if name in headers:
            raise _broken(what, f"header {name!r} appears twice")
        headers[name] = header[2].decode("ascii")
    text = b"".join(b"".join(body).split())
    if len(text) > _MAX_DER * 4 // 3 + 4:
        raise _broken(what, f"a key of more than {_MAX_DER} bytes")
    try:
        return KeyBlock(kind, headers, base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise _broken(what, "the body isn't base64") from error


@dataclass(frozen=True)
class _KeyParts:
    """A PrivateKeyInfo: the algorithm, the curve's OID (EC only), and what the key is."""

    algorithm: bytes
    parameter: bytes
    content: bytes
    is_bare: bool


def _key_parts(plain: bytes) -> _KeyParts:
    outer = DerReader(plain)
    info = outer.sequence()
    outer.end()
    version = info.integer()
    if version > 1:
        raise KeyStoreError(f"a private key is of version {version}", hint="give PKCS#8")
    algorithm = info.sequence()
    name = algorithm.oid()
    parameter = algorithm.oid() if algorithm.next_tag == der.OID else b""
    if algorithm.next_tag == der.NULL:
        algorithm.null()
    algorithm.end()
    content = info.octets()
    return _KeyParts(name, parameter, content, info.next_tag is None)


def _private(plain: bytes, what: str) -> PrivateKeyTypes:
    """Read a PrivateKeyInfo, Notary's or a standard one."""
    parts = _key_parts(plain)
    if parts.algorithm == _NOTARY_ED25519 and parts.is_bare:
        return _ed25519(parts.content, what)
    if parts.is_bare and parts.algorithm in {_EC, _RSA}:
        parameter = der.oid(parts.parameter) if parts.algorithm == _EC else der.null()
        algorithm = der.sequence(der.oid(parts.algorithm), parameter)
        plain = der.sequence(der.integer(0), algorithm, der.octets(parts.content))
    try:
        return load_der_private_key(plain, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise unreadable(what, error) from error


def _ed25519(content: bytes, what: str) -> ed25519.Ed25519PrivateKey:
    if len(content) != _ED25519_BYTES:
        raise KeyStoreError(
            f"{what} is an Ed25519 key of {len(content)} bytes, not {_ED25519_BYTES}",
            hint="check that the file is whole",
        )
    private = ed25519.Ed25519PrivateKey.from_private_bytes(content[32:64])
    public = private.public_key().public_bytes_raw()
    if content[:32] != public or content[64:] != public:
        raise KeyStoreError(
            f"{what} is an Ed25519 key whose halves don't belong together",
            hint="restore it from a backup",
        )
    return private


def _not_kept(private: PrivateKeyTypes) -> KeyStoreError:
    return KeyStoreError(
        f"Notary keeps no {type(private).__name__}", hint="use ECDSA P-256, RSA or ed25519"
    )


def _broken(what: str, reason: str) -> KeyStoreError:
    return KeyStoreError(f"{what} is broken PEM: {reason}", hint="check that the file is whole")
