"""After a publication: which keys signed it is noted, and what ends next is found."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tabellion.core.dialect import Dialect
from tabellion.core.expiry import End, judge
from tabellion.core.limits import Limits
from tabellion.core.publication import CurrentSet, UploadedFile
from tabellion.errors import TabellionError
from tabellion.publish.key_uses import KeyUse, KeyUses, roles_signed
from tabellion.publish.keystore import KeyStore
from tabellion.publish.signing import Built, KeyRing
from tabellion.publish.state import Current
from tabellion.publish.survey import view_of


def look_back(current: Current, built: Built, ring: KeyRing, *, now: datetime) -> End | None:
    """Note the keys' use, and give what of the GUN ends soon and waits for people. Blocks.

    What was published is published: no fault here is told.
    """
    try:
        made = CurrentSet.parse(_by_role(built.files), built.dialect, limits=Limits()).files
        view = view_of(current, ring.held(), newer=made if not built.missing else {})
        named = [current.root, *(item.signed for item in current.roles.values())]
        signed = roles_signed(list(made.values()), named, _keyids(ring.keystore))
        _note(ring.keystore, current.gun, signed, now)
        first = judge(view, now=now).first
    except TabellionError:
        return None
    is_near = first is not None and first.level != "ok" and first.renewed_by == "publisher"
    return first if is_near else None


def note_founding(
    gun: str, dialect: Dialect, files: Sequence[UploadedFile], store: KeyStore, *, now: datetime
) -> None:
    """Note the use of the keys that signed a GUN's first files. Blocks, and never fails."""
    try:
        made = CurrentSet.parse(_by_role(files), dialect, limits=Limits()).files
        _note(store, gun, roles_signed(list(made.values()), (), _keyids(store)), now)
    except TabellionError:
        return


def _by_role(files: Sequence[UploadedFile]) -> dict[str, bytes]:
    return {item.role: item.data for item in files}


def _keyids(store: KeyStore) -> dict[str, str]:
    return {info.fingerprint: info.keyid for info in store.list()}


def _note(store: KeyStore, gun: str, signed: dict[str, list[str]], now: datetime) -> None:
    uses = KeyUses(store.folder)
    for keyid, roles in signed.items():
        uses.note(keyid, [KeyUse(gun, role, now) for role in roles])
