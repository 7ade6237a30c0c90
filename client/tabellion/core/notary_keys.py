"""Public keys of the ``notary`` dialect, their ids and signatures.

A key is ``{"keytype": T, "keyval": {"private": null, "public": base64}}``; a signature carries its
method beside it. The same key has another id as a certificate than bare, so ids name an entry of
one file; ``canonical_id`` and ``key_material`` name the key.

Spec: Notary 0.7.0 ``tuf/data``, as measured in notary-v1 sections 3 and 4.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from typing import Any, Final, Self, TypeAlias, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from cryptography.x509 import (
    Certificate,
    DuplicateExtension,
    InvalidVersion,
    UnsupportedGeneralNameType,
    load_pem_x509_certificates,
)
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, SecretsHandler, Signature, Signer

from tabellion.core.strict_json import canonical
from tabellion.errors import MalformedMetadataError

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

ED25519: Final = "ed25519"
KEY_TYPES: Final = frozenset({"ecdsa", "ecdsa-x509", "rsa", "rsa-x509", ED25519})
MIN_RSA_BITS: Final = 2048
CERTIFICATE_FAULTS: Final = (
    ValueError,
    IndexError,
    UnsupportedAlgorithm,
    InvalidVersion,
    DuplicateExtension,
    UnsupportedGeneralNameType,
)
"""In all these ways a certificate can be none."""
_CURVES: Final = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_SALT_BYTES: Final = 32
_MAX_PUBLIC: Final = 64 * 1024
_PEM: Final = b"-----BEGIN "


class NotaryKey(Key):
    """A public key as a Notary file lists it.

    ``keyid`` is the id that the file gives it; whoever wrote the file chose that. ``computed_id``
    is the one it ought to have.
    """

    SCHEME: Final = "notary"

    @classmethod
    def from_dict(cls, keyid: str, key_dict: dict[str, Any]) -> Self:
        """Read a key object; unknown members are dropped, as Notary does.

        Raises:
            MalformedMetadataError: It isn't a key object. An unreadable public part isn't looked at
                before it's used.
        """
        keytype, keyval = key_dict.get("keytype"), key_dict.get("keyval")
        public = keyval.get("public") if isinstance(keyval, dict) else None
        if not isinstance(keytype, str) or not isinstance(public, str) or len(public) > _MAX_PUBLIC:
            raise MalformedMetadataError(f"key {keyid[:64]!r} has no type and public part")
        return cls(keyid, keytype, cls.SCHEME, {"private": None, "public": public})

    @classmethod
    def of(cls, public: PublicKey) -> Self:
        """Make the bare key of a public key."""
        if isinstance(public, ed25519.Ed25519PublicKey):
            return cls._named(ED25519, public.public_bytes_raw())
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls._named("rsa" if isinstance(public, rsa.RSAPublicKey) else "ecdsa", der)

    @classmethod
    def of_certificates(cls, pem: bytes) -> Self:
        """Make the key of a certificate chain in PEM, leaf first.

        Raises:
            MalformedMetadataError: It holds no certificate of an ECDSA or RSA key.
        """
        try:
            public = load_pem_x509_certificates(pem)[0].public_key()
        except CERTIFICATE_FAULTS as error:
            raise MalformedMetadataError(f"not a certificate in PEM: {error}") from error
        if isinstance(public, rsa.RSAPublicKey):
            return cls._named("rsa-x509", pem)
        if isinstance(public, ec.EllipticCurvePublicKey):
            return cls._named("ecdsa-x509", pem)
        raise MalformedMetadataError("the certificate is neither of an ECDSA nor of an RSA key")

    @classmethod
    def _named(cls, keytype: str, public: bytes) -> Self:
        text = base64.b64encode(public).decode("ascii")
        made = cls("", keytype, cls.SCHEME, {"private": None, "public": text})
        made.keyid = made.computed_id
        return made

    def to_dict(self) -> dict[str, Any]:
        """Give the key object as metadata holds it."""
        return {"keytype": self.keytype, "keyval": dict(self.keyval)}

    @property
    def is_certificate(self) -> bool:
        """Tell whether the public part is a certificate chain."""
        return self.keytype.endswith("-x509")

    @property
    def computed_id(self) -> str:
        """Give the TUF key id: SHA-256 of the canonical key object."""
        return hashlib.sha256(canonical(self.to_dict())).hexdigest()

    @property
    def canonical_id(self) -> str:
        """Give the id of the bare key, the same for every certificate of it.

        Raises:
            MalformedMetadataError: The public part can't be read.
        """
        return NotaryKey.of(self.public_key).keyid if self.is_certificate else self.computed_id

    @property
    def public_key(self) -> PublicKey:
        """Give the public key itself.

        Raises:
            MalformedMetadataError: The public part can't be read, or is of another type.
        """
        return _load(self.keytype, str(self.keyval["public"]))

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """Give the certificate chain, leaf first; empty for a bare key.

        Raises:
            MalformedMetadataError: The public part can't be read.
        """
        if not self.is_certificate:
            return ()
        return _certificates(str(self.keyval["public"]))

    @property
    def material(self) -> bytes:
        """Give what makes the key that key; see ``key_material``."""
        public = self.public_key
        if isinstance(public, ed25519.Ed25519PublicKey):
            return b"ed25519:" + public.public_bytes_raw()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        """Verify one signature, or any of several that the file lists for this key.

        A key under an id that isn't its own verifies nothing, as in Notary.

        Raises:
            UnverifiedSignatureError: None holds.
            MalformedMetadataError: The key can't be read.
        """
        if self.keyid != self.computed_id:
            raise UnverifiedSignatureError(f"key {self.keyid[:64]} doesn't have its own id")
        for method, sig in signature_texts(signature):
            try:
                _verify(self.public_key, method, base64.b64decode(sig, validate=True), data)
            except (InvalidSignature, ValueError, binascii.Error):
                continue
            return
        raise UnverifiedSignatureError(f"no valid signature of key {self.keyid[:64]}")


class NotarySigner(Signer):
    """Signs as Notary does: SHA-256 digests, raw r and s, base64."""

    def __init__(self, private: PrivateKeyTypes, key: NotaryKey) -> None:
        """Take a private key and how metadata lists its public half.

        Raises:
            MalformedMetadataError: They don't belong together.
        """
        made = NotaryKey.of(cast("PublicKey", private.public_key()))
        if made.material != key.material:
            raise MalformedMetadataError(f"the private key isn't that of {key.keyid[:64]}")
        self._private = private
        self._key = key

    @property
    def public_key(self) -> NotaryKey:
        """Give the public half."""
        return self._key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> NotarySigner:
        """Not offered: there's no URI of such a key."""
        raise NotImplementedError

    def sign(self, payload: bytes) -> Signature:
        """Sign the canonical payload."""
        method, raw = _sign(self._private, payload)
        text = base64.b64encode(raw).decode("ascii")
        return Signature(self._key.keyid, text, {"method": method})


def signature_texts(signature: Signature) -> list[tuple[str, str]]:
    """List (method, base64) of all signatures that a file holds of one key."""
    fields = signature.unrecognized_fields
    first = (str(fields.get("method")), signature.signature)
    return [first, *fields.get("also", ())]


def _sign(private: PrivateKeyTypes, payload: bytes) -> tuple[str, bytes]:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "eddsa", private.sign(payload)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(private.sign(payload, ec.ECDSA(SHA256())))
        size = (private.curve.key_size + 7) // 8
        return "ecdsa", r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if isinstance(private, rsa.RSAPrivateKey):
        return "rsapss", private.sign(payload, _pss(), SHA256())
    raise MalformedMetadataError(f"a {type(private).__name__} can't sign in this dialect")


def _verify(public: PublicKey, method: str, sig: bytes, data: bytes) -> None:
    match public, method:
        case ed25519.Ed25519PublicKey(), "eddsa":
            public.verify(sig, data)
        case ec.EllipticCurvePublicKey(), "ecdsa" if isinstance(public.curve, _CURVES):
            size = (public.curve.key_size + 7) // 8
            if len(sig) != 2 * size:
                raise InvalidSignature
            r, s = int.from_bytes(sig[:size], "big"), int.from_bytes(sig[size:], "big")
            public.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
        case rsa.RSAPublicKey(), "rsapss" | "pycrypto-pkcs#1 pss" if is_strong(public):
            public.verify(sig, data, _pss(), SHA256())
        case rsa.RSAPublicKey(), "rsapkcs1v15" if is_strong(public):
            public.verify(sig, data, padding.PKCS1v15(), SHA256())
        case _:
            raise InvalidSignature


def is_strong(public: object) -> bool:
    """Tell whether a public key isn't an RSA key that is too short."""
    return not isinstance(public, rsa.RSAPublicKey) or public.key_size >= MIN_RSA_BITS


def _pss() -> padding.PSS:
    return padding.PSS(padding.MGF1(SHA256()), _SALT_BYTES)


@functools.lru_cache(maxsize=1024)
def _load(keytype: str, public: str) -> PublicKey:
    loaded: object
    try:
        if keytype.endswith("-x509"):
            loaded = _certificates(public)[0].public_key()
        elif keytype == ED25519:
            loaded = ed25519.Ed25519PublicKey.from_public_bytes(_decode(public))
        else:
            data = _decode(public)
            loaded = (
                load_pem_public_key(data) if data.startswith(_PEM) else load_der_public_key(data)
            )
    except CERTIFICATE_FAULTS as error:
        raise MalformedMetadataError(f"unreadable public part of a {keytype[:20]} key") from error
    fits = {
        "ecdsa": ec.EllipticCurvePublicKey,
        "rsa": rsa.RSAPublicKey,
        ED25519: ed25519.Ed25519PublicKey,
    }.get(keytype.removesuffix("-x509"))
    if keytype not in KEY_TYPES or fits is None or not isinstance(loaded, fits):
        raise MalformedMetadataError(f"a key isn't of its type {keytype[:20]!r}")
    return cast("PublicKey", loaded)


@functools.lru_cache(maxsize=1024)
def _certificates(public: str) -> tuple[Certificate, ...]:
    try:
        return tuple(load_pem_x509_certificates(_decode(public)))
    except CERTIFICATE_FAULTS as error:
        raise MalformedMetadataError("a key's public part holds no certificate in PEM") from error


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
