"""OCI registries: fetch a manifest and hash it here."""

from tabellion.registry.client import RegistryClient
from tabellion.registry.manifest import Manifest, PlatformManifest

__all__ = ["Manifest", "PlatformManifest", "RegistryClient"]
