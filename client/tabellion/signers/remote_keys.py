"""Private key objects whose key is elsewhere: each signature is asked for, and checked.

They are cryptography's own private key classes to whoever uses them, so metadata of either dialect
and X.509 certificates are signed with them as with a key in memory. What would need the key itself
is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, NoReturn, TypeAlias, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm
from cryptography.utils import Buffer

from tabellion.core.notary_keys import PublicKey
from tabellion.errors import KeyStoreError, SignerError

RemoteKey: TypeAlias = "RemoteEcKey | RemoteRsaKey | RemoteEd25519Key"
Sign: TypeAlias = Callable[[bytes], bytes]
"""Signs a payload: ed25519; ECDSA over SHA-256, in DER; or RSA-PSS, SHA-256, 32 bytes of salt."""
SALT_BYTES: Final = 32
_Public = TypeVar("_Public", bound=PublicKey)


class _Remote(Generic[_Public]):
    """What the three kinds have in common."""

    def __init__(self, public: _Public, sign: Sign) -> None:
        self._public = public
        self._sign = sign

    def public_key(self) -> _Public:
        """Give the public half."""
        return self._public

    def sign_payload(self, payload: Buffer) -> bytes:
        """Have a payload signed; a signature that doesn't hold goes no further."""
        data = bytes(payload)
        signature = self._sign(data)
        try:
            verify(self._public, signature, data)
        except InvalidSignature as error:
            raise SignerError(
                "what holds the key signed with another one than was noted",
                hint="check the URI: the key there was replaced",
            ) from error
        return signature

    def _kept(self, *_: object, **__: object) -> NoReturn:
        raise KeyStoreError(
            "the private key can't leave the token or service that holds it",
            hint="export its public part",
        )

    private_bytes = private_numbers = _kept


class RemoteEcKey(_Remote[ec.EllipticCurvePublicKey], ec.EllipticCurvePrivateKey):
    """An ECDSA key."""

    exchange = _Remote._kept  # noqa: SLF001  (the class's own base)

    @property
    def curve(self) -> ec.EllipticCurve:
        """Give the curve."""
        return self.public_key().curve

    @property
    def key_size(self) -> int:
        """Give the size in bits."""
        return self.curve.key_size

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign with SHA-256; give DER."""
        _check_hash(getattr(signature_algorithm, "algorithm", None))
        return self.sign_payload(data)

    def __copy__(self) -> RemoteEcKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteEcKey:
        return self


class RemoteRsaKey(_Remote[rsa.RSAPublicKey], rsa.RSAPrivateKey):
    """An RSA key."""

    decrypt = _Remote._kept  # noqa: SLF001  (the class's own base)

    @property
    def key_size(self) -> int:
        """Give the size in bits."""
        return self.public_key().key_size

    def sign(
        self,
        data: Buffer,
        padding: AsymmetricPadding,
        algorithm: Prehashed | HashAlgorithm | NoDigestInfo,
    ) -> bytes:
        """Sign by PSS with SHA-256."""
        _check_hash(algorithm)
        if not isinstance(padding, PSS):
            raise KeyStoreError("a key held elsewhere signs by RSA-PSS only", hint="use ECDSA")
        return self.sign_payload(data)

    def __copy__(self) -> RemoteRsaKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteRsaKey:
        return self


class RemoteEd25519Key(_Remote[ed25519.Ed25519PublicKey], ed25519.Ed25519PrivateKey):
    """An Ed25519 key."""

    private_bytes_raw = _Remote._kept  # noqa: SLF001  (the class's own base)

    def sign(self, data: Buffer) -> bytes:
        """Sign."""
        return self.sign_payload(data)

    def __copy__(self) -> RemoteEd25519Key:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteEd25519Key:
        return self


def remote_key(public: PublicKey, sign: Sign) -> RemoteKey:
    """Give the private key object of a key that ``sign`` signs with."""
    if isinstance(public, ec.EllipticCurvePublicKey):
        return RemoteEcKey(public, sign)
    if isinstance(public, rsa.RSAPublicKey):
        return RemoteRsaKey(public, sign)
    return RemoteEd25519Key(public, sign)


def verify(public: PublicKey, signature: bytes, payload: bytes) -> None:
    """Verify one signature of those that ``Sign`` gives.

    Raises:
        InvalidSignature: It doesn't hold.
    """
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, payload, ec.ECDSA(SHA256()))
    elif isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, payload, PSS(MGF1(SHA256()), SALT_BYTES), SHA256())
    else:
        public.verify(signature, payload)


def _check_hash(algorithm: object) -> None:
    if not isinstance(algorithm, SHA256):
        raise KeyStoreError("a key held elsewhere signs SHA-256 only", hint="use SHA-256")
