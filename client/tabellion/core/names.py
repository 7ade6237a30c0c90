"""GUNs, digests and image references: parsed once, then typed.

The reference grammar is docker's: the first path part is a host if it holds a dot or a colon or
is ``localhost``; else the host is ``docker.io`` and a lone name lies under ``library/``.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Final, NewType

from tabellion.errors import InvalidNameError

Gun = NewType("Gun", str)

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_HEX_LENGTHS: Final = {"sha256": 64, "sha512": 128}
_MAX_GUN: Final = 255
_MAX_REPOSITORY: Final = 255

_HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# Reserved by the URL space /v2/<gun>/_trust/...; a GUN holding one would be ambiguous there.
_RESERVED_PARTS: Final = frozenset({"_trust", ".", ".."})


def parse_gun(text: str) -> Gun:
    r"""Parse the name of a collection, such as ``docker.io/library/alpine``.

    Raises:
        InvalidNameError: Empty, over 255 characters, not NFC, with a control character, space,
            ``*``, ``?``, ``#``, ``%``, ``\\``, an empty part, ``.``, ``..`` or ``_trust``.
    """
    shown = text[:80]
    if not text or len(text) > _MAX_GUN:
        raise InvalidNameError(
            f"GUN {shown!r} has {len(text)} characters", hint="give 1 to 255 characters"
        )
    if unicodedata.normalize("NFC", text) != text or not text.isprintable():
        raise InvalidNameError(
            f"GUN {shown!r} has control characters or isn't in NFC", hint="use plain characters"
        )
    if any(char in " *?#%\\" for char in text):
        raise InvalidNameError(
            f"GUN {shown!r} holds a space or one of * ? # % \\",
            hint="a GUN looks like registry.example/team/app",
        )
    parts = text.split("/")
    if "" in parts or _RESERVED_PARTS.intersection(parts):
        raise InvalidNameError(
            f"GUN {shown!r} has an empty part, '.', '..' or '_trust'",
            hint="a GUN looks like registry.example/team/app",
        )
    return Gun(text)


@dataclass(frozen=True, slots=True)
class Digest:
    """A content address: algorithm and lower-case hex, printed ``sha256:...``."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse ``sha256:<64 hex>`` or ``sha512:<128 hex>``.

        Raises:
            InvalidNameError: Any other form; upper-case hex too.
        """
        algorithm, _, hexadecimal = text.partition(":")
        length = _HEX_LENGTHS.get(algorithm)
        if length is None or not re.fullmatch(f"[0-9a-f]{{{length}}}", hexadecimal):
            raise InvalidNameError(
                f"{text[:150]!r} isn't a digest",
                hint="a digest is sha256: and 64 lower-case hex digits",
            )
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """Hash ``data``."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())


@dataclass(frozen=True, slots=True)
class Reference:
    """What the user typed, normalized as docker does.

    Attributes:
        registry: Host with optional port, ``docker.io`` by default.
        repository: Path in the registry, with ``library/`` where docker adds it.
        tag: The tag, or None if only a digest was given.
        digest: The digest, or None.
    """

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None

    @property
    def gun(self) -> Gun:
        """Give the collection this image belongs to: registry and repository."""
        return Gun(f"{self.registry}/{self.repository}")

    @property
    def name(self) -> str:
        """Give the name as docker shows it, without tag and digest."""
        whole = f"{self.registry}/{self.repository}"
        if self.registry != DEFAULT_REGISTRY:
            return whole
        # Short only where that means the same: docker.io/evil.io/x isn't evil.io/x.
        shorter = (self.repository.removeprefix("library/"), self.repository)
        return next((name for name in shorter if _place(name) == _place(whole)), whole)

    def with_digest(self, digest: Digest) -> str:
        """Give ``name@sha256:...``, which only ever means those bytes."""
        return f"{self.name}@{digest}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"


def parse_reference(text: str) -> Reference:
    """Parse an image reference such as ``alpine``, ``reg:5000/app:1.2`` or ``app@sha256:...``.

    Raises:
        InvalidNameError: Not a reference; says which part is wrong.
    """
    hint = "an image reference looks like registry.example/team/app:1.2"
    shown = text[:150]
    remainder, at, digest_text = text.partition("@")
    digest = Digest.parse(digest_text) if at else None
    head, slash, last = remainder.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise InvalidNameError(f"image reference {shown!r} has an invalid tag {tag!r}", hint=hint)
    registry, repository = _place(f"{head}{slash}{last}")
    if not _HOST.fullmatch(registry):
        raise InvalidNameError(f"image reference {shown!r} has an invalid registry host", hint=hint)
    if len(repository) > _MAX_REPOSITORY or not _REPOSITORY.fullmatch(repository):
        raise InvalidNameError(
            f"image reference {shown!r} has an invalid repository {repository[:80]!r}", hint=hint
        )
    if not colon and digest is None:
        tag = DEFAULT_TAG
    return Reference(registry, repository, tag or None, digest)


def _place(path: str) -> tuple[str, str]:
    """Split a name into registry and repository as docker does."""
    first, slash, rest = path.partition("/")
    if slash and (
        first == "localhost" or any(char in ".:[" for char in first) or first != first.lower()
    ):
        registry, repository = first, rest
    else:
        registry, repository = DEFAULT_REGISTRY, path
    if registry in {"index.docker.io", "registry-1.docker.io"}:
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and repository and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository
