"""Which key a token is signed by, and whether the operator's bundle vouches for it.

A header names its key by a certificate chain (``x5c``), whole (``jwk``) or by libtrust's
fingerprint (``kid``); the first of these that is there decides.

Spec: notary-v1 section 1.6.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification

from tabellion.core.notary_keys import CERTIFICATE_FAULTS

_MAX_CHAIN: Final = 8
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 8192
_KID_BYTES: Final = 30
_KID_GROUP: Final = 4
_CURVES: Final[Mapping[str, str]] = {
    "secp256r1": "ES256",
    "secp384r1": "ES384",
    "secp521r1": "ES512",
}
_RSA: Final = ("RS256", "RS384", "RS512")
_JWK_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e")

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class BadTokenError(Exception):
    """The token isn't one of the service's, or isn't valid now; the text is for the log."""


class TokenKeys:
    """Finds keys of tokens, trusting certificates of one bundle."""

    def __init__(self, roots: Sequence[x509.Certificate]) -> None:
        self._roots = {root.public_bytes(Encoding.DER): root for root in roots}
        self._keys: dict[str, PublicKey] = {}
        for root in roots:
            key = root.public_key()
            if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
                self._keys[libtrust_fingerprint(key)] = key

    def find(self, header: Mapping[str, Any], now: datetime) -> PublicKey:
        """Give the key that a token's header names.

        Raises:
            BadTokenError: It names none, or one that the bundle doesn't vouch for.
        """
        if "x5c" in header:
            return self._of_chain(header["x5c"], now)
        if "jwk" in header:
            return self._of_jwk(header["jwk"], now)
        kid = header.get("kid")
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise BadTokenError(f"its kid {kid!r:.80} is none of the bundle's keys")
        return _usable(key)

    def _of_jwk(self, jwk: object, now: datetime) -> PublicKey:
        if not isinstance(jwk, dict):
            raise BadTokenError("its jwk isn't an object")
        # Only what makes up a public key: the rest of the object decides nothing.
        members = {name: jwk[name] for name in _JWK_MEMBERS if name in jwk}
        if members.get("kty") not in {"RSA", "EC"} or not all(
            isinstance(value, str) for value in members.values()
        ):
            raise BadTokenError("its jwk is neither RSA nor EC")
        kind = "RS256" if members["kty"] == "RSA" else "ES256"  # the family; the curve is its own
        try:
            given = jwt.get_algorithm_by_name(kind).from_jwk(members)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            raise BadTokenError(f"its jwk isn't a public key: {error}") from error
        key = _usable(given)
        fingerprint = libtrust_fingerprint(key)
        if "x5c" in jwk:
            if libtrust_fingerprint(self._of_chain(jwk["x5c"], now)) != fingerprint:
                raise BadTokenError("its jwk isn't the key of its certificate")
        elif fingerprint not in self._keys:
            raise BadTokenError("its jwk is none of the bundle's keys")
        return key

    def _of_chain(self, chain: object, now: datetime) -> PublicKey:
        """Give the key of a chain's first certificate, after the chain led to the bundle."""
        if not isinstance(chain, list) or not 0 < len(chain) <= _MAX_CHAIN:
            raise BadTokenError(f"its x5c isn't a list of 1 to {_MAX_CHAIN} certificates")
        leaf, *others = [_certificate(item) for item in chain]
        is_root = leaf.public_bytes(Encoding.DER) in self._roots
        if is_root and not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
            raise BadTokenError("its certificate has expired, or isn't valid yet")
        try:
            if not is_root:
                self._check_chain(leaf, others, now)
            return _usable(leaf.public_key())
        except (verification.VerificationError, UnsupportedAlgorithm, ValueError) as error:
            raise BadTokenError(f"its certificate doesn't lead to the bundle: {error}") from error

    def _check_chain(
        self, leaf: x509.Certificate, others: Sequence[x509.Certificate], now: datetime
    ) -> None:
        policy = (
            verification.PolicyBuilder()
            .store(verification.Store(list(self._roots.values())))
            .time(now)
            # Certificates of token services have any usage, and often no name.
            .extension_policies(
                ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
                ee_policy=verification.ExtensionPolicy.permit_all(),
            )
            .build_client_verifier()
        )
        policy.verify(leaf, list(others))


def libtrust_fingerprint(key: PublicKey) -> str:
    """Give libtrust's id of a key: twelve groups of four base32 digits of its SHA-256."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:_KID_BYTES]).decode("ascii")
    return ":".join(text[at : at + _KID_GROUP] for at in range(0, len(text), _KID_GROUP))


def algorithms_of(key: PublicKey) -> list[str]:
    """Give the JSON signature algorithms that fit a key, whatever a header claims."""
    if isinstance(key, rsa.RSAPublicKey):
        return list(_RSA)
    return [_CURVES[key.curve.name]]


def _usable(key: object) -> PublicKey:
    if isinstance(key, rsa.RSAPublicKey) and _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    raise BadTokenError("its key is neither RSA of 2048 bits or more, nor of a NIST curve")


def _certificate(text: object) -> x509.Certificate:
    try:
        if isinstance(text, str):
            return x509.load_der_x509_certificate(base64.b64decode(text, validate=True))
    except (binascii.Error, *CERTIFICATE_FAULTS) as error:
        raise BadTokenError("its x5c holds what isn't a certificate") from error
    raise BadTokenError("its x5c holds what isn't a text")
