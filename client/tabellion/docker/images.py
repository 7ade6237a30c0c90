"""From what the user typed to the digest reference that the engine gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from tabellion.core.names import Digest, Reference, parse_reference
from tabellion.errors import DigestMismatchError, NotSignedError, TransportError


class Verified(Protocol):
    """What verification gives; ``tabellion.verify.VerifiedImage`` is one."""

    @property
    def digest(self) -> Digest:
        """Give the signed digest."""
        ...


Verify = Callable[[str], Awaitable[Verified]]
TagDigest = Callable[[Reference], Awaitable[Digest]]
SpeaksHttp = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Sources:
    """Who is asked about an image.

    Attributes:
        verify: Verifies a reference; gives its signed digest or raises.
        tag_digest: Gives what the registry's tag points to now: a tag that was pushed over is
            refused before anything is pulled. Without it the signed digest is pulled all the same.
        speaks_http: Tells whether a registry is one that may be, and must be, spoken to by http.
    """

    verify: Verify
    tag_digest: TagDigest | None = None
    speaks_http: SpeaksHttp | None = None


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

    def __init__(self, engine: str, sources: Sources) -> None:
        self._engine = engine
        self._sources = sources
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
        image = await self._sources.verify(str(reference))
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
        if self._sources.tag_digest is None or image.tagged is None:
            return
        found = await self._sources.tag_digest(image.reference)
        if found != image.digest:
            raise DigestMismatchError(
                f"{image.tagged} is {found} in the registry now, but {image.digest} is signed",
                hint=f"have the new image signed, or pull the signed one: {image.pinned}",
            )

    async def access_flags(self, *images: SignedImage) -> list[str]:
        """Give what podman must be told to fetch these images (without: all so far) by http.

        docker and nerdctl know by themselves that loopback may speak http. podman's flag counts
        for all images of its command, so one registry with https keeps it away.
        """
        speaks_http = self._sources.speaks_http
        if self._engine != "podman" or speaks_http is None:
            return []
        registries = {image.reference.registry for image in images or self._known.values()}
        try:
            is_http = [await speaks_http(registry) for registry in sorted(registries)]
        except TransportError:  # nobody there: podman may have the image already
            return []
        return ["--tls-verify=false"] if is_http and all(is_http) else []

    def _name(self, reference: Reference) -> str:
        """Spell the name; podman would look a short one up in any registry of its list."""
        return reference.name if self._engine == "docker" else str(reference.gun)
