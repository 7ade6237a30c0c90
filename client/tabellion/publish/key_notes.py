"""What anybody may know of a key: the readable note beside its file, or in place of one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import SSlibKey

from tabellion.core.roles import key_material
from tabellion.errors import KeyStoreError, TabellionError
from tabellion.publish.public_keys import canonical_id_of, fingerprint_of
from tabellion.signers.uris import parse_signer_uri

KEY_ROLES: Final = ("root", "targets", "snapshot", "signer")


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
        path: File of the private key, or of the note alone where the key is elsewhere.
        uri: Where the key is, if not in a file here.
    """

    keyid: str
    role: str
    gun: str | None
    name: str
    key: SSlibKey
    created_at: datetime
    path: Path
    uri: str | None = None

    @property
    def where(self) -> str:
        """Tell where the private key is: a file's name or a signer URI."""
        return self.uri or str(self.path)

    @property
    def keytype(self) -> str:
        """Give ``ed25519``, ``ecdsa`` or ``rsa``."""
        return self.key.keytype

    @property
    def fingerprint(self) -> str:
        """Give the SHA-256 of the key material, in hex; verifiers pin a root by it."""
        return fingerprint_of(self.key)

    @property
    def canonical_id(self) -> str:
        """Give the id that Notary and docker show for the key."""
        return canonical_id_of(self.key)


def note_of(info: KeyInfo) -> bytes:
    """Give the note's bytes."""
    note: dict[str, str | None] = {
        "keyid": info.keyid,
        "role": info.role,
        "gun": info.gun,
        "name": info.name,
        "keytype": info.key.keytype,
        "scheme": info.key.scheme,
        "public": info.key.keyval["public"],
        "created": info.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if info.uri is not None:
        note["uri"] = info.uri
    return json.dumps(note, indent=1).encode() + b"\n"


def read_note(path: Path) -> KeyInfo:
    """Read a note.

    Raises:
        KeyStoreError: It can't be read, or is of another key than its name says.
    """
    try:
        note: dict[str, Any] = json.loads(path.read_bytes())
        key = SSlibKey(
            str(note["keyid"]), note["keytype"], note["scheme"], {"public": str(note["public"])}
        )
        key_material(key)
        if key.keyid != path.stem or note["role"] not in KEY_ROLES:
            raise ValueError("keyid or role don't fit the file")  # noqa: TRY301  (one message)
        uri = note.get("uri")
        if uri is not None:
            uri = str(parse_signer_uri(str(uri)))
        return KeyInfo(
            key.keyid,
            str(note["role"]),
            None if note["gun"] is None else str(note["gun"]),
            str(note["name"]),
            key,
            datetime.fromisoformat(str(note["created"])).astimezone(UTC),
            path.with_suffix(".pem") if uri is None else path,
            uri,
        )
    except (OSError, ValueError, KeyError, TypeError, TabellionError) as error:
        raise KeyStoreError(
            f"the note {path} is damaged",
            hint="restore it from a backup; the key beside it is as it was",
        ) from error
