"""Two types that carry the state of trust: unverified and trusted metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Generic, TypeVar

from securesystemslib.signer import Signature
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets, Timestamp

S_co = TypeVar("S_co", bound=Signed, covariant=True)

PAYLOAD_TYPES: Mapping[str, type[Signed]] = {
    "root": Root,
    "timestamp": Timestamp,
    "snapshot": Snapshot,
    "targets": Targets,
}


def payload_type(role: str) -> type[Signed]:
    """Give the payload class of a role; every name that isn't top-level is a targets role."""
    return PAYLOAD_TYPES.get(role, Targets)


class UnversionedMeta(MetaFile):
    """What Notary's snapshot and timestamp say of a file: length and hashes, no version.

    Rollback shows only in the file itself then; ``version`` means nothing.
    """

    def __init__(self, length: int, hashes: dict[str, str]) -> None:
        super().__init__(1, length, hashes)


@dataclass(frozen=True)
class UnverifiedMetadata(Generic[S_co]):
    """Well-formed metadata whose signatures nobody has judged yet.

    Attributes:
        role: Role the file was asked or offered as.
        data: The bytes as received.
        signed: Parsed payload.
        signatures: Key id to signature.
        signed_bytes: What the signatures cover.
    """

    role: str
    data: bytes
    signed: S_co
    signatures: Mapping[str, Signature]
    signed_bytes: bytes

    @cached_property
    def sha256(self) -> str:
        """Give the hex SHA-256 of the bytes as received."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def version(self) -> int:
        """Give the version the file claims."""
        return self.signed.version


@dataclass(frozen=True)
class TrustedMetadata(Generic[S_co]):
    """Metadata signed by a threshold of the keys that its delegator names.

    Attributes:
        role: Its role.
        data: The bytes as received.
        signed: Parsed payload.
        signed_by: Key ids whose signatures count, each for distinct key material.
    """

    role: str
    data: bytes
    signed: S_co
    signed_by: tuple[str, ...]

    @property
    def version(self) -> int:
        """Give its version, 1 or more."""
        return self.signed.version

    @property
    def expires_at(self) -> datetime:
        """Give the moment from which it's expired, UTC."""
        return self.signed.expires.replace(tzinfo=UTC)
