"""Signing keys on disk: encrypted PKCS#8 files with mode 0600, a readable note beside each.

``<home>/keys/<keyid>.pem`` holds the private key, ``<keyid>.json`` what anybody may know of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from tabellion.core.names import Digest
from tabellion.core.roles import KNOWN_SCHEMES, MIN_RSA_BITS, key_material, rsa_bits
from tabellion.errors import KeyStoreError, PassphraseError, TabellionError
from tabellion.publish import files, pkcs8

KeyType = Literal["ed25519", "ecdsa", "rsa"]
KEY_TYPES: Final[tuple[KeyType, ...]] = ("ed25519", "ecdsa", "rsa")
KEY_ROLES: Final = ("root", "targets", "snapshot", "signer")
_RSA_BITS: Final = 3072
_MAX_PEM: Final = 64 * 1024
_KEYID = re.compile(r"[0-9a-f]{64}")
_MIN_PREFIX: Final = 4


@dataclass(frozen=True)
class KeyInfo:
    """What anybody may know of a key.

    Attributes:
        keyid: Its id in metadata.
        role: What it's for: ``root``, ``targets``, ``snapshot`` or ``signer`` (delegated roles).
        gun: The GUN it's for, None for any.
        name: What its owner calls it, may be empty.
        key: Public part, as it appears in metadata.
        created_at: When it was made or imported, UTC.
        path: File of the private key.
    """

    keyid: str
    role: str
    gun: str | None
    name: str
    key: SSlibKey
    created_at: datetime
    path: Path

    @property
    def keytype(self) -> str:
        """Give ``ed25519``, ``ecdsa`` or ``rsa``."""
        return self.key.keytype

    @property
    def fingerprint(self) -> str:
        """Give the SHA-256 of the key material, in hex; verifiers pin a root by it."""
        return fingerprint_of(self.key)


def fingerprint_of(key: Key) -> str:
    """Give the SHA-256 of a key's material in hex, the same however the key is written."""
    return Digest.of(key_material(key)).hex


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
            KeyStoreError: The folder can't be written, or there's no such key type.
            PassphraseError: The passphrase is empty.
        """
        private: PrivateKeyTypes
        if keytype == "ed25519":
            private = ed25519.Ed25519PrivateKey.generate()
        elif keytype == "ecdsa":
            private = ec.generate_private_key(ec.SECP256R1())
        elif keytype == "rsa":
            private = rsa.generate_private_key(65537, _RSA_BITS)
        else:
            raise KeyStoreError(
                f"there is no key type {keytype!r}", hint=f"known: {', '.join(KEY_TYPES)}"
            )
        return self._store(private, role, passphrase, gun=gun, name=name)

    def list(self, *, role: str | None = None, gun: str | None = None) -> list[KeyInfo]:
        """List keys, oldest first; ``gun`` also lists keys that are for any GUN.

        Raises:
            KeyStoreError: A note beside a key can't be read.
        """
        try:
            notes = sorted(self.folder.glob("*.json"))
        except OSError as error:
            raise _unusable(self.folder, error) from error
        found = [_read_note(note) for note in notes if _KEYID.fullmatch(note.stem)]
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
        """Find one key by id, by the beginning of it (4 digits or more), or by name.

        Raises:
            KeyStoreError: None or several fit.
        """
        keys = self.list()
        found = [info for info in keys if text == info.keyid]
        found = found or [info for info in keys if text and text == info.name]
        if not found and len(text) >= _MIN_PREFIX:
            found = [info for info in keys if info.keyid.startswith(text.lower())]
        if len(found) > 1:
            raise KeyStoreError(
                f"{len(found)} keys fit {text[:64]!r}", hint="give more digits of the key id"
            )
        if not found:
            raise KeyStoreError(f"no key {text[:64]!r} in {self.folder}")
        return found[0]

    def held(self, keyids: Sequence[str]) -> Sequence[KeyInfo]:
        """List those of ``keyids`` whose private part is here."""
        wanted = set(keyids)
        return [info for info in self.list() if info.keyid in wanted]

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
            KeyStoreError: Not a key, a weak one, or it's here already.
            PassphraseError: The passphrase doesn't open it.
        """
        private = _open(pem, passphrase, "the PEM to import")
        new = passphrase if new_passphrase is None else new_passphrase
        return self._store(private, role, new, gun=gun, name=name)

    def export(self, keyid: str, part: Literal["public", "private"] = "public") -> bytes:
        """Give PEM: the public part, or the private one, still encrypted.

        Raises:
            KeyStoreError: The key isn't here or can't be read.
        """
        info = self.find(keyid)
        if part == "private":
            return self._read_pem(info)
        return public_pem(info.key)

    def passwd(self, keyid: str, old: str, new: str) -> None:
        """Change a key's passphrase; a crash leaves the old or the new file.

        Raises:
            PassphraseError: ``old`` is wrong, or ``new`` is empty.
        """
        info = self.find(keyid)
        private = _open(self._read_pem(info), old, f"key {info.keyid[:12]}")
        self._write(info.path, _encrypted(private, new))

    def delete(self, keyid: str) -> None:
        """Delete a key, the private part first.

        Raises:
            KeyStoreError: It isn't here or can't be deleted.
        """
        info = self.find(keyid)
        try:
            files.remove(info.path)
            files.remove(info.path.with_suffix(".json"))
        except OSError as error:
            raise _unusable(info.path, error) from error

    def signer(self, keyid: str, passphrase: str) -> CryptoSigner:
        """Open a key for signing.

        Raises:
            KeyStoreError: Not here, readable by others, or not the key its name says.
            PassphraseError: The passphrase is wrong.
        """
        info = self.find(keyid)
        private = _open(self._read_pem(info), passphrase, f"key {info.keyid[:12]}")
        # securesystemslib compares the two halves itself; ours words it for people.
        made = _public_of(private)
        if key_material(made) != key_material(info.key):
            raise KeyStoreError(
                f"{info.path} holds another private key than the note beside it says",
                hint="restore both files from a backup",
            )
        try:
            return CryptoSigner(private, info.key)
        except Exception as error:
            raise KeyStoreError(f"{info.path} can't sign: {error}") from error

    def _store(
        self, private: PrivateKeyTypes, role: str, passphrase: str, *, gun: str | None, name: str
    ) -> KeyInfo:
        if role not in KEY_ROLES:
            raise KeyStoreError(
                f"a key can't be for role {role[:40]!r}", hint=f"known: {', '.join(KEY_ROLES)}"
            )
        key = _public_of(private)
        path = self.folder / f"{key.keyid}.pem"
        if path.exists():
            raise KeyStoreError(f"key {key.keyid[:12]} is here already: {path}")
        created_at = datetime.now(UTC).replace(microsecond=0)
        info = KeyInfo(key.keyid, role, gun, name, key, created_at, path)
        pem = _encrypted(private, passphrase)
        # The note first: a note without a key is ignored, a key without a note would be lost.
        self._write(path.with_suffix(".json"), _note_of(info))
        self._write(path, pem)
        return info

    def _write(self, path: Path, data: bytes) -> None:
        try:
            files.write_atomic(path, data)
        except OSError as error:
            raise _unusable(path, error) from error

    def _read_pem(self, info: KeyInfo) -> bytes:
        try:
            with info.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MAX_PEM)
        except OSError as error:
            raise _unusable(info.path, error) from error
        if mode & 0o077:
            raise KeyStoreError(
                f"{info.path} has mode {mode & 0o777:04o}: others on this machine may read it",
                hint=f"chmod 600 {info.path}",
            )
        return data


def load_private_key(pem: bytes, passphrase: str = "") -> CryptoSigner:
    """Read a private key from PEM, encrypted or not.

    Raises:
        KeyStoreError: Not a key, or one that not all clients read.
        PassphraseError: The passphrase doesn't open it.
    """
    private = _open(pem, passphrase, "the PEM")
    return CryptoSigner(private, _public_of(private))


def load_public_key(data: bytes, *, what: str = "public key") -> Key:
    """Read a public key as others give it: PEM, or one JSON key object of TUF metadata.

    Raises:
        KeyStoreError: Neither, a private key, or of a kind that not all clients read.
    """
    hint = "give the file made by: tabellion key export KEYID"
    if b"PRIVATE KEY" in data:
        raise KeyStoreError(f"{what} is a private key: don't pass it around", hint=hint)
    try:
        if data.lstrip().startswith(b"{"):
            content = json.loads(data)
            keyid = content.pop("keyid", None)
            key: Key = Key.from_dict("", content)
            public = load_pem_public_key(public_pem(key))
        else:
            keyid = None
            public = load_pem_public_key(data)
        made = SSlibKey.from_crypto(public)
        _check_fit(made)
    except KeyStoreError:
        raise
    except TabellionError as error:
        raise KeyStoreError(f"{what} isn't a public key: {error.message}", hint=hint) from error
    except Exception as error:
        raise KeyStoreError(f"{what} isn't a public key", hint=hint) from error
    if keyid is not None and keyid != made.keyid:
        raise KeyStoreError(f"{what} says it's {str(keyid)[:64]}, but it's {made.keyid}", hint=hint)
    return made


def public_pem(key: Key) -> bytes:
    """Give a public key as PEM (SubjectPublicKeyInfo).

    Raises:
        KeyStoreError: Its public part can't be read.
    """
    public = key.keyval.get("public")
    try:
        if key.keytype == "ed25519":
            raw = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(public)))
            return raw.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        loaded = load_pem_public_key(str(public).encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyStoreError(f"key {key.keyid[:12]} can't be read: {error}") from error
    return loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _public_of(private: PrivateKeyTypes) -> SSlibKey:
    try:
        key = SSlibKey.from_crypto(private.public_key())
    except Exception as error:
        raise KeyStoreError(
            f"{type(private).__name__} isn't a kind of key that metadata can hold",
            hint=f"use {', '.join(KEY_TYPES)}",
        ) from error
    _check_fit(key)
    return key


def _check_fit(key: Key) -> None:
    if (key.keytype, key.scheme) not in KNOWN_SCHEMES:
        raise KeyStoreError(
            f"a key of type {key.keytype}/{key.scheme} isn't read by all clients",
            hint="use ed25519, ECDSA P-256 or RSA",
        )
    bits = rsa_bits(key)
    if bits is not None and bits < MIN_RSA_BITS:
        raise KeyStoreError(f"an RSA key of {bits} bits is weak", hint=f"use {_RSA_BITS} bits")


def _encrypted(private: PrivateKeyTypes, passphrase: str) -> bytes:
    if not passphrase:
        raise PassphraseError("the passphrase for a key is empty", hint="use 8 characters or more")
    return pkcs8.encrypt(private, passphrase.encode())


def _open(pem: bytes, passphrase: str, what: str) -> PrivateKeyTypes:
    is_encrypted = b"ENCRYPTED" in pem
    try:
        return load_pem_private_key(pem, passphrase.encode() if is_encrypted else None)
    except (ValueError, TypeError) as error:
        if is_encrypted and b"-----BEGIN" in pem:
            raise PassphraseError(
                f"the passphrase doesn't open {what}", hint="check it, and that the file is whole"
            ) from error
        raise KeyStoreError(
            f"{what} isn't a private key in PEM", hint="give PKCS#8, PKCS#1 or SEC1 in PEM"
        ) from error
    except UnsupportedAlgorithm as error:
        raise KeyStoreError(f"{what} is a key of a kind that can't be read here") from error


def _note_of(info: KeyInfo) -> bytes:
    note = {
        "keyid": info.keyid,
        "role": info.role,
        "gun": info.gun,
        "name": info.name,
        "keytype": info.key.keytype,
        "scheme": info.key.scheme,
        "public": info.key.keyval["public"],
        "created": info.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return json.dumps(note, indent=1).encode() + b"\n"


def _read_note(path: Path) -> KeyInfo:
    try:
        note: dict[str, Any] = json.loads(path.read_bytes())
        key = SSlibKey(
            str(note["keyid"]), note["keytype"], note["scheme"], {"public": str(note["public"])}
        )
        key_material(key)
        if key.keyid != path.stem or note["role"] not in KEY_ROLES:
            raise ValueError("keyid or role don't fit the file")  # noqa: TRY301  (one message)
        return KeyInfo(
            key.keyid,
            str(note["role"]),
            None if note["gun"] is None else str(note["gun"]),
            str(note["name"]),
            key,
            datetime.fromisoformat(str(note["created"])).astimezone(UTC),
            path.with_suffix(".pem"),
        )
    except (OSError, ValueError, KeyError, TypeError, TabellionError) as error:
        raise KeyStoreError(
            f"the note {path} is damaged",
            hint="restore it from a backup; the key beside it is as it was",
        ) from error


def _unusable(path: Path, error: OSError) -> KeyStoreError:
    return KeyStoreError(
        f"{path} can't be used: {error.strerror or error}", hint="check that it's yours"
    )
