"""Fingerprints of keys: how people name a root key to each other."""

from __future__ import annotations

import contextlib
import hashlib
import re

from securesystemslib.signer import Key
from tuf.api.metadata import Root

from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.metadata import TrustedMetadata
from tabellion.core.notary_keys import NotaryKey
from tabellion.core.roles import key_material
from tabellion.core.strict_json import canonical
from tabellion.errors import ConfigurationError

_FINGERPRINT = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")


def parse_fingerprint(text: str) -> str:
    """Give the 64 lower-case hex digits of a key id or fingerprint.

    Raises:
        ConfigurationError: It can't be one.
    """
    match = _FINGERPRINT.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(
            f"{text[:80]!r} isn't a root key fingerprint",
            hint="it has 64 hex digits: as tabellion init prints it, the keyid or canonical_id of "
            "tabellion key list --json, or the Root Key of docker trust inspect",
        )
    return match[1].lower()


def fingerprints(key: Key) -> set[str]:
    """Give the spellings of a key's fingerprint, all computed from the key itself.

    They are its TUF key id (4.2.2), the SHA-256 of its material, with and without its kind, and the
    id of the bare key as Notary's tools list it: these stay the same in both dialects.

    Raises:
        MalformedMetadataError: The public part can't be read.
    """
    material = key_material(key)
    if isinstance(key, NotaryKey):
        found = {hashlib.sha256(material).hexdigest(), key.computed_id, key.canonical_id}
        with contextlib.suppress(ValueError):  # a curve that no TUF key has
            found.add(TUF.adopt_key(key).keyid)
        return found
    spelled = (material, material.removeprefix(b"ed25519:"), canonical(key.to_dict()))
    return {hashlib.sha256(part).hexdigest() for part in spelled} | {NOTARY.adopt_key(key).keyid}


def signer_fingerprints(root: TrustedMetadata[Root]) -> list[set[str]]:
    """Give the fingerprints of each key that signed a root, never the id that the file gives it.

    Whoever writes the file chooses the ids; each item is of a distinct key.
    """
    return [fingerprints(root.signed.keys[keyid]) for keyid in root.signed_by]


def is_signed_by(root: TrustedMetadata[Root], fingerprint: str) -> bool:
    """Tell whether the key of a fingerprint, as ``parse_fingerprint`` gives it, signed a root."""
    return any(fingerprint in names for names in signer_fingerprints(root))


def root_key_fingerprints(root: Root) -> list[str]:
    """Give the SHA-256 of each root key's material, as ``tabellion init`` prints it."""
    keys = [root.keys[keyid] for keyid in root.roles["root"].keyids]
    return [hashlib.sha256(key_material(key)).hexdigest() for key in keys]
