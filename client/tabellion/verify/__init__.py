"""Verification: the client workflow with its cache."""

from tabellion.verify.client import Signer, TrustClient, VerifiedImage
from tabellion.verify.sync import SyncTrustClient

__all__ = ["Signer", "SyncTrustClient", "TrustClient", "VerifiedImage"]
