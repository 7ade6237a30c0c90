"""Online keys: what the server itself signs snapshots and timestamps with, per GUN and role.

A private key is in the store only sealed, bound to its GUN, role and key id. No key is ever
replaced: after a rotation the old one signs on until a root names the new one.

A role may be given a signer URI: its new keys are then the newest one that the URI names, the same
for all GUNs. What is sealed of such a key is the exact URI, so that nobody who can write to the
store has another key sign; after a rotation there, too, the old version signs on.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import Key, Signer, SSlibKey
from tuf.api.metadata import Signed

from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.notary_keys import NotaryKey
from tabellion.errors import KeyStoreError, MalformedMetadataError
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.remote import RemoteOnlineKeys
from tabellion_server.storage.interface import OnlineKeyRow, Store

ONLINE_ROLES = frozenset({"snapshot", "timestamp"})
_PEM: Final = b"-----BEGIN "
_TRIED: Final = 8  # one key that opens tells; some more, as one may be damaged


def _utc_now() -> datetime:
    return datetime.now(UTC)


class OnlineKeys:
    """Makes, finds and uses the online keys that a store holds."""

    def __init__(
        self,
        store: Store,
        master: MasterKey,
        *,
        remote: RemoteOnlineKeys | None = None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        """Take what they are kept in and sealed with.

        Args:
            store: Holds them.
            master: Seals them.
            remote: Keys that live elsewhere; those in use stay in use if a role is no longer
                given one.
            clock: Gives the present moment.
        """
        self._store = store
        self._master = master
        self._remote = remote or RemoteOnlineKeys({})
        self._clock = clock

    async def fits_store(self) -> bool:
        """Tell whether the master key opens what the store holds; nothing held fits any.

        Raises:
            StorageError: The store failed.
        """
        held = await self._store.oldest_online_keys(_TRIED)
        return not held or await asyncio.to_thread(
            lambda: any(self._opens(gun, row) for gun, row in held)
        )

    def try_key(self, gun: str, row: OnlineKeyRow) -> bool:
        """Open a sealed key, which has to be its public key's; False if it lives elsewhere. Blocks.

        Of that one only the URI is opened: nobody is asked.

        Raises:
            KeyStoreError: Another master key sealed it, or it's damaged.
            TabellionError: Its URI can't be read here.
        """
        _, is_remote = self._unseal(gun, row)
        return not is_remote

    async def public_key(self, gun: str, role: str, dialect: Dialect = TUF) -> Key:
        """Give the newest key of a role, made now if there is none; rivals get the same one.

        A GUN that doesn't exist yet may be asked in either dialect: each has its own keys.

        Raises:
            KeyStoreError: The role isn't one that the server signs.
            SignerError: A key is to be had elsewhere and can't be.
            StorageError: The store failed.
        """
        _check_role(role)
        while True:
            rows = await self._store.online_keys(gun, role)
            for row in rows:
                if _dialect_of(row) is dialect:
                    return _public_key(row)
            # Of several that ask at once, one wins.
            await self._add(gun, role, dialect, seen=[row.keyid for row in rows])

    async def public_keys(self, gun: str, role: str, dialect: Dialect) -> list[Key]:
        """List the keys of a role that are in a dialect, newest first.

        Raises:
            StorageError: The store failed.
            KeyStoreError: One is damaged.
        """
        rows = await self._store.online_keys(gun, role)
        return [_public_key(row) for row in rows if _dialect_of(row) is dialect]

    async def rotate(self, gun: str, role: str, dialect: Dialect = TUF) -> Key:
        """Make a new key the newest; of a key that lives elsewhere, take up the newest there.

        Raises:
            KeyStoreError: The role isn't one that the server signs.
            SignerError: A key is to be had elsewhere and can't be.
            StorageError: The store failed.
        """
        _check_role(role)
        return await self._add(gun, role, dialect)

    async def successor(
        self, gun: str, role: str, dialect: Dialect, *, of: Collection[str]
    ) -> tuple[Key, datetime] | None:
        """Give the newest key if it's none of those, else a new one; rivals get the same one.

        Of a key that lives elsewhere, the newest there is the new one; None if it's one of those.

        Returns:
            The key, and when it was made or taken up.

        Raises:
            KeyStoreError: The role isn't one that the server signs.
            SignerError: A key is to be had elsewhere and can't be.
            StorageError: The store failed.
        """
        _check_role(role)
        while True:
            rows = await self._store.online_keys(gun, role)
            own = [row for row in rows if _dialect_of(row) is dialect]
            if own and own[0].keyid not in of:
                return _public_key(own[0]), own[0].created_at
            # Of several that ask at once, one wins.
            key = await self._add(gun, role, dialect, seen=[row.keyid for row in rows])
            if not self._remote.has(role):
                continue
            if key.keyid in of:
                return None
            held = await self._store.online_keys(gun, role)
            return key, next(row.created_at for row in held if row.keyid == key.keyid)

    async def import_key(
        self, gun: str, role: str, key: Key, private: PrivateKeyTypes, *, created_at: datetime
    ) -> bool:
        """Seal and keep a key that another server made; False if it's here already.

        Raises:
            KeyStoreError: The role isn't one that the server signs.
            StorageError: The store failed.
        """
        _check_role(role)
        if any(row.keyid == key.keyid for row in await self._store.online_keys(gun, role)):
            return False
        row = await asyncio.to_thread(self._seal, gun, role, key, private, created_at)
        return await self._store.add_online_key(gun, row)

    async def signer(self, gun: str, role: str, keyid: str) -> Signer:
        """Give the signer of one key.

        Raises:
            KeyStoreError: The server doesn't hold it, or the master key isn't the right one.
            StorageError: The store failed.
        """
        ((signer, _),) = await self._signers(gun, role, [keyid])
        return signer

    async def sign(
        self, gun: str, role: str, keyids: Collection[str], signed: Signed, dialect: Dialect
    ) -> bytes:
        """Write a role's file, signed by those of the keys that the server holds.

        Args:
            gun: The collection.
            role: ``snapshot`` or ``timestamp``.
            keyids: Keys that the root gives the role.
            signed: What to sign.
            dialect: How to write it.

        Raises:
            KeyStoreError: The server holds none of the keys, or the master key is a wrong one.
            SignerError: What holds a key doesn't sign.
            StorageError: The store failed.
        """
        signers = await self._signers(gun, role, keyids)
        work = functools.partial(dialect.sign, signed, [signer for signer, _ in signers])
        if any(is_remote for _, is_remote in signers):
            return await self._remote.run(work)
        return await asyncio.to_thread(work)

    async def _signers(
        self, gun: str, role: str, keyids: Collection[str]
    ) -> list[tuple[Signer, bool]]:
        """Give the signers of those of the keys that the server has, and which sign elsewhere."""
        _check_role(role)
        rows = await self._store.online_keys(gun, role)
        held = [row for row in rows if row.keyid in keyids]
        if not held:
            raise KeyStoreError(
                f"the server holds none of the {role} keys of {gun} that the root names",
                hint=f"publish a root with the {role} key that the server offers",
            )
        return await asyncio.to_thread(lambda: [self._unseal(gun, row) for row in held])

    async def _add(
        self, gun: str, role: str, dialect: Dialect, *, seen: Collection[str] | None = None
    ) -> Key:
        if self._remote.has(role):
            return await self._add_remote(gun, role, dialect)
        row, key = await asyncio.to_thread(self._make, gun, role, dialect)
        await self._store.add_online_key(gun, row, seen=seen)
        return key

    async def _add_remote(self, gun: str, role: str, dialect: Dialect) -> Key:
        """Take up the newest key that lives elsewhere, if it's not here yet."""
        key, uri = await self._remote.run(lambda: self._remote.newest(role, dialect))
        row = await asyncio.to_thread(self._row, gun, role, key, uri.encode("ascii"), self._clock())
        while True:
            seen = [held.keyid for held in await self._store.online_keys(gun, role)]
            if key.keyid in seen or await self._store.add_online_key(gun, row, seen=seen):
                return key

    def _make(self, gun: str, role: str, dialect: Dialect) -> tuple[OnlineKeyRow, Key]:
        key: Key
        private: PrivateKeyTypes
        if dialect is NOTARY:
            # What notary-signer makes, and the only kind that Connaisseur 2 reads.
            made = ec.generate_private_key(ec.SECP256R1())
            private, key = made, NotaryKey.of(made.public_key())
        else:
            private = ed25519.Ed25519PrivateKey.generate()
            key = SSlibKey.from_crypto(private.public_key())
        return self._seal(gun, role, key, private, self._clock()), key

    def _seal(
        self, gun: str, role: str, key: Key, private: PrivateKeyTypes, created_at: datetime
    ) -> OnlineKeyRow:
        plain = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self._row(gun, role, key, plain, created_at)

    def _row(
        self, gun: str, role: str, key: Key, plain: bytes, created_at: datetime
    ) -> OnlineKeyRow:
        """Seal a private key in PEM, or the URI of one."""
        sealed = self._master.seal(plain, context=_context(gun, role, key.keyid))
        public = json.dumps({"keyid": key.keyid, **key.to_dict()}, sort_keys=True)
        return OnlineKeyRow(key.keyid, role, public, sealed, created_at)

    def _opens(self, gun: str, row: OnlineKeyRow) -> bool:
        try:
            self._unseal(gun, row)
        except KeyStoreError:
            return False
        return True

    def _unseal(self, gun: str, row: OnlineKeyRow) -> tuple[Signer, bool]:
        """Open a key; nobody is asked yet where it lives elsewhere."""
        plain = self._master.open(row.sealed, context=_context(gun, row.role, row.keyid))
        dialect, key = _dialect_of(row), _public_key(row)
        is_remote = not plain.startswith(_PEM)
        try:
            private = (
                self._remote.private_key(plain.decode("ascii"), key)
                if is_remote
                else load_pem_private_key(plain, None)
            )
            return dialect.signer(private, key), is_remote
        except (TypeError, ValueError, MalformedMetadataError) as error:
            raise _damaged(row) from error


def _check_role(role: str) -> None:
    if role not in ONLINE_ROLES:
        raise KeyStoreError(
            f"the server never holds a key of role {role[:80]!r}",
            hint="it signs snapshot and timestamp; keep the other keys with their people",
        )


def _context(gun: str, role: str, keyid: str) -> bytes:
    """Name a key without ambiguity."""
    return json.dumps([gun, role, keyid]).encode("ascii")


def _public_key(row: OnlineKeyRow) -> Key:
    try:
        fields = json.loads(row.public)
        key = _dialect_of(row).parse_key(fields.pop("keyid"), fields)
    except (AttributeError, KeyError, TypeError, ValueError, MalformedMetadataError) as error:
        raise _damaged(row) from error
    if key.keyid != row.keyid or not isinstance(key, SSlibKey | NotaryKey):
        raise _damaged(row)
    return key


def _dialect_of(row: OnlineKeyRow) -> Dialect:
    """Tell by how the key is written: Notary's keys have no scheme."""
    if '"keyval"' not in row.public:
        raise _damaged(row)
    return TUF if '"scheme"' in row.public else NOTARY


def _damaged(row: OnlineKeyRow) -> KeyStoreError:
    return KeyStoreError(
        f"online {row.role} key {row.keyid} is damaged", hint="restore the store from a backup"
    )
