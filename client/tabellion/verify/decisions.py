"""Deciding what to trust: pinning a GUN, moving its pin on purpose, forgetting it.

A decision is checked against what is pinned and kept already; only ``replace_root`` goes against
that. Each is written down in the home's ``pins/log``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Root

from tabellion.core.fingerprints import is_signed_by, parse_fingerprint, root_key_fingerprints
from tabellion.core.gun_patterns import GunPattern
from tabellion.core.metadata import TrustedMetadata
from tabellion.core.names import Gun
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import ConfigurationError, UntrustedRootError, VerificationError
from tabellion.verify.cache import MetadataCache
from tabellion.verify.trust_store import AnchorSource, StoredPin, TrustStore


@dataclass(frozen=True)
class RootInWords:
    """What a person compares of a root.

    Attributes:
        version: Its version.
        threshold: Signatures needed.
        fingerprints: Of its root keys, as ``tabellion init`` prints them.
        expires_at: Its expiry, UTC.
        dialect: ``tuf`` or ``notary``.
    """

    version: int
    threshold: int
    fingerprints: tuple[str, ...]
    expires_at: datetime
    dialect: str

    @classmethod
    def of(cls, trusted: TrustedSet) -> RootInWords:
        """Describe a set's root."""
        root = trusted.root
        return cls(
            root.version,
            root.signed.roles["root"].threshold,
            tuple(root_key_fingerprints(root.signed)),
            root.expires_at,
            trusted.dialect.name,
        )


@dataclass(frozen=True)
class Replacement:
    """A root that is to take the place of another, not done yet.

    Attributes:
        gun: The GUN.
        old: The root trusted now, or None if nothing of it can be read.
        old_key: The root key pinned now, or None.
        new: The new root.
        signed: The new root, with who signed it.
        is_going_back: It was trusted before, and followed by the one trusted now.
    """

    gun: Gun
    old: RootInWords | None
    old_key: str | None
    new: RootInWords
    signed: TrustedMetadata[Root]
    is_going_back: bool

    def verify_proof(self, fingerprint: str) -> None:
        """Refuse a fingerprint that isn't of a key which signed the new root.

        Raises:
            ConfigurationError: It's no fingerprint.
            UntrustedRootError: No such key signed it.
        """
        if not is_signed_by(self.signed, parse_fingerprint(fingerprint)):
            raise UntrustedRootError(
                f"no key of fingerprint {fingerprint[:80]} signed the new root",
                hint="don't use the file; ask its owner for both anew",
            )


class Decisions:
    """The decisions of one home folder."""

    def __init__(self, home: Path, clock: Callable[[], datetime]) -> None:
        self._home = home
        self._store = TrustStore(home)
        self._clock = clock

    def pin_root(self, gun: Gun, data: bytes) -> RootInWords:
        """Pin a GUN to a root file.

        Raises:
            ConfigurationError: It isn't a root, or the GUN is an anchor collection.
            UntrustedRootError: Another root of it is trusted already.
        """
        trusted = self._open(gun, data)
        self._verify_no_collection(gun)
        self._verify_kept(gun, trusted)
        self._save_first(StoredPin(gun, data, None, self._clock()))
        return RootInWords.of(trusted)

    def pin_root_key(self, gun: Gun, fingerprint: str) -> str:
        """Pin a GUN to a root key; gives the fingerprint in its usual form.

        Raises:
            ConfigurationError: It's no fingerprint, or the GUN is an anchor collection.
            UntrustedRootError: What is trusted of it already isn't signed by that key.
        """
        wanted = parse_fingerprint(fingerprint)
        self._verify_no_collection(gun)
        kept = list(self._kept(gun))
        if kept and not any(is_signed_by(root.root, wanted) for root in kept):
            raise _otherwise(gun, "no root of it that is kept here is signed by that key")
        self._save_first(StoredPin(gun, None, wanted, self._clock()))
        return wanted

    def collection(self, gun: Gun) -> AnchorSource | None:
        """Give an anchor collection that is trusted, None if that GUN is none."""
        return self._collection(gun)

    def add_collection(
        self, gun: Gun, server: str, data: bytes, patterns: Sequence[GunPattern]
    ) -> RootInWords:
        """Trust an anchor collection; one trusted already gets this server and these patterns.

        Raises:
            ConfigurationError: It isn't a root.
            UntrustedRootError: Another root of it is trusted already.
        """
        trusted = self.verify_addable(gun, data)
        made = AnchorSource(gun, server, data, tuple(patterns), self._clock())
        self._store.save_collection(made, how="add anchors")
        return RootInWords.of(trusted)

    def verify_addable(self, gun: Gun, data: bytes) -> TrustedSet:
        """Refuse a collection's root that isn't one, or isn't the one that is trusted; open it."""
        trusted = self._open(gun, data)
        self._verify_kept(gun, trusted)
        stored, held = self._store.pin(gun), self._collection(gun)
        others = [stored.root if stored else None, held.root if held else None]
        if any(root not in {None, data} for root in others):
            raise _otherwise(gun, "another root of it is pinned")
        return trusted

    def prepare_replacement(self, gun: Gun, data: bytes) -> Replacement:
        """Look at what would be replaced by what; nothing changes.

        Raises:
            ConfigurationError: It isn't a root, or nothing is trusted that it could replace.
        """
        trusted = self._open(gun, data)
        stored, held = self._store.pin(gun), self._collection(gun)
        roots = self._kept(gun)
        kept = max(roots, key=lambda root: root.root.version, default=None)
        pinned = held.root if held is not None else stored.root if stored is not None else None
        if kept is None and pinned is not None:
            kept = self._open(gun, pinned)
        if kept is None and stored is None:
            raise ConfigurationError(
                f"nothing of {gun} is trusted here that could be replaced",
                hint=f"tabellion trust add {gun} --root FILE",
            )
        return Replacement(
            gun,
            RootInWords.of(kept) if kept is not None else None,
            stored.root_key if stored is not None else None,
            RootInWords.of(trusted),
            trusted.root,
            kept is not None
            and kept.root.version > trusted.root.version
            and any(root.root.data == data for root in roots),
        )

    async def replace_root(self, wanted: Replacement, *, proof: str) -> None:
        """Trust another root instead, and forget all that was trusted of the GUN.

        Killed in between, the old cache disagrees with the new pin: nothing passes until it's
        done again.

        Args:
            wanted: What was shown to whoever decides.
            proof: Why it may be, for the log.
        """
        cache = MetadataCache.of(self._home, wanted.gun)
        async with cache.locked():
            await asyncio.to_thread(self._save_replacement, wanted, f"replace, {proof}")
            await asyncio.to_thread(cache.forget)

    async def forget(self, gun: Gun) -> bool:
        """Forget a GUN, pin and all that is kept of it; tells whether there was anything."""
        await asyncio.to_thread(self._verify_no_collection, gun)
        cache = MetadataCache.of(self._home, gun)

        def forget() -> bool:
            was = self._store.is_pinned(gun) or bool(cache.root_versions())
            self._store.remove_pin(gun)
            cache.forget()
            return was

        async with cache.locked():
            return await asyncio.to_thread(forget)

    async def forget_collection(self, gun: Gun) -> list[str]:
        """Trust a collection no longer, nor what is trusted for its sake alone.

        Returns:
            Folders of the GUNs that were first trusted by it, and are forgotten.

        Raises:
            ConfigurationError: There's no such collection.
        """
        if await asyncio.to_thread(self._collection, gun) is None:
            raise ConfigurationError(
                f"{gun} is no anchor collection that is trusted here",
                hint="see: tabellion trust list",
            )
        forgotten: list[str] = []
        for cache in await asyncio.to_thread(MetadataCache.all_of, self._home):
            async with cache.locked():
                if gun in anchors_named(await asyncio.to_thread(cache.load_pin)):
                    await asyncio.to_thread(cache.forget)
                    forgotten.append(cache.folder.name)
        cache = MetadataCache.of(self._home, gun)
        async with cache.locked():
            await asyncio.to_thread(self._store.remove_collection, gun)
            await asyncio.to_thread(cache.forget)
        return sorted(forgotten)

    def _save_replacement(self, wanted: Replacement, how: str) -> None:
        held = self._collection(wanted.gun)
        if held is not None:
            made = replace(held, root=wanted.signed.data, at=self._clock())
            self._store.save_collection(made, how=how)
        else:
            made_pin = StoredPin(wanted.gun, wanted.signed.data, None, self._clock())
            self._store.save_pin(made_pin, how=how)

    def _save_first(self, pin: StoredPin) -> None:
        stored = self._store.pin(pin.gun)
        if stored is not None and (stored.root, stored.root_key) != (pin.root, pin.root_key):
            raise _otherwise(pin.gun, f"it's pinned by another {stored.what}")
        if stored is None:
            self._store.save_pin(pin, how="add")

    def _verify_no_collection(self, gun: Gun) -> None:
        if self._collection(gun) is not None:
            raise ConfigurationError(
                f"{gun} is an anchor collection, trusted by its own root",
                hint="add or remove it with --anchors",
            )

    def _verify_kept(self, gun: Gun, trusted: TrustedSet) -> None:
        for kept in self._kept(gun):
            if kept.root.version == trusted.root.version and kept.root.data != trusted.root.data:
                raise _otherwise(gun, f"another root version {kept.root.version} is kept here")

    def _kept(self, gun: Gun) -> list[TrustedSet]:
        """Open the kept roots that are whole."""
        cache = MetadataCache.of(self._home, gun)
        found: list[TrustedSet] = []
        for data in map(cache.load_root, cache.root_versions()):
            try:
                if data is not None:
                    found.append(TrustedSet(data, now=self._clock(), gun=gun))
            except VerificationError:
                continue
        return found

    def _collection(self, gun: Gun) -> AnchorSource | None:
        return next((item for item in self._store.collections() if item.gun == gun), None)

    def _open(self, gun: Gun, data: bytes) -> TrustedSet:
        try:
            return TrustedSet(data, now=self._clock(), gun=gun)
        except VerificationError as error:
            raise ConfigurationError(
                f"the file isn't a root of {gun}: {error.message}",
                hint="give the root file that the publisher handed out",
            ) from error


def anchors_named(how: str | None) -> list[str]:
    """List the collections that a root was first trusted by, from the note of it."""
    kind, _, names = (how or "").partition(" ")
    return names.split(", ") if kind == "anchors" else []


def _otherwise(gun: Gun, what: str) -> UntrustedRootError:
    return UntrustedRootError(
        f"{gun} is trusted otherwise already: {what}",
        hint=f"to move on purpose: tabellion trust replace {gun} --root FILE",
    )
