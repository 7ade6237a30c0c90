"""Founding a GUN: its keys, its first files, and their way to the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from securesystemslib.signer import Key
from tuf.api.metadata import Root

from tabellion.core.bins import bits_of
from tabellion.core.dialect import NOTARY, Dialect
from tabellion.core.limits import Limits
from tabellion.core.names import Gun
from tabellion.core.proposal import Proposal
from tabellion.core.proposal_rules import verify_fit
from tabellion.core.publication import OnlineKeys, UploadedFile
from tabellion.core.roles import key_material
from tabellion.core.transitions import judge_publication
from tabellion.errors import (
    AccessDeniedError,
    ConflictError,
    KeyStoreError,
    NotFoundError,
    PublicationError,
    ServerAnswerError,
    TransportError,
    UsageError,
)
from tabellion.publish.afterwards import note_founding
from tabellion.publish.birth import Pending, Plan, first_files
from tabellion.publish.certificates import CERTIFIABLE
from tabellion.publish.delivery import may_pass
from tabellion.publish.key_notes import KeyInfo
from tabellion.publish.named_keys import NamedKey, list_keys
from tabellion.publish.outcome import Initialized
from tabellion.publish.pending_api import Offer, PendingApi
from tabellion.publish.public_keys import root_fingerprints
from tabellion.publish.retries import Retries
from tabellion.publish.tools import Tools
from tabellion.verify.cache import MetadataCache

_REFUSED: Final = range(300, 500)
_SHOWN_KEYS: Final = 5


class Founder:
    """Founds one GUN."""

    def __init__(self, tools: Tools, gun: Gun, dialect: Dialect) -> None:
        self._dialect = dialect
        self._api = tools.api
        self._ring = tools.ring
        self._gun = gun
        self._cache = MetadataCache.of(tools.home, gun)
        self._pending = Pending(tools.home, gun)
        self._expiries = tools.expiries_of(dialect)
        self._clock = tools.clock
        self._made: list[KeyInfo] = []
        self._is_fresh = False

    async def found(
        self,
        named: Mapping[str, Sequence[str]],
        thresholds: Mapping[str, int],
        *,
        local_snapshot: bool,
        bins: int = 0,
    ) -> Initialized:
        """Found it, or go on where an earlier try was cut off; refused, it leaves nothing.

        Where other holders have to sign, too, the server keeps it until they have.

        Args:
            named: Role to keys as ``NamedKey`` reads them; none where they are found or made.
            thresholds: Role to threshold.
            local_snapshot: The publisher signs snapshots.
            bins: Number of hash bins, 0 for none; ``bins`` in ``named`` are their keys.

        Raises:
            UsageError: It exists already, a threshold can't be met, a key is missing, or there
                can't be so many bins.
        """
        self._check_bins(bins, named.get("bins", ()))
        files = await asyncio.to_thread(self._pending.read)
        if not files:
            if await self._api.exists(self._gun):
                raise self._exists()
            online = {"timestamp": [await self._online_key("timestamp")]}
            if not local_snapshot:
                online["snapshot"] = [await self._online_key("snapshot")]
            if self._dialect is NOTARY and any(
                "=" in text for each in named.values() for text in each
            ):
                raise UsageError("a Notary root has no place for names", hint="leave =NAME out")
            files = await asyncio.to_thread(self._prepare, named, thresholds, online, bins)
            self._is_fresh = True
        missing = _proposal(self._gun, self._dialect, files).missing(None)
        offer = await self._send(files, missing)
        if offer is not None and offer.state != "published":
            # Nothing of it is trusted before it's published: the others may never sign.
            await asyncio.to_thread(self._pending.drop)
            made = await asyncio.to_thread(self._told, files[0].data)
            return replace(made, pending=offer.id, missing=offer.missing)
        async with self._cache.locked():
            await asyncio.to_thread(pin_root, self._cache, files[0].data)
        await asyncio.to_thread(self._pending.drop)
        await asyncio.to_thread(
            note_founding, self._gun, self._dialect, files, self._ring.keystore, now=self._clock()
        )
        return await asyncio.to_thread(self._told, files[0].data)

    def _check_bins(self, bins: int, keys: Sequence[str]) -> None:
        if bins:
            bits_of(bins)
        if bins and self._dialect is NOTARY:
            raise UsageError(
                "Notary's format has no hash bins", hint="leave --bins or --dialect notary out"
            )
        if keys and not bins:
            raise UsageError("keys are given for bins, but no bins", hint="give --bins N, too")

    async def _online_key(self, role: str) -> Key:
        return await self._api.online_key(self._gun, role, self._dialect)

    async def _send(
        self, files: Sequence[UploadedFile], missing: Mapping[str, int]
    ) -> Offer | None:
        """Send the very same bytes until there's an answer: that does no harm."""
        retries = Retries()
        while True:
            retries.begin()
            try:
                if missing:
                    return await PendingApi(self._api).offer(self._gun, files)
                await self._api.upload(self._gun, files)
            except PublicationError as error:
                if await self._is_ours(files[0].data):
                    return None  # it arrived before, and was built upon since
                await self._give_up()
                if isinstance(error, ConflictError):
                    raise self._exists() from error
                raise
            except TransportError as error:
                if _is_refusal(error):
                    if self._is_fresh:
                        await self._give_up()
                    raise
                self._is_fresh = False  # from now on the server may have it
                await retries.pause(error, is_fault=True)
            else:
                return None

    async def _is_ours(self, root: bytes) -> bool:
        name, limit = self._dialect.file_name("root", 1), Limits().root_bytes
        try:
            return await self._api.metadata(self._gun, name, max_bytes=limit) == root
        except NotFoundError:
            return False

    async def _give_up(self) -> None:
        """Leave nothing behind, but a key only if surely no server holds what it signed."""
        await asyncio.to_thread(self._pending.drop)
        if self._is_fresh:
            await asyncio.to_thread(self._unmake)

    def _prepare(
        self,
        named: Mapping[str, Sequence[str]],
        thresholds: Mapping[str, int],
        online: Mapping[str, Sequence[Key]],
        bins: int,
    ) -> list[UploadedFile]:
        """Make keys and files, and keep the files until the server has them."""
        roles = ["root", "targets", *({"snapshot"} - online.keys())]
        found = {role: self._choose(role, named.get(role, ())) for role in roles}
        for role, infos in found.items():
            threshold, count = thresholds.get(role, 1), len(infos) or 1
            if not 1 <= threshold <= count:
                raise UsageError(
                    f"{role} of {self._gun} has threshold {threshold} with {count} "
                    f"key{'' if count == 1 else 's'}",
                    hint=f"name more {role} keys, or lower the threshold",
                )
        try:
            named_keys = {role: found[role] or self._make(role) for role in roles}
            keys, holders = list_keys(
                named_keys, self._dialect, self._ring, self._gun, now=self._clock()
            )
            bins_keys = [
                self._dialect.adopt_key(self._ring.keystore.find(text).key)
                for text in named.get("bins", ())
            ]
            files = first_files(
                self._dialect,
                Plan({**keys, **online}, thresholds, holders, bins, bins_keys),
                self._ring,
                expiries=self._expiries,
                now=self._clock(),
                local_snapshot="snapshot" not in online,
            )
            # Whatever the server answered, what is handed out is a root of these keys.
            self._verify_own(files, keys, online)
            self._pending.write(files)
        except BaseException:
            self._unmake()
            raise
        return files

    def _choose(self, role: str, named: Sequence[str]) -> list[NamedKey]:
        """Give the keys named, or those that fit; none if one has to be made."""
        keystore = self._ring.keystore
        if named:
            return [NamedKey.read(text, keystore) for text in named]
        shared = role == "root"  # one root key for all of a publisher's GUNs, as in Notary
        found = [
            info
            for info in keystore.list(role=role, gun=self._gun)
            if (shared or info.gun == self._gun) and self._fits(role, info)
        ]
        if shared and len(found) > 1:
            ids = ", ".join(info.keyid[:16] for info in found[:_SHOWN_KEYS])
            raise UsageError(
                f"{len(found)} root keys are here: {ids}",
                hint="name those that shall sign the root: --root-key-id KEY, once for each",
            )
        return [NamedKey(info.key, info) for info in found]

    def _fits(self, role: str, info: KeyInfo) -> bool:
        """Tell whether a key that nobody named can be taken: Notary's roots need a certificate."""
        return self._dialect is not NOTARY or role != "root" or info.keytype in CERTIFIABLE

    def _make(self, role: str) -> list[NamedKey]:
        passphrase = self._ring.passphrases.new(role)
        info = self._ring.keystore.generate(
            role,
            passphrase=passphrase,
            keytype="ecdsa" if self._dialect is NOTARY else "ed25519",
            gun=None if role == "root" else self._gun,
        )
        self._made.append(info)
        self._ring.passphrases.remember(info.keyid, passphrase)
        return [NamedKey(info.key, info)]

    def _unmake(self) -> None:
        while self._made:
            self._ring.keystore.delete(self._made.pop().keyid)

    def _verify_own(
        self,
        files: Sequence[UploadedFile],
        keys: Mapping[str, Sequence[Key]],
        online: Mapping[str, Sequence[Key]],
    ) -> None:
        """Refuse a root that isn't of these keys, or that the server would refuse."""
        gun, now = self._gun, self._clock()
        server_keys = OnlineKeys(online.get("snapshot", ()), online["timestamp"])
        proposal = _proposal(gun, self._dialect, files)
        if not proposal.missing(None):
            judge_publication(None, files, gun=gun, online=server_keys, now=now)
        elif "snapshot" in keys:
            raise UsageError(
                "a snapshot can't be signed here before the others signed what it names",
                hint="found it with --snapshot server; rotate the snapshot key later",
            )
        else:
            verify_fit(proposal, None, online=server_keys, now=now)
        root = cast("Root", proposal.root)
        for role, named in keys.items():
            listed = [root.keys[keyid] for keyid in root.roles[role].keyids]
            if {key_material(key) for key in listed} != {key_material(key) for key in named}:
                raise KeyStoreError(f"the root of {gun} doesn't hold the {role} keys it should")

    def _told(self, data: bytes) -> Initialized:
        parsed = self._dialect.parse("root", data, max_bytes=Limits().root_bytes)
        root = cast("Root", parsed.signed)
        return Initialized(
            self._gun,
            tuple(self._ring.infos(root.keys, root.roles["root"].keyids).values()),
            tuple(self._ring.infos(root.keys, root.roles["targets"].keyids).values()),
            data,
            tuple(self._made),
            fingerprints=tuple(root_fingerprints(root)),
        )

    def _exists(self) -> UsageError:
        return UsageError(
            f"{self._gun} exists on the server already",
            hint="sign in it, or ask its owner to add you as a signer; if its root keys are lost, "
            "the server's operator drops it first: server/README.md, Dropping a GUN",
        )


def _is_refusal(error: TransportError) -> bool:
    """Tell whether the sender is at fault, so that surely nothing was published."""
    if isinstance(error, ServerAnswerError):
        return error.status in _REFUSED and not may_pass(error)
    return isinstance(error, AccessDeniedError | NotFoundError)


def pin_root(cache: MetadataCache, root: bytes) -> None:
    """Trust the root just made, and nothing that was known of a GUN of that name before."""
    cache.drop("timestamp", "snapshot", "targets")
    for version in cache.root_versions():
        with contextlib.suppress(OSError):
            (cache.folder / "roots" / f"{version}.root.json").unlink()
    cache.save_root(1, root)


def _proposal(gun: Gun, dialect: Dialect, files: Sequence[UploadedFile]) -> Proposal:
    return Proposal.parse(gun, dialect, [item for item in files if item.role != "snapshot"])
