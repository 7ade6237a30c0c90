"""A bundle of keys as one encrypted file: made and opened in memory.

::

    tabellion-keys 1
    {"cipher":"AES-256-GCM","kdf":"scrypt","log2_n":17,"nonce":"...","p":1,"r":8,"salt":"..."}
    <ciphertext and tag>

The two lines are authenticated with the rest. What is inside stays under its own passphrases: who
guesses the bundle's learns whose keys these are, and still can't sign.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from tabellion.core import strict_json
from tabellion.errors import KeyStoreError, PassphraseError, TabellionError

MAX_BYTES: Final = 32 * 1024 * 1024
_MAGIC: Final = b"tabellion-keys 1\n"
_MAX_HEADER: Final = 1024
_LOG2_N: Final = 17  # 128 MiB and about half a second
_MAX_LOG2_N: Final = 20  # 1 GiB: who hands out a bundle must not choose how much is used
_MIN_LOG2_N: Final = 10
_R: Final = 8
_MAX_P: Final = 4
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12


@dataclass(frozen=True)
class BundledKey:
    """One key of a bundle.

    Attributes:
        note: The readable note beside it, as it was.
        pem: Its private part, encrypted; None of a key that lives elsewhere.
    """

    note: bytes
    pem: bytes | None


def seal(keys: Mapping[str, BundledKey], passphrase: str, *, log2_n: int = _LOG2_N) -> bytes:
    """Make a bundle of keys by their ids.

    Raises:
        PassphraseError: The passphrase is empty.
        KeyStoreError: They are too many.
    """
    if not passphrase:
        raise PassphraseError(
            "the passphrase of a backup is empty", hint="use 8 characters or more"
        )
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    header = {
        "kdf": "scrypt",
        "log2_n": log2_n,
        "r": _R,
        "p": 1,
        "salt": base64.b64encode(salt).decode(),
        "cipher": "AES-256-GCM",
        "nonce": base64.b64encode(nonce).decode(),
    }
    head = _MAGIC + json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    content = {
        keyid: {"note": key.note.decode(), "pem": key.pem.decode() if key.pem else None}
        for keyid, key in keys.items()
    }
    plain = json.dumps(content).encode()
    if len(plain) > MAX_BYTES - 2 * _MAX_HEADER:
        raise KeyStoreError("these keys are too many for one bundle", hint="name some of them")
    secret = _derive(passphrase, salt, log2_n=log2_n, p=1)
    return head + AESGCM(secret).encrypt(nonce, plain, head)


def open_bundle(data: bytes, passphrase: str) -> dict[str, BundledKey]:
    """Open a bundle; nothing in it is judged yet.

    Raises:
        KeyStoreError: It isn't one.
        PassphraseError: The passphrase doesn't open it, or it was altered.
    """
    head, fields = _header(data)
    secret = _derive(passphrase, fields.salt, log2_n=fields.log2_n, p=fields.p)
    try:
        plain = AESGCM(secret).decrypt(fields.nonce, data[len(head) :], head)
    except InvalidTag as error:
        raise PassphraseError(
            "the passphrase doesn't open the backup, or it was altered",
            hint="check it, and that the file is whole",
        ) from error
    try:
        content = strict_json.parse(plain, max_bytes=MAX_BYTES, what="the backup")
        return {
            keyid: BundledKey(
                item["note"].encode(), None if item["pem"] is None else item["pem"].encode()
            )
            for keyid, item in content.items()
        }
    except (TabellionError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise KeyStoreError("the backup holds no keys that can be read") from error


@dataclass(frozen=True)
class _Header:
    log2_n: int
    p: int
    salt: bytes
    nonce: bytes


def _header(data: bytes) -> tuple[bytes, _Header]:
    end = data.find(b"\n", len(_MAGIC), len(_MAGIC) + _MAX_HEADER)
    if not data.startswith(_MAGIC) or end < 0 or len(data) > MAX_BYTES:
        raise KeyStoreError(
            "this isn't a backup of keys", hint="give a file that tabellion key backup made"
        )
    try:
        fields = strict_json.parse(
            data[len(_MAGIC) : end], max_bytes=_MAX_HEADER, what="the backup's header"
        )
        header = _Header(
            _bounded(fields["log2_n"], _MIN_LOG2_N, _MAX_LOG2_N),
            _bounded(fields["p"], 1, _MAX_P),
            base64.b64decode(fields["salt"], validate=True),
            base64.b64decode(fields["nonce"], validate=True),
        )
        _check_kind(fields, header)
    except (TabellionError, KeyError, TypeError, ValueError) as error:
        raise KeyStoreError(
            f"the backup's header can't be used: {error}",
            hint="it's damaged, or of a newer release",
        ) from error
    return data[: end + 1], header


def _check_kind(fields: Mapping[str, Any], header: _Header) -> None:
    known = (fields["kdf"], fields["cipher"], fields["r"]) == ("scrypt", "AES-256-GCM", _R)
    if not known or (len(header.salt), len(header.nonce)) != (_SALT_BYTES, _NONCE_BYTES):
        raise ValueError("unknown parameters")


def _bounded(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{str(value)[:20]} isn't from {low} to {high}")
    return value


def _derive(passphrase: str, salt: bytes, *, log2_n: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**log2_n, r=_R, p=p).derive(passphrase.encode())
