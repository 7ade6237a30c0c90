"""Partly signed publications: a file passed from signer to signer until enough have signed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tabellion import atomic_file
from tabellion.core import strict_json
from tabellion.core.names import parse_gun
from tabellion.core.publication import UploadedFile
from tabellion.errors import CacheError, TabellionError, UsageError

_KIND: Final = "tabellion partly signed publication"
_MAX_BYTES: Final = 64_000_000
_HINT: Final = "give the file that tabellion sign wrote when signatures were missing"


@dataclass(frozen=True)
class Partial:
    """Files of a GUN that lack signatures.

    Attributes:
        gun: The GUN.
        files: What is to be signed.
        base: Published files that it's built on, for machines that can't ask the server.
        roots: Published roots, oldest first, for those that trust an older one.
    """

    gun: str
    files: tuple[UploadedFile, ...]
    base: tuple[UploadedFile, ...] = ()
    roots: tuple[bytes, ...] = ()

    @property
    def has_root(self) -> bool:
        """Tell whether there's a root among them."""
        return any(item.role == "root" for item in self.files)


def path_for(
    home: Path, gun: str, versions: Mapping[str, int], content: Sequence[UploadedFile]
) -> Path:
    """Give the place of a partly signed publication in the home folder: its own for each."""
    label = "+".join(f"{role}-{version}" for role, version in sorted(versions.items()))
    digest = hashlib.sha256(b"".join(item.data for item in content)).hexdigest()
    name = f"{quote(label[:100], safe='')}-{digest[:8]}.json"
    return home / "partial" / quote(gun, safe="") / name


def write(
    path: Path,
    gun: str,
    content: Sequence[UploadedFile],
    *,
    base: Sequence[UploadedFile] = (),
    roots: Sequence[bytes] = (),
) -> None:
    """Write the file in one piece.

    Raises:
        CacheError: It can't be written.
        UsageError: It would be larger than what is read.
    """
    document: dict[str, object] = {
        "kind": _KIND,
        "gun": gun,
        "files": {item.role: item.data.decode("utf-8") for item in content},
    }
    if base:
        document["base"] = {item.role: item.data.decode("utf-8") for item in base}
    if roots:
        document["roots"] = [data.decode("utf-8") for data in roots]
    data = json.dumps(document, indent=1).encode()
    if len(data) > _MAX_BYTES:
        raise UsageError(
            f"{path} would have {len(data)} bytes, the limit is {_MAX_BYTES}",
            hint="propose fewer roles at once",
        )
    try:
        atomic_file.write_atomic(path, data)
    except OSError as error:
        raise CacheError(f"{path} can't be written: {error.strerror or error}") from error


def read(path: Path) -> Partial:
    """Read such a file; nothing in it is trusted.

    Raises:
        UsageError: It can't be read, or is something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        document = strict_json.parse(data, max_bytes=_MAX_BYTES, what=str(path))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}", hint=_HINT) from error
    except TabellionError as error:
        raise UsageError(error.message, hint=_HINT) from error
    gun = document.get("gun")
    if document.get("kind") != _KIND or not isinstance(gun, str):
        raise UsageError(f"{path} isn't a partly signed publication", hint=_HINT)
    files = _files(path, document.get("files"))
    base = _files(path, document.get("base", {}))
    roots = document.get("roots", [])
    if not isinstance(roots, list) or not all(isinstance(text, str) for text in roots):
        raise UsageError(f"{path} isn't a partly signed publication", hint=_HINT)
    return Partial(parse_gun(gun), files, base, tuple(text.encode() for text in roots))


def _files(path: Path, content: object) -> tuple[UploadedFile, ...]:
    if not isinstance(content, dict):
        raise UsageError(f"{path} isn't a partly signed publication", hint=_HINT)
    found: list[UploadedFile] = []
    for role, text in content.items():
        if not isinstance(text, str) or role in {"snapshot", "timestamp"}:
            raise UsageError(f"{path} holds an odd file {role[:80]!r}", hint=_HINT)
        found.append(UploadedFile(role, text.encode()))
    return tuple(found)


def remove(path: Path) -> None:
    """Delete the file once it's published; fine if it can't be."""
    try:
        atomic_file.remove(path)
    except OSError:
        return
