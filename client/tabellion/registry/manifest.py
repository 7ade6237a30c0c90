"""What a registry says an image is: a manifest, hashed here and read with care."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from tabellion.core import strict_json
from tabellion.core.names import Digest
from tabellion.errors import DigestMismatchError, InvalidNameError, RegistryError, VerificationError

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
IMAGE_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_PLATFORM_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class PlatformManifest:
    """One platform's manifest in an index.

    Attributes:
        platform: ``os/architecture[/variant]``, such as ``linux/arm64/v8``.
        length: Length of the platform's manifest, in bytes.
    """

    digest: Digest
    platform: str
    length: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as received.

    Attributes:
        digest: Computed here over ``data``, whatever the registry said.
        length: Length of ``data``.
        platforms: The platforms of an index; empty for a single image.
    """

    digest: Digest
    length: int
    media_type: str
    data: bytes
    platforms: tuple[PlatformManifest, ...] = ()


def read_manifest(
    data: bytes, *, content_type: str, claimed: str | None, wanted: Digest | None, what: str
) -> Manifest:
    """Read and hash a manifest.

    Args:
        data: Unverified bytes.
        content_type: Media type of the answer.
        claimed: The ``Docker-Content-Digest`` header, or None.
        wanted: Digest that was asked for, or None if a tag was.
        what: The image, for error texts.

    Raises:
        DigestMismatchError: The bytes aren't those of ``wanted`` or ``claimed``.
        RegistryError: Not a manifest of a known kind, or one that can be read in two ways.
    """
    if wanted is not None and Digest.of(data, wanted.algorithm) != wanted:
        raise DigestMismatchError(
            f"the registry answered {what} with bytes whose digest is"
            f" {Digest.of(data, wanted.algorithm)}",
            hint="the registry or something on the way altered the manifest; do not use it",
        )
    if claimed is not None:
        _check_claim(data, claimed, what)
    try:
        members = strict_json.parse(data, max_bytes=MAX_MANIFEST_BYTES, what=f"manifest of {what}")
    except VerificationError as error:
        raise RegistryError(error.message, hint="push the image again") from error
    return Manifest(
        digest=wanted or Digest.of(data),
        length=len(data),
        media_type=_media_type(members, content_type, what),
        data=data,
        platforms=_platforms(members, what),
    )


def _check_claim(data: bytes, claimed: str, what: str) -> None:
    try:
        digest = Digest.parse(claimed)
    except InvalidNameError as error:
        raise RegistryError(
            f"the registry sent no valid digest with {what}: {claimed[:100]!r}",
            hint="ask the registry's operator",
        ) from error
    if Digest.of(data, digest.algorithm) != digest:
        raise DigestMismatchError(
            f"the registry claims {digest} for {what}, its bytes have another digest",
            hint="something on the way altered the manifest; do not use it",
        )


def _media_type(members: dict[str, Any], content_type: str, what: str) -> str:
    """Settle the kind; refuse a document that two readers may take for two (CVE-2021-41190)."""
    is_index = "manifests" in members
    if is_index and ("layers" in members or "config" in members):
        raise RegistryError(
            f"manifest of {what} is an image and an index at once",
            hint="push the image again with a current tool",
        )
    inner = members.get("mediaType")
    header = content_type.partition(";")[0].strip().lower()
    kinds = INDEX_TYPES if is_index else IMAGE_TYPES
    if inner is not None and header in IMAGE_TYPES + INDEX_TYPES and inner != header:
        raise RegistryError(
            f"manifest of {what} calls itself {inner!r:.100}, the registry says {header!r}",
            hint="ask the registry's operator",
        )
    media_type = inner if inner is not None else header
    if media_type not in kinds:
        raise RegistryError(
            f"manifest of {what} has the media type {media_type!r:.100}, which can't be signed",
            hint="push the image again as an OCI or a docker version 2 image",
        )
    return str(media_type)


def _platforms(members: dict[str, Any], what: str) -> tuple[PlatformManifest, ...]:
    if "manifests" not in members:
        return ()
    entries = members["manifests"]
    if not isinstance(entries, list):
        raise RegistryError(f"index of {what} has no list of manifests")
    return tuple(_entry(entry, what) for entry in entries)


def _entry(entry: object, what: str) -> PlatformManifest:
    if isinstance(entry, dict):
        platform = entry.get("platform", {})
        size, digest = entry.get("size"), entry.get("digest")
        if (
            isinstance(platform, dict)
            and isinstance(digest, str)
            and isinstance(size, int)
            and size >= 0
        ):
            parts = [
                platform.get("os", "unknown"),
                platform.get("architecture", "unknown"),
                platform.get("variant", ""),
            ]
            if all(isinstance(part, str) for part in parts):
                used = [part for part in parts if part]
                try:
                    parsed = Digest.parse(digest)
                except InvalidNameError as error:
                    raise RegistryError(f"index of {what}: {error.message}") from error
                if all(_PLATFORM_PART.fullmatch(part) for part in used):
                    return PlatformManifest(parsed, "/".join(used), size)
    raise RegistryError(
        f"index of {what} has an entry without digest, size or a valid platform",
        hint="push the image again with a current tool",
    )
