"""``hsm:`` keys on PKCS#11 tokens: smart cards, YubiKeys, HSMs, SoftHSM.

``PYKCS11LIB`` names the token's PKCS#11 module. The key is told by its id as a number, 2 by
default; the token by its label, which may be left out if there is only one.

PKCS#11 knows one login per token and process, whatever the threads: so there is one lock per token
and one session, logged in once. A token locks itself after a few wrong PINs: one that was refused
isn't tried again in this process.

Spec: PKCS#11 3.0, sections 5.6 (sessions) and 6.3 (elliptic curves).
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from hashlib import sha256
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tabellion.core.notary_keys import PublicKey
from tabellion.errors import KeyStoreError, PassphraseError, SignerError
from tabellion.signers.backend import Pin, needed
from tabellion.signers.remote_keys import SALT_BYTES
from tabellion.signers.uris import SignerUri

if TYPE_CHECKING:
    from pkcs11 import Key, Object, ObjectClass, Session, Token

_DEFAULT_ID: Final = 2  # of PIV's slot 9c, as securesystemslib has it
_P256_OID: Final = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
_ED25519_POINT: Final = b"\x04\x20"  # the OCTET STRING around 32 bytes


@dataclass
class _Token:
    """A token of this process: its lock, and who is logged in."""

    path: str
    label: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    session: Session | None = None
    pin: str | None = None
    is_refused: bool = False


# The library's state is the process's, so ours is too.
_modules_lock: Final = threading.Lock()
_tokens: Final[dict[tuple[str, str], _Token]] = {}


class HsmTokens:
    """The tokens of the PKCS#11 module that ``PYKCS11LIB`` names."""

    def __init__(self, pin: Pin) -> None:
        self._pin = pin

    def find(self, uri: SignerUri) -> tuple[SignerUri, PublicKey]:
        """Read a public key; logs in only if the token doesn't show it otherwise."""
        pkcs11 = needed("pkcs11", "hsm")
        token = _token(pkcs11, uri)
        with token.lock:
            public = None
            if token.session is None:
                with _present(pkcs11, token.path, token.label).open() as session:
                    public = _find(pkcs11, session, uri)
            if public is None:
                public = _find(pkcs11, self._session(pkcs11, token), uri)
        if public is None:
            raise _no_key(uri, token)
        return SignerUri("hsm", str(_id_of(uri)), token.label or None), public

    def sign(self, uri: SignerUri, public: PublicKey, payload: bytes) -> bytes:
        """Sign; asks for the PIN if nobody is logged in yet."""
        pkcs11 = needed("pkcs11", "hsm")
        token = _token(pkcs11, uri)
        with token.lock:
            was_in = token.session is not None
            try:
                return self._sign(pkcs11, token, uri, public, payload)
            except pkcs11.PKCS11Error as error:
                _log_out(token)
                # A token pulled out and put back, or one that wants a login for each signature:
                # the PIN that was right is given once more.
                if not was_in:
                    raise _fault(token, error) from error
            try:
                return self._sign(pkcs11, token, uri, public, payload)
            except pkcs11.PKCS11Error as error:
                _log_out(token)
                raise _fault(token, error) from error

    def _sign(
        self, pkcs11: ModuleType, token: _Token, uri: SignerUri, public: PublicKey, payload: bytes
    ) -> bytes:
        key: Any = _only(self._session(pkcs11, token), pkcs11.ObjectClass.PRIVATE_KEY, uri)
        if key is None:
            raise _no_key(uri, token)
        if isinstance(public, ec.EllipticCurvePublicKey):
            raw = bytes(key.sign(sha256(payload).digest(), mechanism=pkcs11.Mechanism.ECDSA))
            half = len(raw) // 2
            return encode_dss_signature(
                int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
            )
        if isinstance(public, rsa.RSAPublicKey):
            return bytes(
                key.sign(
                    sha256(payload).digest(),
                    mechanism=pkcs11.Mechanism.RSA_PKCS_PSS,
                    mechanism_param=(pkcs11.Mechanism.SHA256, pkcs11.MGF.SHA256, SALT_BYTES),
                )
            )
        return bytes(key.sign(payload, mechanism=pkcs11.Mechanism.EDDSA))

    def _session(self, pkcs11: ModuleType, token: _Token) -> Session:
        """Give the token's session, logged in."""
        if token.session is not None:
            return token.session
        if token.is_refused:
            raise _refused(token)
        pin = token.pin if token.pin is not None else self._pin(token.label)
        wrong = (
            pkcs11.exceptions.PinIncorrect,
            pkcs11.exceptions.PinInvalid,
            pkcs11.exceptions.PinLenRange,
            pkcs11.exceptions.PinLocked,
            pkcs11.exceptions.PinExpired,
        )
        try:
            # Found anew: put back, it may be in another slot.
            token.session = _present(pkcs11, token.path, token.label).open(user_pin=pin)
        except wrong as error:
            token.is_refused, token.pin = True, None
            raise _refused(token) from error
        except pkcs11.PKCS11Error as error:
            raise _fault(token, error) from error
        token.pin = pin
        return token.session


def backend(scheme: str, pin: Pin) -> HsmTokens:  # noqa: ARG001  (as each of them)
    """Give the tokens."""
    return HsmTokens(pin)


def _token(pkcs11: ModuleType, uri: SignerUri) -> _Token:
    """Find a token; the same one is the same object however it's named."""
    path = os.environ.get("PYKCS11LIB", "")
    if not path:
        raise KeyStoreError(
            "PYKCS11LIB isn't set: it names the token's PKCS#11 module",
            hint="such as PYKCS11LIB=/usr/lib/softhsm/libsofthsm2.so",
        )
    with _modules_lock:
        known = _tokens.get((path, uri.option or ""))
        if known is not None:
            return known
    label = str(_present(pkcs11, path, uri.option or "").label)
    with _modules_lock:
        token = _tokens.setdefault((path, label), _Token(path, label))
        _tokens.setdefault((path, uri.option or ""), token)
        return token


def _present(pkcs11: ModuleType, path: str, label: str) -> Token:
    """Give the token that is there with a label, or the only one for ""."""
    try:
        with _modules_lock:
            found: Token = pkcs11.lib(path).get_token(
                token_label=label or None, token_flags=pkcs11.TokenFlag.TOKEN_INITIALIZED
            )
    except (pkcs11.NoSuchToken, pkcs11.MultipleTokensReturned) as error:
        count = "several tokens are" if "Multiple" in type(error).__name__ else "no token is"
        called = f" called {label!r}" if label else ""
        raise SignerError(
            f"{count} there{called}", hint="put the token in; name it: hsm:ID?label=TOKEN"
        ) from error
    except (pkcs11.PKCS11Error, OSError) as error:
        raise SignerError(
            f"PKCS#11 module {path} can't be used: {_words(error)}",
            hint="check PYKCS11LIB and what the module itself needs",
        ) from error
    return found


def _only(session: Session, kind: ObjectClass, uri: SignerUri) -> Object | None:
    """Give the object of that kind and id, None if there is none."""
    number = _id_of(uri)
    wanted = number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")
    pkcs11 = needed("pkcs11", "hsm")
    found = list(session.get_objects({pkcs11.Attribute.CLASS: kind, pkcs11.Attribute.ID: wanted}))
    if len(found) > 1:
        raise KeyStoreError(f"{uri}: {len(found)} keys have this id", hint="give each its own id")
    return found[0] if found else None


def _find(pkcs11: ModuleType, session: Session, uri: SignerUri) -> PublicKey | None:
    key: Any = _only(session, pkcs11.ObjectClass.PUBLIC_KEY, uri)
    return None if key is None else _public(pkcs11, key, uri)


def _public(pkcs11: ModuleType, key: Key, uri: SignerUri) -> PublicKey:
    if key.key_type == pkcs11.KeyType.RSA:
        numbers = (key[pkcs11.Attribute.PUBLIC_EXPONENT], key[pkcs11.Attribute.MODULUS])
        exponent, modulus = (int.from_bytes(number, "big") for number in numbers)
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    if key.key_type == pkcs11.KeyType.EC_EDWARDS:
        point = bytes(key[pkcs11.Attribute.EC_POINT]).removeprefix(_ED25519_POINT)
        return ed25519.Ed25519PublicKey.from_public_bytes(point)
    if key.key_type == pkcs11.KeyType.EC and key[pkcs11.Attribute.EC_PARAMS] == _P256_OID:
        encoded = pkcs11.util.ec.encode_ec_public_key(key)
        loaded = load_der_public_key(encoded)
        if isinstance(loaded, ec.EllipticCurvePublicKey):
            return loaded
    raise KeyStoreError(f"{uri} is a key of a kind that can't be used", hint="use ECDSA P-256")


def _id_of(uri: SignerUri) -> int:
    return int(uri.path) if uri.path else _DEFAULT_ID


def _log_out(token: _Token) -> None:
    session, token.session = token.session, None
    if session is not None:
        with contextlib.suppress(Exception):  # it may be gone with the token
            session.close()


def _refused(token: _Token) -> PassphraseError:
    return PassphraseError(
        f"token {token.label!r} refused the PIN; it isn't tried again, lest the token lock itself",
        hint="set TABELLION_PIN or TABELLION_PIN_FILE to the right one, then start anew",
    )


def _no_key(uri: SignerUri, token: _Token) -> KeyStoreError:
    return KeyStoreError(
        f"token {token.label!r} holds no key with the id {_id_of(uri)}",
        hint="see its keys with: pkcs11-tool --list-objects --login",
    )


def _fault(token: _Token, error: Exception) -> SignerError:
    return SignerError(f"token {token.label!r} doesn't sign: {_words(error)}")


def _words(error: Exception) -> str:
    """Say a fault in words: most of the library's have no text, but a name that speaks."""
    return str(error) or type(error).__name__
