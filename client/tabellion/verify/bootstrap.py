"""The first root of a GUN: given as a file, found by a key, by a pin or anchors, or at first use.

A root once trusted is kept and comes first from then on; a pin given later must agree with it.
Where ``trust_pinning`` speaks of a GUN, every root of it has to meet that, however it was found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tabellion.core.anchors import AnchorJudge
from tabellion.core.dialect import NOTARY, TUF, dialect_of
from tabellion.core.fingerprints import is_signed_by, parse_fingerprint
from tabellion.core.limits import Limits
from tabellion.core.pinning import RootPin, TrustPinning
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    ConfigurationError,
    MalformedMetadataError,
    MetadataTooLargeError,
    NotFoundError,
    UntrustedRootError,
    VerificationError,
)
from tabellion.transport.absence import check_is_no_page, unknown_gun
from tabellion.verify.cache import MetadataCache

_HINT = "give the root file that the publisher handed out"
FetchRoot = Callable[[int | None], Awaitable[bytes]]


@dataclass(frozen=True)
class Pin:
    """How a caller wants the first root to be trusted.

    Attributes:
        root: The root file, or where it is.
        fingerprint: Id of a root key, or hex SHA-256 of its public bytes.
        first_use: Trust the server's first root if nothing is known yet.
        trust_pinning: What every root of certain GUNs has to meet.
    """

    root: bytes | Path | None = None
    fingerprint: str | None = None
    first_use: bool = False
    trust_pinning: TrustPinning = field(default_factory=TrustPinning)

    def __post_init__(self) -> None:
        """Refuse a fingerprint that can't be one.

        Raises:
            ConfigurationError: It isn't 64 hex digits.
        """
        if self.fingerprint is not None:
            parse_fingerprint(self.fingerprint)

    @property
    def name(self) -> str:
        """Say what was given, for error texts."""
        return f"root file {str(self.root)!r}" if isinstance(self.root, Path) else "the given root"

    def read(self) -> bytes | None:
        """Give the pinned root's bytes.

        Raises:
            ConfigurationError: The file can't be read.
        """
        if not isinstance(self.root, Path):
            return self.root
        try:
            return self.root.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"{self.name} can't be read: {str(error.strerror).lower()}",
                hint=_HINT,
            ) from error


class Bootstrap:
    """Finds the root to start an update of one GUN from.

    Attributes:
        root_pin: What every root of the GUN has to meet, or None.
    """

    def __init__(
        self,
        gun: str,
        url: str,
        pin: Pin,
        cache: MetadataCache,
        *,
        now: datetime,
        limits: Limits,
        judge: AnchorJudge | None = None,
    ) -> None:
        self._gun = gun
        self._url = url
        self._pin = pin
        self._cache = cache
        self._now = now
        self._limits = limits
        self._judge = judge
        self.root_pin = pin.trust_pinning.pin_for(gun)

    async def begin(self, fetch: FetchRoot) -> tuple[TrustedSet, str]:
        """Give a set that holds the root, and, in words, why it's trusted.

        Raises:
            UntrustedRootError: Nothing is pinned, or a pin disagrees with what is kept or served.
            UnknownGunError: The server holds no first root.
            ServerAnswerError: It isn't a trust server.
        """
        given = await asyncio.to_thread(self._pin.read)
        kept = await asyncio.to_thread(self._newest_kept)
        if kept is not None:
            agreed, how = await asyncio.to_thread(self._agreed, kept, given)
            return await asyncio.to_thread(self._pinned_kept, agreed), how
        if given is not None:
            found, how = await asyncio.to_thread(self._open_given, given), "root file"
        elif self._pin.fingerprint is not None:
            found, how = await self._by_fingerprint(fetch), "root key"
        elif self._judge is not None:  # first use is never enough then
            found, how = await self._by_anchors(fetch, self._judge), self._judge.name
        elif self.root_pin is not None:
            found, how = await self._by_root_pin(fetch, self.root_pin), "trust pinning"
        elif self._pin.trust_pinning.disable_tofu:
            raise UntrustedRootError(
                f"no root of {self._gun} is trusted yet, and trust_pinning disables first use",
                hint="pin its root key under trust_pinning.certs, or give --root or --root-key",
            )
        elif self._pin.first_use:
            first = await self._first(fetch)
            found, how = await asyncio.to_thread(self._open, first), "first use"
        else:
            raise UntrustedRootError(
                f"no root of {self._gun} is trusted yet",
                hint="give its root file (--root) or root key fingerprint (--root-key); of a "
                "Notary GUN, the Root Key that docker trust inspect shows will do",
            )
        found = await asyncio.to_thread(self._pinned, found)
        await asyncio.to_thread(self._cache.save_pin, how)
        return found, how

    def _pinned(self, found: TrustedSet) -> TrustedSet:
        """Give the set anew, held to the GUN's pin from here on."""
        if self.root_pin is None:
            return found
        return self._open(found.root.data, self.root_pin)

    def _pinned_kept(self, kept: TrustedSet) -> TrustedSet:
        try:
            return self._pinned(kept)
        except UntrustedRootError as error:
            raise UntrustedRootError(
                f"what is kept doesn't meet the pin: {error.message}",
                hint=f"if its key is right, add it to the pin; if the pin is, "
                f"remove {self._cache.folder} and verify again",
            ) from error

    def _newest_kept(self) -> TrustedSet | None:
        """Open the current root, or after damage the newest one kept that is whole."""
        candidates = [self._cache.load("root")]
        candidates += [self._cache.load_root(n) for n in reversed(self._cache.root_versions())]
        for data in candidates:
            try:
                if data is not None:
                    return self._open(data)
            except VerificationError:
                continue
        return None

    def _agreed(self, kept: TrustedSet, given: bytes | None) -> tuple[TrustedSet, str]:
        if given is not None:
            return self._agreed_file(kept, given)
        if self._pin.fingerprint is not None and not self._is_kept_signed():
            raise UntrustedRootError(
                f"no root kept for {self._gun} is signed by the pinned key",
                hint=f"if the pin is right, move on purpose: tabellion trust replace {self._gun} "
                f"(kept is {self._cache.folder})",
            )
        return kept, self._cache.load_pin() or "kept root"

    def _agreed_file(self, kept: TrustedSet, given: bytes) -> tuple[TrustedSet, str]:
        pinned = self._open_given(given)
        same_version = self._cache.load_root(pinned.root.version)
        if same_version is None:
            # Nothing kept says otherwise: the update walks on from the file.
            return pinned, "root file"
        if same_version != given and self._is_whole(same_version):
            raise UntrustedRootError(
                f"another root version {pinned.root.version} is kept for {self._gun}",
                hint=f"if the file is right, move on purpose: tabellion trust replace {self._gun} "
                f"(kept is {self._cache.folder})",
            )
        newest = kept if kept.root.version >= pinned.root.version else pinned
        return newest, "root file"

    def _is_whole(self, data: bytes) -> bool:
        try:
            self._open(data)
        except VerificationError:
            return False
        return True

    def _is_kept_signed(self) -> bool:
        for version in self._cache.root_versions():
            data = self._cache.load_root(version)
            try:
                if data is not None and self._is_pinned(self._open(data)):
                    return True
            except VerificationError:
                continue
        return False

    async def _by_fingerprint(self, fetch: FetchRoot) -> TrustedSet:
        found = await self._walk(await self._first(fetch), fetch, self._is_pinned)
        if found is None:
            raise UntrustedRootError(
                f"no root served for {self._gun} is signed by the pinned key "
                f"{str(self._pin.fingerprint)[:64]}"
            )
        return found

    async def _by_anchors(self, fetch: FetchRoot, judge: AnchorJudge) -> TrustedSet:
        """Find a root that the anchors allow; whether the newest is, the update judges."""
        return await self._walk_to(
            await self._first(fetch), fetch, lambda trusted: judge.verify_root(trusted.root)
        )

    async def _by_root_pin(self, fetch: FetchRoot, pin: RootPin) -> TrustedSet:
        """Find a root that the GUN's pin allows, as far as the way there goes.

        Of a Notary GUN that is the current one, as Notary has it: the way there may have begun with
        keys that nobody pins any more. One that was converted since is walked to its TUF roots.
        """
        first = await self._first(fetch)
        if dialect_of(first) is NOTARY:
            current = await self._current_root(fetch)
            if current is not None and dialect_of(current) is NOTARY:
                return await asyncio.to_thread(self._open, current, pin)
        return await self._walk_to(first, fetch, lambda _: None)

    async def _walk_to(
        self, first: bytes, fetch: FetchRoot, verify: Callable[[TrustedSet], None]
    ) -> TrustedSet:
        """Walk to a root that passes, and meets the GUN's pin if it has one."""
        refusals: list[UntrustedRootError] = []

        def is_allowed(trusted: TrustedSet) -> bool:
            try:
                verify(trusted)
                self._pinned(trusted)
            except UntrustedRootError as error:
                refusals.append(error)
                return False
            return True

        found = await self._walk(first, fetch, is_allowed)
        if found is None:
            raise refusals[-1]
        return found

    async def _walk(
        self, first: bytes, fetch: FetchRoot, is_wanted: Callable[[TrustedSet], bool]
    ) -> TrustedSet | None:
        """Walk the served roots, none of them trusted yet, to one that is wanted."""
        trusted = await asyncio.to_thread(self._open, first)
        for _ in range(self._limits.root_rotations):
            if await asyncio.to_thread(is_wanted, trusted):
                return trusted
            try:
                data = await fetch(trusted.root.version + 1)
            except NotFoundError:
                break
            await asyncio.to_thread(trusted.update_root, data)
        return None

    def _is_pinned(self, trusted: TrustedSet) -> bool:
        return is_signed_by(trusted.root, parse_fingerprint(str(self._pin.fingerprint)))

    async def _first(self, fetch: FetchRoot) -> bytes:
        try:
            return check_is_no_page(self._url, await fetch(1))
        except NotFoundError as error:
            data = await self._oldest_notary_root(fetch)
            if data is None:
                raise unknown_gun(self._gun, self._url, error) from error
            return data

    async def _oldest_notary_root(self, fetch: FetchRoot) -> bytes | None:
        """Give a root of a Notary GUN to start from: its first may be version 2, or be lost.

        Of one that was converted since, it's the second, or the TUF root that followed a lost one.
        """
        data = await self._current_root(fetch)
        if data is None or dialect_of(data) is NOTARY:
            return data
        try:
            newest = TUF.parse("root", data, max_bytes=self._limits.root_bytes)
        except VerificationError:
            return None
        for version in range(2, min(newest.version, self._limits.root_rotations) + 1):
            try:
                return await fetch(version)
            except NotFoundError:
                continue
        return None

    async def _current_root(self, fetch: FetchRoot) -> bytes | None:
        """Give what the server shows as its current root, None if that's no root of either kind."""
        try:
            data = await fetch(None)
            dialect_of(data)
        except (NotFoundError, VerificationError):
            return None
        return data

    def _open_given(self, data: bytes) -> TrustedSet:
        try:
            return self._open(data)
        except (MalformedMetadataError, MetadataTooLargeError) as error:
            raise ConfigurationError(
                f"{self._pin.name} isn't a TUF root: {error.message}", hint=_HINT
            ) from error

    def _open(self, data: bytes, pin: RootPin | None = None) -> TrustedSet:
        return TrustedSet(data, now=self._now, gun=self._gun, limits=self._limits, pin=pin)
