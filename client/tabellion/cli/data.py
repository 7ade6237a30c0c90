"""Plain data on disk: its digest and length."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tabellion.core.names import Digest
from tabellion.errors import DigestMismatchError, UsageError


def digest_of_file(path: Path, algorithm: str) -> tuple[Digest, int]:
    """Hash a file of any size.

    Raises:
        UsageError: It can't be read.
    """
    try:
        with path.open("rb") as file:
            hexadecimal = hashlib.file_digest(file, algorithm).hexdigest()
            return Digest(algorithm, hexadecimal), file.tell()
    except OSError as error:
        raise UsageError(
            f"file {str(path)!r} can't be read: {str(error.strerror).lower()}", hint="check --file"
        ) from None


def check_file(path: Path, digest: Digest, length: int | None, what: str) -> None:
    """Refuse a file that isn't what was signed.

    Raises:
        DigestMismatchError: It has another digest or length.
        UsageError: It can't be read.
    """
    found, size = digest_of_file(path, digest.algorithm)
    if (found, size) != (digest, length):
        raise DigestMismatchError(
            f"{str(path)!r} isn't what is signed as {what}: it is {found} of {size} bytes, "
            f"signed is {digest} of {length}",
            hint="fetch it anew; don't use it",
        )
