"""The one door to keys that live elsewhere: by URI to the place that holds the key."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from securesystemslib.signer import SSlibKey

from tabellion.core.notary_keys import NotaryKey, PublicKey
from tabellion.errors import KeyStoreError, SignerError, TabellionError
from tabellion.signers.backend import Backend, Pin
from tabellion.signers.remote_keys import RemoteKey, remote_key
from tabellion.signers.uris import SignerUri, parse_signer_uri

_T = TypeVar("_T")
_PROBE: Final = b"tabellion asks whether this key signs"  # no metadata reads like that
_MODULES: Final[Mapping[str, str]] = {
    "hsm": "hsm",
    "hv": "transit",
    "gnupg": "gnupg",
    "awskms": "clouds",
    "gcpkms": "clouds",
    "azurekms": "clouds",
}
_MAX_REASON: Final = 300


@dataclass(frozen=True)
class Found:
    """A key that was found elsewhere.

    Attributes:
        uri: Names that very key, its version too.
        public: Its public part.
    """

    uri: str
    public: PublicKey

    @property
    def key(self) -> SSlibKey:
        """Give the key as TUF metadata lists it; ``check_fit`` tells whether it may."""
        return SSlibKey.from_crypto(self.public)

    @property
    def notary_key(self) -> NotaryKey:
        """Give the key as Notary's metadata lists it, bare."""
        return NotaryKey.of(self.public)


class RemoteSigners:
    """Finds and uses keys by their URI. Its methods block; threads may share it."""

    def __init__(self, pin: Pin) -> None:
        """Take who tells a token's PIN, asked with the token's label."""
        self._pin = pin
        self._backends: dict[str, Backend] = {}
        self._lock = threading.Lock()

    def find(self, text: str) -> Found:
        """Read the public key that a URI names.

        Raises:
            KeyStoreError: No URI, no such key, of a kind that can't be used, or a missing package.
            PassphraseError: A PIN is missing or was refused.
            SignerError: What holds it can't be reached or refuses.
        """
        uri = parse_signer_uri(text)
        exact, public = _told(uri, lambda: self._backend(uri.scheme).find(uri))
        try:
            # Where it's said to be is the place's own word, and is kept and gone by.
            return Found(str(parse_signer_uri(str(exact))), public)
        except KeyStoreError as error:
            raise SignerError(f"{uri}: what holds the key gives it no usable name") from error

    def private_key(self, text: str, public: PublicKey) -> RemoteKey:
        """Give what signs with a key; nobody is asked before it signs.

        Each signature raises as ``find`` does.

        Raises:
            KeyStoreError: No URI.
        """
        uri = parse_signer_uri(text)
        return remote_key(public, functools.partial(self._sign, uri, public))

    def probe(self, text: str) -> Found:
        """Find a key and have it sign something harmless.

        Raises:
            TabellionError: As ``find`` does.
        """
        found = self.find(text)
        self.private_key(found.uri, found.public).sign_payload(_PROBE)
        return found

    def _sign(self, uri: SignerUri, public: PublicKey, payload: bytes) -> bytes:
        return _told(uri, lambda: self._backend(uri.scheme).sign(uri, public, payload))

    def _backend(self, scheme: str) -> Backend:
        with self._lock:
            if scheme not in self._backends:
                self._backends[scheme] = _new_backend(scheme, self._pin)
            return self._backends[scheme]


def _new_backend(scheme: str, pin: Pin) -> Backend:
    """Make what knows the places of a scheme; only what is used is imported."""
    module = importlib.import_module(f"tabellion.signers.{_MODULES[scheme]}")
    make: Callable[[str, Pin], Backend] = module.backend
    return make(scheme, pin)


def _told(uri: SignerUri, ask: Callable[[], _T]) -> _T:
    """Ask; whatever a place's own library raises becomes an error of ours."""
    try:
        return ask()
    except TabellionError:
        raise
    except Exception as error:  # each library has exceptions of its own
        reason = " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__
        raise SignerError(f"{uri}: {reason}") from error
