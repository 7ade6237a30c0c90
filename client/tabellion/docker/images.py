"""From what the user typed to the digest reference that the engine gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from tabellion.core.names import Digest, Reference, parse_reference
from tabellion.errors import DigestMismatchError, NotSignedError


class Verified(Protocol):
    """What verification gives; ``tabellion.verify.VerifiedImage`` is one."""

    @property
    def digest(self) -> Digest:
        """Give the signed digest."""
        ...


Verify = Callable[[str], Awaitable[Verified]]
TagDigest = Callable[[Reference], Awaitable[Digest]]

_TRANSPORTS = (
    "containers-storage:",
    "dir:",
    "docker-archive:",
    "docker-daemon:",
    "oci:",
    "oci-archive:",
    "ostree:",
    "sif:",
)


@dataclass(frozen=True, slots=True)
class SignedImage:
    """An image that may be used.

    Attributes:
        pinned: ``name@sha256:...``, all that the engine is told.
        tagged: ``name:tag`` to be tagged with it, or None if a digest was asked for.
        reference: What was asked for.
        digest: The signed digest.
    """

    pinned: str
    tagged: str | None
    reference: Reference
    digest: Digest


class Resolver:
    """Verifies each image once, and spells it for the engine."""

    def __init__(self, engine: str, verify: Verify, tag_digest: TagDigest | None = None) -> None:
        self._engine = engine
        self._verify = verify
        self._tag_digest = tag_digest
        self._known: dict[str, SignedImage] = {}

    async def resolve(self, text: str) -> SignedImage:
        """Verify an image.

        Raises:
            TabellionError: It isn't verified; nothing was pulled.
        """
        known = self._known.get(text)
        if known is not None:
            return known
        name = text.removeprefix("docker://")
        if name.startswith(_TRANSPORTS):
            raise NotSignedError(
                f"{text[:150]!r} names a file or a store, not an image of a registry",
                hint="only images of registries are signed; for this one use the engine itself",
            )
        reference = parse_reference(name)
        image = await self._verify(str(reference))
        shown = self._name(reference)
        found = SignedImage(
            pinned=f"{shown}@{image.digest}",
            tagged=f"{shown}:{reference.tag}" if reference.digest is None else None,
            reference=reference,
            digest=image.digest,
        )
        self._known[text] = found
        return found

    async def verify_tag(self, image: SignedImage) -> None:
        """Refuse a tag that the registry gives other bytes now than were signed.

        The signed bytes would be pulled all the same; but whoever asks for a tag should learn
        that somebody moved it.

        Raises:
            DigestMismatchError: The tag was pushed over.
            TransportError: The registry can't be asked.
        """
        if self._tag_digest is None or image.tagged is None:
            return
        found = await self._tag_digest(image.reference)
        if found != image.digest:
            raise DigestMismatchError(
                f"{image.tagged} is {found} in the registry now, but {image.digest} is signed",
                hint=f"have the new image signed, or pull the signed one: {image.pinned}",
            )

    def _name(self, reference: Reference) -> str:
        """Spell the name; podman would look a short one up in any registry of its list."""
        return reference.name if self._engine == "docker" else str(reference.gun)
