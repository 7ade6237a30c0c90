"""Backup of a key store into one bundle, and its restore: nothing that is there is overwritten."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from tabellion import atomic_file
from tabellion.errors import KeyStoreError
from tabellion.publish.key_bundle import MAX_BYTES, BundledKey, open_bundle, seal
from tabellion.publish.key_notes import KeyInfo, read_note
from tabellion.publish.keystore import KeyStore

_KEYID = re.compile(r"[0-9a-f]{64}")
_ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
_MAX_PEM: Final = 64 * 1024
Outcome = Literal["restored", "here", "differs"]


@dataclass(frozen=True)
class Restored:
    """What became of one key of a bundle.

    Attributes:
        info: The key.
        outcome: ``restored`` (in a dry run: would be), ``here`` with the same content, or
            ``differs``: another passphrase or note is here, which stays.
        shares_name: Another key here has its name.
    """

    info: KeyInfo
    outcome: Outcome
    shares_name: bool


def back_up(
    store: KeyStore, keys: Sequence[KeyInfo], file: Path, passphrase: str, *, log2_n: int = 17
) -> None:
    """Write keys into a new file with mode 0600; of those elsewhere, where they are. Blocks.

    Raises:
        KeyStoreError: There's such a file already, or a key can't be read.
        PassphraseError: The passphrase is empty.
    """
    if not keys:
        raise KeyStoreError(f"no keys in {store.folder}")
    bundle = seal({info.keyid: _read(store, info) for info in keys}, passphrase, log2_n=log2_n)
    try:
        _write_new(file, bundle)
    except FileExistsError as error:
        raise KeyStoreError(
            f"{file} is there already", hint="a backup overwrites nothing: give another name"
        ) from error
    except OSError as error:
        raise KeyStoreError(
            f"{file} can't be written: {str(error.strerror or error).lower()}",
            hint="check folder and free space",
        ) from error


def restore(
    store: KeyStore, file: Path, passphrase: str, *, is_dry_run: bool = False
) -> list[Restored]:
    """Put a bundle's keys into the store, each whole or not at all. Blocks.

    All of the bundle is judged before anything is written.

    Raises:
        KeyStoreError: It isn't a bundle, holds what is no key, or the store can't be written.
        PassphraseError: The passphrase doesn't open it.
    """
    bundled = open_bundle(read_bundle(file), passphrase)
    names = {info.name: info.keyid for info in store.list() if info.name}
    found: list[Restored] = []
    try:
        with tempfile.TemporaryDirectory(prefix="tabellion-") as scratch:  # mode 0700
            infos = [_judged(Path(scratch), keyid, key) for keyid, key in bundled.items()]
        for judged in infos:
            info = replace(judged, path=store.folder / judged.path.name)
            key = bundled[info.keyid]
            outcome = _compared(info.path, key)
            if outcome == "restored" and not is_dry_run:
                _put(info.path, key)
            shares = names.get(info.name, info.keyid) != info.keyid
            found.append(Restored(info, outcome, shares))
    except OSError as error:
        raise KeyStoreError(
            f"{store.folder} can't be written: {str(error.strerror or error).lower()}",
            hint="nothing there was changed; restore again when it can",
        ) from error
    return found


def read_bundle(file: Path) -> bytes:
    """Read a bundle's bytes.

    Raises:
        KeyStoreError: It can't be read, or is too large to be one.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeyStoreError(
            f"{file} can't be read: {str(error.strerror or error).lower()}", hint="check its name"
        ) from error
    return data


def _read(store: KeyStore, info: KeyInfo) -> BundledKey:
    try:
        note = info.path.with_suffix(".json").read_bytes()
        note.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyStoreError(f"the note beside {info.path} can't be read") from error
    pem = store.export(info.keyid, "private") if info.uri is None else None
    return BundledKey(note, pem)


def _judged(scratch: Path, keyid: str, key: BundledKey) -> KeyInfo:
    """Read a key's note as the store does; a private part must be encrypted."""
    is_encrypted = key.pem is None or (
        key.pem.startswith(_ENCRYPTED) and key.pem.count(b"-----BEGIN") == 1
    )
    if not _KEYID.fullmatch(keyid) or not is_encrypted or len(key.pem or b"") > _MAX_PEM:
        raise KeyStoreError(f"the backup holds {keyid[:64]!r}, which is no encrypted key")
    note = scratch / f"{keyid}.json"
    note.write_bytes(key.note)
    return read_note(note)


def _compared(path: Path, key: BundledKey) -> Outcome:
    """Compare with what is here: a note without its key counts as nothing."""
    note = path.with_suffix(".json")
    held = path if key.pem is not None else note
    if not held.exists():
        return "restored"
    is_same = note.exists() and note.read_bytes() == key.note
    if key.pem is not None:
        is_same = is_same and path.read_bytes() == key.pem
    return "here" if is_same else "differs"


def _put(path: Path, key: BundledKey) -> None:
    """Write the note first: alone it's ignored, while a key without one would be lost."""
    atomic_file.write_atomic(path.with_suffix(".json"), key.note)
    if key.pem is not None:
        atomic_file.write_atomic(path, key.pem)


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that mustn't be there, perhaps on a stick that knows neither links nor modes."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
