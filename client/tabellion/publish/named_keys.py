"""Keys as people name them for a role: one that is here, or another holder's public key in a file.

``KEY`` is a name or id in the key store, or a file; ``KEY=HOLDER`` says whose it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from securesystemslib.signer import Key

from tabellion.core.dialect import NOTARY, Dialect
from tabellion.core.holders import check_holder
from tabellion.core.notary_keys import NotaryKey
from tabellion.errors import KeyStoreError, MalformedMetadataError
from tabellion.publish.certificates import root_certificate
from tabellion.publish.key_notes import KeyInfo
from tabellion.publish.keystore import KeyStore
from tabellion.publish.public_keys import load_public_key
from tabellion.publish.signing import KeyRing

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE"
_MAX_BYTES: Final = 100_000


@dataclass(frozen=True)
class NamedKey:
    """A key for a role.

    Attributes:
        key: Its public part.
        info: What is known of it here; None if it's another holder's.
        holder: Its holder's name, may be empty.
    """

    key: Key
    info: KeyInfo | None = None
    holder: str = ""

    @classmethod
    def read(cls, text: str, store: KeyStore) -> NamedKey:
        """Find a key that was named; it blocks.

        Raises:
            KeyStoreError: There's neither such a key nor such a file, or it isn't a public key.
            InvalidNameError: The holder's name isn't fit.
        """
        name, mark, holder = text.partition("=")
        if mark:
            check_holder(holder)
        path = Path(name)
        if path.is_file():
            return cls(_read(path), None, holder)
        try:
            info = store.find(name)
        except KeyStoreError as error:
            raise KeyStoreError(
                f"{error.message}, and no file of that name",
                hint="give a key of: tabellion key list, or another holder's public key file",
            ) from error
        return cls(info.key, info, holder)

    def listed(self, role: str, dialect: Dialect, ring: KeyRing, gun: str, *, now: datetime) -> Key:
        """Give the key as metadata will list it: of a Notary root, as a certificate. It blocks.

        Raises:
            KeyStoreError: A Notary root key of somebody else that isn't a certificate.
            PassphraseError: To certify a key here, its passphrase is missing or wrong.
        """
        if dialect is not NOTARY or role != "root":
            return dialect.adopt_key(self.key)
        if self.info is not None:
            return root_certificate(ring.private(self.info), gun, now=now)
        if isinstance(self.key, NotaryKey) and self.key.is_certificate:
            return self.key
        raise KeyStoreError(
            "a Notary root lists its keys as certificates, and this is a bare key",
            hint=f"its holder makes one: tabellion root certificate {gun} KEY",
        )


def list_keys(
    named: Mapping[str, Sequence[NamedKey]],
    dialect: Dialect,
    ring: KeyRing,
    gun: str,
    *,
    now: datetime,
) -> tuple[dict[str, list[Key]], dict[str, str]]:
    """Give each role's keys as metadata will list them, and key id to holder. It blocks.

    Raises:
        KeyStoreError: A Notary root key of somebody else that isn't a certificate.
        PassphraseError: To certify a key here, its passphrase is missing or wrong.
    """
    listed: dict[str, list[Key]] = {}
    holders: dict[str, str] = {}
    for role, items in named.items():
        listed[role] = [item.listed(role, dialect, ring, gun, now=now) for item in items]
        for item, key in zip(items, listed[role], strict=True):
            if item.holder:
                holders[key.keyid] = item.holder
    return listed, holders


def _read(path: Path) -> Key:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise KeyStoreError(f"key file {str(path)!r} can't be read: {error.strerror}") from error
    if data.lstrip().startswith(_CERTIFICATE):
        try:
            return NotaryKey.of_certificates(data)
        except MalformedMetadataError as error:
            raise KeyStoreError(f"key file {str(path)!r}: {error.message}") from error
    return load_public_key(data, what=f"key file {path}")
