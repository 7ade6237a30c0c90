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
_MAX_BYTES: Final = 20_000_000


@dataclass(frozen=True)
class Partial:
    """Files of a GUN that lack signatures."""

    gun: str
    files: tuple[UploadedFile, ...]

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


def write(path: Path, gun: str, content: Sequence[UploadedFile]) -> None:
    """Write the file in one piece.

    Raises:
        CacheError: It can't be written.
    """
    document = {
        "kind": _KIND,
        "gun": gun,
        "files": {item.role: item.data.decode("utf-8") for item in content},
    }
    try:
        atomic_file.write_atomic(path, json.dumps(document, indent=1).encode())
    except OSError as error:
        raise CacheError(f"{path} can't be written: {error.strerror or error}") from error


def read(path: Path) -> Partial:
    """Read such a file; nothing in it is trusted.

    Raises:
        UsageError: It can't be read, or is something else.
    """
    hint = "give the file that tabellion sign wrote when signatures were missing"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        document = strict_json.parse(data, max_bytes=_MAX_BYTES, what=str(path))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}", hint=hint) from error
    except TabellionError as error:
        raise UsageError(error.message, hint=hint) from error
    content, gun = document.get("files"), document.get("gun")
    if document.get("kind") != _KIND or not isinstance(content, dict) or not isinstance(gun, str):
        raise UsageError(f"{path} isn't a partly signed publication", hint=hint)
    found: list[UploadedFile] = []
    for role, text in content.items():
        if not isinstance(text, str) or role in {"snapshot", "timestamp"}:
            raise UsageError(f"{path} holds an odd file {role[:80]!r}", hint=hint)
        found.append(UploadedFile(role, text.encode()))
    return Partial(parse_gun(gun), tuple(found))


def remove(path: Path) -> None:
    """Delete the file once it's published; fine if it can't be."""
    try:
        atomic_file.remove(path)
    except OSError:
        return
