"""The master key: 32 bytes in a private file, sealing what the store must not hold in the clear."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tabellion.errors import ConfigurationError, KeyStoreError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FORMAT: Final = b"\x01"  # AES-256-GCM: format, nonce, ciphertext with tag
_MAX_FILE_BYTES: Final = 1024
# A group may read it: that's how Kubernetes hands secrets over.
_FORBIDDEN_MODE: Final = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
_HOW_TO_MAKE: Final = "make one with: (umask 077; openssl rand -base64 32 > FILE)"


class MasterKey:
    """Seals and opens small secrets with AES-256-GCM, each bound to its context."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigurationError(
                f"master key has {len(key)} bytes, not {KEY_BYTES}", hint=_HOW_TO_MAKE
            )
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return "MasterKey(...)"

    @classmethod
    def generate(cls) -> MasterKey:
        """Make one that lives in memory only."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def load_or_create(cls, path: Path, *, create: bool) -> MasterKey:
        """Load the key file; with ``create``, make it if there is none. Blocks.

        Raises:
            ConfigurationError: It's missing, open to others, not a key, or can't be made.
        """
        try:
            if create and not path.exists():
                _create(path)
            return cls(_decode(_read_private(path), path))
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"master key file {path} doesn't exist", hint=_HOW_TO_MAKE
            ) from error
        except (OSError, ValueError) as error:  # the latter: a NUL in the path
            raise ConfigurationError(
                f"master key file {path} can't be used: {getattr(error, 'strerror', error)}",
                hint="check the folder's owner and mode",
            ) from error

    def seal(self, plain: bytes, *, context: bytes) -> bytes:
        """Encrypt ``plain``; it opens only under the same context."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, plain, _FORMAT + context)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """Decrypt what ``seal`` made.

        Raises:
            KeyStoreError: Another master key sealed it, for another context, or it was altered.
        """
        start = len(_FORMAT)
        nonce, body = sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]
        wrong = KeyStoreError(
            "a sealed key doesn't open with this master key",
            hint="give the server the master key file that this store was filled with",
        )
        if not sealed.startswith(_FORMAT):
            raise wrong
        try:
            return self._cipher.decrypt(nonce, body, _FORMAT + context)
        except (InvalidTag, ValueError) as error:
            raise wrong from error


def _create(path: Path) -> None:
    """Write a new key so that a crash leaves all or nothing, and a rival's file wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    text = base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_private(path: Path) -> bytes:
    # Not blocking, or a pipe in its place would stop the server for good.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigurationError(f"master key {path} isn't a file", hint=_HOW_TO_MAKE)
        if mode & _FORBIDDEN_MODE:
            raise ConfigurationError(
                f"master key file {path} has mode {stat.S_IMODE(mode):04o}: others may use it",
                hint=f"chmod 600 {path}",
            )
        return os.read(descriptor, _MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


def _decode(text: bytes, path: Path) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"master key file {path} doesn't hold {KEY_BYTES} bytes in base64", hint=_HOW_TO_MAKE
        )
    return key
