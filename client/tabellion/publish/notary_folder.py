"""The folders in which Notary and docker keep private keys.

``<folder>/private/<canonical id>.key`` today; before Notary 0.4 ``private/root_keys/<id>_root.key``
and ``private/tuf_keys/<GUN>/<id>_<role>.key``, where the path tells role and GUN.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from tabellion import atomic_file
from tabellion.core.strict_json import parse
from tabellion.errors import KeyStoreError, TabellionError
from tabellion.publish.notary_pem import MAX_FILE, KeyBlock, canonical_id_of, read_blocks, write_key
from tabellion.transport.credentials import config_folder

_MAX_KEYS: Final = 10_000
_MAX_CONFIG: Final = 64 * 1024
_PLACE: Final = re.compile(
    r"(?:(?:root_keys|tuf_keys)/)?(?:(?P<gun>.+?)/)?(?P<id>[0-9a-f]{64})(?:_(?P<role>.+))?\.key"
)


@dataclass(frozen=True)
class FoundKey:
    """One private key in a file, not yet opened.

    Attributes:
        path: The file.
        block: Its PEM block.
        role: ``root``, ``targets``, ``snapshot``, ``timestamp``, a signer's name, or "".
        gun: The GUN it's for, "" for any.
        canonical_id: The id that the file's name or header claims, "" if neither does.
    """

    path: Path
    block: KeyBlock
    role: str
    gun: str
    canonical_id: str

    def open(self, passphrase: str) -> PrivateKeyTypes:
        """Give the key.

        Raises:
            KeyStoreError: It can't be read, or is another one than claimed.
            PassphraseError: The passphrase doesn't open it.
        """
        private = self.block.open(passphrase, f"the key in {self.path}")
        made = canonical_id_of(private)
        if self.canonical_id not in {"", made}:
            raise KeyStoreError(
                f"{self.path} holds key {made[:12]}, not {self.canonical_id[:12]} as it says",
                hint="restore it from a backup; nothing was imported",
            )
        return private


class NotaryKeyFolder:
    """One trust directory. Its methods block: call them in a thread from async code."""

    def __init__(self, folder: Path) -> None:
        """Take the directory that holds ``private`` and ``tuf``."""
        self.folder = folder

    @property
    def private(self) -> Path:
        """Give the folder of the private keys."""
        return self.folder / "private"

    def keys(self) -> list[FoundKey]:
        """List the keys, sorted by path; an absent folder has none.

        Raises:
            KeyStoreError: Too many, or one can't be read.
        """
        try:
            paths = sorted(self.private.rglob("*.key"))
        except OSError as error:
            raise _unusable(self.private, error) from error
        if len(paths) > _MAX_KEYS:
            raise KeyStoreError(
                f"{self.private} holds {len(paths)} keys", hint=f"import {_MAX_KEYS} at most"
            )
        return [key for path in paths for key in self._read(path)]

    def write(
        self, private: PrivateKeyTypes, passphrase: str, *, role: str, gun: str | None = None
    ) -> Path:
        """Store a key as Notary does, mode 0600, and give its file.

        Raises:
            KeyStoreError: It's there already, or the folder can't be written.
            PassphraseError: The passphrase is empty.
        """
        canonical_id = canonical_id_of(private)
        for path in (self.private / f"{canonical_id}.key", *self._old_places(canonical_id)):
            if path.exists():
                raise KeyStoreError(
                    f"key {canonical_id[:12]} is there already: {path}",
                    hint="move that file away to write it anew",
                )
        data = write_key(private, passphrase, role=role, gun=gun)
        path = self.private / f"{canonical_id}.key"
        try:
            atomic_file.write_atomic(path, data)
        except OSError as error:
            raise _unusable(path, error) from error
        return path

    def _old_places(self, canonical_id: str) -> list[Path]:
        try:
            return sorted(self.private.rglob(f"{canonical_id}_*.key"))
        except OSError as error:
            raise _unusable(self.private, error) from error

    def _read(self, path: Path) -> list[FoundKey]:
        place = _PLACE.fullmatch(path.relative_to(self.private).as_posix())
        named = {} if place is None else place.groupdict(default="")
        return read_key_file(path, **{f"default_{name}": text for name, text in named.items()})


def read_key_file(
    path: Path, *, default_role: str = "", default_gun: str = "", default_id: str = ""
) -> list[FoundKey]:
    """Read the keys of one file, which may be exported by ``notary key export``.

    Args:
        path: The file.
        default_role: The role where no header tells one.
        default_gun: The GUN where no header tells one.
        default_id: The canonical id where no header tells one.

    Raises:
        KeyStoreError: The file can't be read or holds no private key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise KeyStoreError(
            f"{str(path)!r} can't be read: {error.strerror}", hint="give a PEM file"
        ) from error
    return [
        FoundKey(
            path,
            block,
            block.role or default_role,
            block.gun or default_gun,
            block.canonical_id or default_id,
        )
        for block in read_blocks(data, str(path))
    ]


def notary_folder(folder: Path) -> NotaryKeyFolder:
    """Give the keys of a Notary folder, such as ``~/.notary``; its config.json may name another.

    Raises:
        KeyStoreError: The config.json can't be read.
    """
    config = folder / "config.json"
    try:
        with config.open("rb") as file:
            data = file.read(_MAX_CONFIG + 1)
    except (FileNotFoundError, NotADirectoryError):
        return NotaryKeyFolder(folder)
    except OSError as error:
        raise _unusable(config, error) from error
    try:
        named = parse(data, max_bytes=_MAX_CONFIG, what=str(config)).get("trust_dir", "")
        if not isinstance(named, str) or "\0" in named:
            raise ValueError("trust_dir isn't a path")  # noqa: TRY301  # one message
        return NotaryKeyFolder(folder / Path(named).expanduser() if named else folder)
    except (TabellionError, ValueError, RuntimeError) as error:
        raise KeyStoreError(
            f"{config} can't be used: {error}", hint="mend it, or give the trust directory itself"
        ) from error


def docker_folder() -> NotaryKeyFolder:
    """Give the keys of docker's content trust: ``$DOCKER_CONFIG/trust`` or ``~/.docker/trust``."""
    return NotaryKeyFolder(config_folder() / "trust")


def _unusable(path: Path, error: OSError) -> KeyStoreError:
    return KeyStoreError(
        f"{path} can't be used: {error.strerror or error}", hint="check that it's yours"
    )
