"""Why a GUN's root may be trusted: what is given now, what is pinned, what anchors allow.

The one place that every reading of a GUN goes through, before any of its files is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tabellion.core.anchors import Anchor, AnchorJudge
from tabellion.core.fingerprints import is_signed_by, parse_fingerprint
from tabellion.core.names import Gun
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import NotFoundError, UntrustedRootError, VerificationError
from tabellion.verify.bootstrap import Pin
from tabellion.verify.trust_store import AnchorSource, TrustStore

ReadAnchor = Callable[[AnchorSource, Gun], Awaitable[Anchor | None]]


@dataclass(frozen=True)
class Why:
    """A GUN that was read, and why its root is trusted.

    Attributes:
        trusted: All of it that can be trusted.
        pinned: How the root came to be trusted, in words.
        anchors: Collection and entry, of all that speak for it.
    """

    trusted: TrustedSet
    pinned: str
    anchors: tuple[tuple[str, Anchor], ...]


@dataclass(frozen=True)
class Ground:
    """What a GUN's root has to meet.

    Attributes:
        pin: The first root.
        judge: Every root that is relied on, where anchors speak for the GUN.
    """

    pin: Pin
    judge: AnchorJudge | None = None

    def in_words(self, how: str) -> str:
        """Say why a root that passed is trusted, from how the first one came to be."""
        if self.judge is None or how == self.judge.name:
            return how
        return f"{how}; {self.judge.name}"


class Grounds:
    """Finds the ground of each GUN; a decision of somebody else at this home counts at once."""

    def __init__(
        self, home: Path, given: Pin, read_anchor: ReadAnchor, clock: Callable[[], datetime]
    ) -> None:
        self._store = TrustStore(home)
        self._given = given
        self._read_anchor = read_anchor
        self._clock = clock

    async def of(self, gun: Gun) -> Ground:
        """Give a GUN's ground, as of now.

        Raises:
            UntrustedRootError: Anchors that cover it have no entry for it or can't be trusted, or
                what is given disagrees with what is pinned.
            TransportError: The anchors can't be had.
            CacheError: What is pinned can't be read.
        """
        pin, sources = await asyncio.to_thread(self._decided, gun)
        # A collection is trusted by its own root alone, whoever else speaks for everything.
        if any(source.gun == gun for source in sources):
            return Ground(pin)
        covering = [source for source in sources if source.covers(gun)]
        if not covering:
            return Ground(pin)
        found = [(source.gun, await self._anchor(source, gun)) for source in covering]
        anchors = tuple((name, anchor) for name, anchor in found if anchor is not None)
        if not anchors:
            names = ", ".join(source.gun for source in covering)
            raise UntrustedRootError(
                f"anchors {names} allow no root of {gun}",
                hint="those who sign them add it: tabellion anchors set; or see what they may "
                "speak for: tabellion trust list",
            )
        return Ground(pin, AnchorJudge(gun, self._clock(), anchors))

    def is_pinned(self, gun: Gun) -> bool:
        """Tell whether somebody at this home decided how to trust a GUN; it blocks."""
        own = any(source.gun == gun for source in self._store.collections())
        return own or self._store.is_pinned(gun)

    def _decided(self, gun: Gun) -> tuple[Pin, tuple[AnchorSource, ...]]:
        sources = self._store.collections()
        own = next((source for source in sources if source.gun == gun), None)
        if own is not None:
            return _agreed(gun, own.root, None, self._given), sources
        stored = self._store.pin(gun)
        if stored is None:
            return self._given, sources
        return _agreed(gun, stored.root, stored.root_key, self._given), sources

    async def _anchor(self, source: AnchorSource, gun: Gun) -> Anchor | None:
        try:
            return await self._read_anchor(source, gun)
        except (VerificationError, NotFoundError) as error:
            # In its own words it would read as if the GUN's own files were at fault.
            raise UntrustedRootError(
                f"anchors {source.gun} at {source.server}, which speak for {gun}, can't be relied "
                f"upon: {error.message}",
                hint=error.hint,
            ) from error


def _agreed(gun: Gun, root: bytes | None, root_key: str | None, given: Pin) -> Pin:
    """Give the stored pin; what is given now may repeat it, never replace it.

    Raises:
        UntrustedRootError: It says otherwise.
    """
    stored = replace(given, root=root, fingerprint=root_key)
    said, key = given.read(), given.fingerprint
    if said is None and key is None:
        return stored
    if said is not None:
        agrees = said == root if root is not None else _is_signed(gun, said, root_key)
        stored = stored if root is not None else replace(given, root=said)
    elif root is not None:
        agrees = _is_signed(gun, root, key)
    else:
        agrees = parse_fingerprint(str(key)) == root_key
    if not agrees:
        raise UntrustedRootError(
            f"{gun} is pinned to something else than what is given now",
            hint=f"see: tabellion trust show {gun}; to move on purpose: tabellion trust replace",
        )
    return stored


def _is_signed(gun: Gun, root: bytes, key: str | None) -> bool:
    # Signatures don't depend on the moment.
    trusted = TrustedSet(root, now=datetime.min.replace(tzinfo=UTC), gun=gun)
    return is_signed_by(trusted.root, parse_fingerprint(str(key)))
