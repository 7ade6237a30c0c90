"""The seam between the trust rules and how a GUN writes its files.

A GUN speaks one dialect, told by its first root. Rules above this module take payloads and
bytes from a ``Dialect`` and don't know which one it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from securesystemslib.signer import Signer
from tuf.api.metadata import Signed

from tabellion.core import strict_json
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.tuf_dialect import TufDialect
from tabellion.errors import ConfigurationError, MalformedMetadataError


class Dialect(Protocol):
    """How metadata is read, written, signed and named."""

    @property
    def name(self) -> str:
        """Give ``tuf`` or ``notary``."""

    def parse(self, role: str, data: bytes, *, max_bytes: int) -> UnverifiedMetadata[Signed]:
        """Read a role's file; raises MalformedMetadataError or MetadataTooLargeError."""

    def sign(self, signed: Signed, signers: Sequence[Signer]) -> bytes:
        """Write a file signed by all ``signers``."""

    def add_signature(self, data: bytes, signers: Sequence[Signer]) -> bytes:
        """Add signatures to a file whose payload stays as it is."""

    def file_name(self, role: str, version: int | None) -> str:
        """Give the file's name under the metadata URL; no version means the current one."""


TUF: Dialect = TufDialect()


def dialect_named(name: str) -> Dialect:
    """Give the dialect of that name.

    Raises:
        ConfigurationError: There's no such dialect.
    """
    if name == TUF.name:
        return TUF
    raise ConfigurationError(f"there is no dialect {name[:40]!r}", hint="known: tuf")


def dialect_of(root_data: bytes) -> Dialect:
    """Tell a GUN's dialect by its root.

    Raises:
        MalformedMetadataError: Neither dialect's root.
        MetadataTooLargeError: Above the limit of a root.
    """
    content = strict_json.parse(root_data, max_bytes=Limits().root_bytes, what="root")
    signed = content.get("signed")
    if isinstance(signed, dict) and isinstance(signed.get("spec_version"), str):
        return TUF
    raise MalformedMetadataError(
        "root has no spec_version: it isn't TUF 1.0 metadata",
        hint="this release reads TUF 1.0 roots only",
    )
