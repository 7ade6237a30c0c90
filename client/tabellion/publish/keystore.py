"""Signing keys on disk: encrypted PKCS#8 files with mode 0600, a readable note beside each.

``<home>/keys/<keyid>.pem`` holds the private key, ``<keyid>.json`` what anybody may know of it. Of
a key that lives elsewhere there's the note alone, with its signer URI.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.signer import CryptoSigner, SSlibKey

from tabellion import atomic_file
from tabellion.core.roles import key_material
from tabellion.errors import KeyStoreError
from tabellion.publish.key_notes import KEY_ROLES, KeyInfo, note_of, read_note
from tabellion.publish.key_uses import KeyUses
from tabellion.publish.private_keys import (
    KeyType,
    encrypted_pem,
    make_private_key,
    open_private_key,
    public_of,
)
from tabellion.publish.public_keys import check_fit, public_pem

_MAX_PEM: Final = 64 * 1024
_KEYID = re.compile(r"[0-9a-f]{64}")
_MIN_PREFIX: Final = 4
_OTHERS: Final = 0o077


class KeyStore:
    """The keys of one home folder. Its methods block: call them in a thread from async code."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "keys"

    def generate(
        self,
        role: str,
        *,
        passphrase: str,
        keytype: KeyType = "ed25519",
        gun: str | None = None,
        name: str = "",
    ) -> KeyInfo:
        """Make a key (RSA: 3072 bits, ECDSA: P-256) and store it encrypted.

        Raises:
            KeyStoreError: The folder can't be written, the name is taken, or no such key type.
            PassphraseError: The passphrase is empty.
        """
        private = make_private_key(keytype)
        return self.add(private, role, passphrase, gun=gun, name=name)

    def list(self, *, role: str | None = None, gun: str | None = None) -> list[KeyInfo]:
        """List keys, oldest first; ``gun`` also lists keys that are for any GUN.

        Raises:
            KeyStoreError: A note beside a key can't be read.
        """
        try:
            notes = sorted(self.folder.glob("*.json"))
        except OSError as error:
            raise _unusable(self.folder, error) from error
        found = [read_note(note) for note in notes if _KEYID.fullmatch(note.stem)]
        return sorted(
            (
                info
                for info in found
                if info.path.exists()
                and role in {None, info.role}
                and (gun is None or info.gun in {None, gun})
            ),
            key=lambda info: (info.created_at, info.keyid),
        )

    def find(self, text: str) -> KeyInfo:
        """Find one key by name, or by id or canonical id or 4 or more first digits of one.

        Raises:
            KeyStoreError: None or several fit.
        """
        keys = self.list()
        found = [info for info in keys if text == info.keyid]
        found = found or [info for info in keys if text and text == info.name]
        if not found and len(text) >= _MIN_PREFIX:
            found = [
                info
                for info in keys
                if info.keyid.startswith(text.lower()) or info.canonical_id.startswith(text.lower())
            ]
        if len(found) > 1:
            raise KeyStoreError(
                f"{len(found)} keys fit {text[:64]!r}", hint="give more digits of the key id"
            )
        if not found:
            raise KeyStoreError(f"no key {text[:64]!r} in {self.folder}")
        return found[0]

    def import_(
        self,
        pem: bytes,
        role: str,
        *,
        passphrase: str,
        new_passphrase: str | None = None,
        gun: str | None = None,
        name: str = "",
    ) -> KeyInfo:
        """Store a private key from PEM, encrypted or not.

        Args:
            pem: PKCS#8, PKCS#1 or SEC1 PEM.
            role: What it's for.
            passphrase: Opens ``pem`` if that's encrypted.
            new_passphrase: Protects it here; ``passphrase`` by default.
            gun: The GUN it's for, None for any.
            name: What to call it.

        Raises:
            KeyStoreError: Not a key, a weak one, or it or its name is here already.
            PassphraseError: The passphrase doesn't open it.
        """
        private = open_private_key(pem, passphrase, "the PEM to import")
        new = passphrase if new_passphrase is None else new_passphrase
        return self.add(private, role, new, gun=gun, name=name)

    def export(self, keyid: str, part: Literal["public", "private"] = "public") -> bytes:
        """Give PEM: the public part, or the private one, still encrypted.

        Raises:
            KeyStoreError: The key isn't here, can't be read, or can't leave where it is.
        """
        info = self.find(keyid)
        if part == "private":
            return self._read_pem(info)
        return public_pem(info.key)

    def passwd(self, keyid: str, old: str, new: str) -> None:
        """Change a key's passphrase; a crash leaves the old or the new file.

        Raises:
            KeyStoreError: The key isn't here, or lives elsewhere and so has none.
            PassphraseError: ``old`` is wrong, or ``new`` is empty.
        """
        info = self.find(keyid)
        private = open_private_key(self._read_pem(info), old, f"key {info.keyid[:12]}")
        self._write(info.path, encrypted_pem(private, new))

    def delete(self, keyid: str) -> None:
        """Delete a key, the private part first.

        Raises:
            KeyStoreError: It isn't here or can't be deleted.
        """
        info = self.find(keyid)
        try:
            atomic_file.remove(info.path)
            atomic_file.remove(info.path.with_suffix(".json"))
            KeyUses(self.folder).forget(info.keyid)
        except OSError as error:
            raise _unusable(info.path, error) from error

    def signer(self, keyid: str, passphrase: str) -> CryptoSigner:
        """Open a key for signing.

        Raises:
            KeyStoreError: Not here, readable by others, or not the key its name says.
            PassphraseError: The passphrase is wrong.
        """
        private, key = self.private_key(keyid, passphrase), self.find(keyid).key
        try:
            return CryptoSigner(private, key)
        except Exception as error:
            raise KeyStoreError(f"key {key.keyid[:12]} can't sign: {error}") from error

    def private_key(self, keyid: str, passphrase: str) -> PrivateKeyTypes:
        """Open a key.

        Raises:
            KeyStoreError: Not here, readable by others, or not the key its name says.
            PassphraseError: The passphrase is wrong.
        """
        info = self.find(keyid)
        private = open_private_key(self._read_pem(info), passphrase, f"key {info.keyid[:12]}")
        # securesystemslib compares the two halves itself; ours words it for people.
        made = public_of(private)
        if key_material(made) != key_material(info.key):
            raise KeyStoreError(
                f"{info.path} holds another private key than the note beside it says",
                hint="restore both files from a backup",
            )
        return private

    def add(
        self,
        private: PrivateKeyTypes,
        role: str,
        passphrase: str,
        *,
        gun: str | None = None,
        name: str = "",
    ) -> KeyInfo:
        """Store a key that is in memory, encrypted.

        Raises:
            KeyStoreError: A weak or unfit key, or it or its name is here already.
            PassphraseError: The passphrase is empty.
        """
        info = self._new(public_of(private), role, gun=gun, name=name)
        pem = encrypted_pem(private, passphrase)
        # The note first: a note without a key is ignored, a key without a note would be lost.
        self._write(info.path.with_suffix(".json"), note_of(info))
        self._write(info.path, pem)
        return info

    def refer(
        self, key: SSlibKey, uri: str, role: str, *, gun: str | None = None, name: str = ""
    ) -> KeyInfo:
        """Note a key that lives elsewhere.

        Args:
            key: Its public part.
            uri: Names that very key there.
            role: What it's for.
            gun: The GUN it's for, None for any.
            name: What to call it.

        Raises:
            KeyStoreError: A weak or unfit key, or it or its name is here already.
        """
        check_fit(key)
        made = self._new(key, role, gun=gun, name=name)
        info = replace(made, path=made.path.with_suffix(".json"), uri=uri)
        self._write(info.path, note_of(info))
        return info

    def _new(self, key: SSlibKey, role: str, *, gun: str | None, name: str) -> KeyInfo:
        """Give what is to be noted of a key, if it may be stored."""
        if role not in KEY_ROLES:
            raise KeyStoreError(
                f"a key can't be for role {role[:40]!r}", hint=f"known: {', '.join(KEY_ROLES)}"
            )
        path = self.folder / f"{key.keyid}.pem"
        for other in self.list():
            if other.keyid == key.keyid:
                raise KeyStoreError(f"key {key.keyid[:12]} is here already: {other.where}")
            if name and other.name == name:
                raise KeyStoreError(
                    f"key {other.keyid[:12]} is called {name[:64]!r} already",
                    hint="give another --name",
                )
        if path.exists():
            raise KeyStoreError(f"key {key.keyid[:12]} is here already: {path}")
        created_at = datetime.now(UTC).replace(microsecond=0)
        return KeyInfo(key.keyid, role, gun, name, key, created_at, path)

    def exposed(self) -> Sequence[tuple[Path, int, int]]:
        """List what others on this machine may read: path, mode, and the mode it should have.

        Raises:
            KeyStoreError: The folder can't be read.
        """
        wanted = {self.folder: 0o700} | dict.fromkeys(self.folder.glob("*.pem"), 0o600)
        try:
            modes = {path: path.stat().st_mode & 0o777 for path in wanted if path.exists()}
        except OSError as error:
            raise _unusable(self.folder, error) from error
        return [(path, mode, wanted[path]) for path, mode in modes.items() if mode & _OTHERS]

    def _write(self, path: Path, data: bytes) -> None:
        try:
            atomic_file.write_atomic(path, data)
        except OSError as error:
            raise _unusable(path, error) from error

    def _read_pem(self, info: KeyInfo) -> bytes:
        check_is_here(info)
        try:
            with info.path.open("rb") as file:
                modes = {info.path: os.fstat(file.fileno()).st_mode}
                data = file.read(_MAX_PEM)
            modes[self.folder] = self.folder.stat().st_mode
        except OSError as error:
            raise _unusable(info.path, error) from error
        for path, mode in modes.items():
            if mode & _OTHERS:
                raise KeyStoreError(
                    f"{path} has mode {mode & 0o777:04o}: others on this machine may read it",
                    hint=f"chmod {700 if path == self.folder else 600} {path}",
                )
        return data


def check_is_here(info: KeyInfo) -> None:
    """Refuse a key whose private part is elsewhere.

    Raises:
        KeyStoreError: It is.
    """
    if info.uri is not None:
        raise KeyStoreError(
            f"the private part of key {info.keyid[:12]} can't leave {info.uri}",
            hint="export its public part; its PIN or policy is changed there",
        )


def _unusable(path: Path, error: OSError) -> KeyStoreError:
    return KeyStoreError(
        f"{path} can't be used: {error.strerror or error}", hint="check that it's yours"
    )
