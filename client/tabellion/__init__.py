"""Tabellion: verify what an image reference means before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tabellion.errors import TabellionError

if TYPE_CHECKING:
    from tabellion.verify import Listing, Signer, SyncTrustClient, TrustClient, VerifiedImage

__all__ = ["Listing", "Signer", "SyncTrustClient", "TabellionError", "TrustClient", "VerifiedImage"]


def __getattr__(name: str) -> object:
    """Import the verifier where it's used: the command line starts without it."""
    if name in __all__:
        from tabellion import verify  # noqa: PLC0415  # that is the point

        return getattr(verify, name)
    raise AttributeError(f"module 'tabellion' has no attribute {name!r}")
