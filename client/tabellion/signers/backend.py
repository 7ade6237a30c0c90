"""What each kind of place that holds keys does for us, and how what is missing for it is told.

Each module of one has a function ``backend(scheme, pin) -> Backend``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Protocol, TypeAlias

from tabellion.core.notary_keys import PublicKey
from tabellion.errors import KeyStoreError
from tabellion.signers.uris import SignerUri

Pin: TypeAlias = Callable[[str], str]
"""Gives the PIN of the token with that label."""


class Backend(Protocol):
    """One kind of place. Its methods block, and may be called from several threads at once.

    Beside our own errors they may raise whatever their libraries do.
    """

    def find(self, uri: SignerUri) -> tuple[SignerUri, PublicKey]:
        """Read a public key; give also the URI of that very key, its newest version if several."""

    def sign(self, uri: SignerUri, public: PublicKey, payload: bytes) -> bytes:
        """Sign as ``remote_keys.Sign`` says."""


def needed(module: str, extra: str) -> ModuleType:
    """Import a library that only some need.

    Raises:
        KeyStoreError: It isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise KeyStoreError(
            f"the Python package for such keys isn't installed ({module})",
            hint=f"pip install '.[{extra}]' in a clone of Tabellion",
        ) from error
