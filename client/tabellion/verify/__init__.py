"""Verification: the client workflow with its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tabellion.verify.client import Listing, TrustClient
    from tabellion.verify.image import Signer, VerifiedImage
    from tabellion.verify.pins import load_notary_pinning
    from tabellion.verify.sync import SyncTrustClient

__all__ = [
    "Listing",
    "Signer",
    "SyncTrustClient",
    "TrustClient",
    "VerifiedImage",
    "load_notary_pinning",
]

_HOMES = {
    "Listing": "client",
    "Signer": "image",
    "SyncTrustClient": "sync",
    "TrustClient": "client",
    "VerifiedImage": "image",
    "load_notary_pinning": "pins",
}


def __getattr__(name: str) -> object:
    """Import a name's module at its first use."""
    if name in _HOMES:
        from importlib import import_module  # noqa: PLC0415  # only here

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
