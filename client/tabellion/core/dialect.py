"""The seam between the trust rules and how a GUN writes its files.

A GUN speaks one dialect, told by its first root. Rules above this module take payloads and
bytes from a ``Dialect`` and don't know which one it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.signer import Key, Signature, Signer
from tuf.api.metadata import DelegatedRole, MetaFile, Root, Signed

from tabellion.core import strict_json
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.notary_dialect import NotaryDialect
from tabellion.core.tuf_dialect import TufDialect
from tabellion.errors import ConfigurationError, MalformedMetadataError


class Dialect(Protocol):
    """How metadata is read, written, signed and named."""

    @property
    def name(self) -> str:
        """Give ``tuf`` or ``notary``."""

    @property
    def lists_root(self) -> bool:
        """Tell whether a snapshot names the root, too."""

    def parse(self, role: str, data: bytes, *, max_bytes: int) -> UnverifiedMetadata[Signed]:
        """Read a role's file; raises MalformedMetadataError or MetadataTooLargeError."""

    def sign(self, signed: Signed, signers: Sequence[Signer]) -> bytes:
        """Write a file signed by all ``signers``."""

    def add_signature(self, data: bytes, signers: Sequence[Signer]) -> bytes:
        """Add signatures to a file whose payload stays as it is."""

    def with_signatures(self, data: bytes, signatures: Iterable[Signature]) -> bytes:
        """Add signatures that others made; one of the same key id is replaced."""

    def file_name(self, role: str, version: int | None) -> str:
        """Give the file's name under the metadata URL; no version means the current one."""

    def named_file(self, role: str, meta: MetaFile, *, root: Root) -> str:
        """Give the name of the very file that a snapshot or timestamp names."""

    def meta(self, version: int, data: bytes) -> MetaFile:
        """Give what a snapshot or timestamp says of a file."""

    def parse_key(self, keyid: str, fields: Mapping[str, Any]) -> Key:
        """Read a key object; raises MalformedMetadataError."""

    def adopt_key(self, key: Key) -> Key:
        """Give a key of any dialect as this one lists it, under the id it has here."""

    def delegated_role(
        self,
        name: str,
        keyids: Sequence[str],
        threshold: int,
        *,
        paths: Sequence[str],
        terminating: bool = False,
    ) -> DelegatedRole:
        """Make a delegation."""

    def signer(self, private: PrivateKeyTypes, key: Key) -> Signer:
        """Give what signs with a private key as ``key``; raises MalformedMetadataError."""

    def verify_root_signers(
        self, root: Root, signed_by: Sequence[str], *, gun: str | None, now: datetime | None
    ) -> None:
        """Ask of a root's valid signatures what the dialect asks beside their number.

        Args:
            root: The root whose keys signed.
            signed_by: Ids of the keys whose signatures hold.
            gun: The collection.
            now: Judges certificates; None for a root that only leads to a newer one.

        Raises:
            VerificationError: They don't do.
        """


TUF: Final[Dialect] = TufDialect()
NOTARY: Final[Dialect] = NotaryDialect()
DIALECTS: Final = (TUF, NOTARY)


def dialect_named(name: str) -> Dialect:
    """Give the dialect of that name.

    Raises:
        ConfigurationError: There's no such dialect.
    """
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    known = ", ".join(dialect.name for dialect in DIALECTS)
    raise ConfigurationError(f"there is no dialect {name[:40]!r}", hint=f"known: {known}")


def dialect_of(root_data: bytes) -> Dialect:
    """Tell a GUN's dialect by its root.

    Raises:
        MalformedMetadataError: Neither dialect's root.
        MetadataTooLargeError: Above the limit of a root.
    """
    content = strict_json.parse(root_data, max_bytes=Limits().root_bytes, what="root")
    signed = content.get("signed")
    if isinstance(signed, dict):
        if isinstance(signed.get("spec_version"), str):
            return TUF
        if "spec_version" not in signed and signed.get("_type") == "Root":
            return NOTARY
    raise MalformedMetadataError(
        "root is neither TUF 1.0 metadata, which has a spec_version, nor Notary's",
        hint="check that it's a root.json of a trust server",
    )
