"""The verifier: from an image reference to a digest that may be used, or an error.

::

    async with TrustClient("https://trust.example", home=home, root_fingerprint="3f1c...") as trust:
        image = await trust.verify("registry.example/team/app:1.2")
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import quote

from tabellion.core.anchors import Anchor, find_anchor
from tabellion.core.freshness import verify_fresh
from tabellion.core.limits import Limits
from tabellion.core.names import Gun, parse_gun, parse_reference
from tabellion.core.pinning import TrustPinning
from tabellion.core.role_requests import TargetMatch
from tabellion.core.search import BinChoice, find_all, signers_of, walk_roles
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    ConfigurationError,
    DigestMismatchError,
    MixAndMatchError,
    NotFoundError,
    ServerAnswerError,
    TabellionError,
    ThresholdError,
    TransferError,
    TransportError,
    UnreachableError,
)
from tabellion.transport.addresses import server_url_fault
from tabellion.transport.fetcher import Fetcher, HttpFetcher
from tabellion.transport.mirrors import MirroredFetcher
from tabellion.verify.bootstrap import Bootstrap, Pin
from tabellion.verify.cache import MetadataCache, RootsAndTargets
from tabellion.verify.grounds import Grounds, Why
from tabellion.verify.image import (
    VerifiedImage,
    child_length,
    describe,
    platform_digest,
    signed_digest,
)
from tabellion.verify.trust_store import AnchorSource
from tabellion.verify.updater import Updater
from tabellion.verify.view import View, find_path, find_reference

ANCHORS_MAX_AGE: Final = timedelta(seconds=60)
"""How long a client goes by anchors that it has read: what a revocation may take to be heard."""


@dataclass(frozen=True)
class Listing:
    """All that is signed in a GUN.

    Attributes:
        targets: Each target as a search would resolve it, sorted by path.
        left_out: Why delegated roles couldn't be had or trusted; what they speak for is missing.
    """

    targets: tuple[TargetMatch, ...]
    left_out: tuple[TabellionError, ...] = ()

    def __iter__(self) -> Iterator[TargetMatch]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)


class TrustClient:
    """Verifies references against one trust server; safe for concurrent use in one loop."""

    def __init__(
        self,
        server: str,
        *,
        home: Path,
        ca: Path | None = None,
        root: bytes | Path | None = None,
        root_fingerprint: str | None = None,
        first_use: bool = False,
        offline: Literal["deny", "last-known"] = "deny",
        limits: Limits | None = None,
        clock: Callable[[], datetime] | None = None,
        fetcher: Fetcher | None = None,
        mirrors: Sequence[str] = (),
        trust_pinning: TrustPinning | None = None,
    ) -> None:
        """Take what verifying needs; nothing is read or sent yet.

        Args:
            server: Base URL, without ``/v2``.
            home: Folder of trusted metadata, shared by any number of processes.
            ca: Extra CA certificates.
            root: Root file to start from, or its bytes.
            root_fingerprint: Id, or hex SHA-256 of the public bytes, of a root key.
            first_use: Trust whatever root the server shows first.
            offline: Whether a server that can't be reached may be done without, as long as its
                last timestamp isn't expired.
            limits: Bounds on sizes and counts.
            clock: Gives the current moment, aware.
            fetcher: Gets the files; HTTP by default. The caller closes its own.
            mirrors: Base URLs to ask, in turn, for what the server can't give.
            trust_pinning: What every root of certain GUNs has to meet, and whether first use may
                be enough; ``load_notary_pinning`` reads it from Notary's configuration.

        Raises:
            ConfigurationError: The server isn't an http(s) URL, or the CA file can't be used.
        """
        fault = server_url_fault(server)
        if fault is not None:
            raise ConfigurationError(fault[0], hint=fault[1])
        if offline not in {"deny", "last-known"}:
            raise ConfigurationError(
                f"offline is {offline!r:.40}", hint="give 'deny' or 'last-known'"
            )
        self._server = server.rstrip("/")
        self._home = Path(home)
        self._pin = Pin(root, root_fingerprint, first_use, trust_pinning or TrustPinning())
        self._may_be_offline = offline == "last-known"
        self._limits = limits or Limits()
        self._clock = clock or (lambda: datetime.now(UTC))
        self._own_fetcher = HttpFetcher(ca=ca) if fetcher is None else None
        self._plain_fetcher: Fetcher = fetcher or self._own_fetcher or HttpFetcher(ca=ca)
        self._fetcher = self._plain_fetcher
        if mirrors:
            self._fetcher = MirroredFetcher(self._plain_fetcher, self._server, mirrors)
        self._grounds = Grounds(self._home, self._pin, self._read_anchor, self._clock)
        self._neighbours: dict[str, TrustClient] = {}  # by server: they read anchors
        self._ordinals = itertools.count(1)
        self._last_ordinal = 0
        self._locks: dict[Gun, asyncio.Lock] = {}
        self._views: dict[Gun, View] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._own_fetcher is not None:
            await self._own_fetcher.close()

    async def verify(self, reference: str, platform: str | None = None) -> VerifiedImage:
        """Verify an image reference, by tag or by digest.

        Args:
            reference: As docker takes it, such as ``registry.example/team/app:1.2``.
            platform: ``os/arch``: give the digest of that platform's manifest.

        Raises:
            NotSignedError: Nobody who may has signed it.
            DigestMismatchError: The tag is signed with another digest than the one given.
            VerificationError: What the server shows must not be trusted.
            TransportError: The server couldn't be asked.
            InvalidNameError: It's no image reference.
        """
        parsed = parse_reference(reference)
        gun = parse_gun(parsed.gun)
        async with self._updated(gun) as view:
            match = await find_reference(view, parsed)
            signers = await view.search(signers_of(view.trusted, match))
        if platform is not None:
            digest, length = platform_digest(match.target, match.path, platform)
            if parsed.digest not in {None, _own_digest(match), digest}:
                raise DigestMismatchError(
                    f"{parsed.digest} isn't signed for {platform[:40]}, {digest} is"
                )
        elif parsed.digest is not None:
            digest, length = parsed.digest, child_length(match.target, parsed.digest)
        else:
            digest, length = signed_digest(match.target, match.path), match.target.length
        return describe(
            view.trusted,
            match,
            signers=signers,
            reference=parsed,
            gun=gun,
            digest=digest,
            length=length,
            offline=view.offline,
            pinned=view.pinned,
        )

    async def verify_target(self, gun: str, path: str) -> VerifiedImage:
        """Verify plain data by its exact names; raises as ``verify`` does."""
        name = parse_gun(gun)
        async with self._updated(name) as view:
            match = await find_path(view, name, path, released=False)
        return describe(
            view.trusted,
            match,
            signers=[match.role],
            reference=None,
            gun=name,
            digest=signed_digest(match.target, path),
            length=match.target.length,
            offline=view.offline,
            pinned=view.pinned,
        )

    async def target(self, gun: str, path: str) -> TargetMatch:
        """Give who signed what under a path; raises as ``verify`` does."""
        name = parse_gun(gun)
        async with self._updated(name) as view:
            return await find_path(view, name, path, released=False)

    async def targets(self, gun: str, *, released: bool = True) -> Listing:
        """List all signed targets, each as a search would resolve it, sorted by path.

        Args:
            gun: The GUN.
            released: In a Notary GUN, only what docker takes for released, as ``verify`` does;
                otherwise what any role may sign, as ``verify_target`` does.
        """
        async with self._updated(parse_gun(gun)) as view:
            matches = await view.search(find_all(view.trusted, released=released))
            return Listing(tuple(matches), tuple(view.trusted.unusable.values()))

    async def refresh(
        self,
        gun: str,
        *,
        as_of: datetime | None = None,
        bins: BinChoice | None = None,
        forgets: bool = False,
    ) -> TrustedSet:
        """Update a GUN and give all of it that can be trusted.

        With ``as_of``, expiry is judged at that moment instead of now: for an owner who comes to
        follow an expired root by a new one, never to decide whether something may be used. With
        ``forgets``, timestamps and snapshots seen before don't count, and stay as they are kept:
        for an owner who comes to give both roles other keys, which makes every reader forget them.
        ``bins`` chooses the hash bins to read, by default all.

        A delegated role whose file is missing or must not be trusted is left out; the set's
        ``unusable`` tells why.
        """
        name = parse_gun(gun)
        async with self._updated(name, as_of, forgets=forgets) as view:
            await view.search(walk_roles(view.trusted, bins=bins))
            # Whoever gets the set may change it; the next verification reads anew.
            self._views.pop(name, None)
            return view.trusted

    async def anchor(self, collection: str, gun: str) -> Anchor | None:
        """Give the entry of an anchor collection that speaks for a GUN.

        A collection that was read within the last minute, and didn't expire since, is taken as it
        was then.

        Raises:
            VerificationError: The collection must not be trusted, or the entry can't be read.
            TransportError: It can't be had.
        """
        name, now = parse_gun(collection), self._clock()
        async with self._updated(name, max_age=ANCHORS_MAX_AGE) as view:
            found = await view.search(find_anchor(view.trusted, parse_gun(gun)))
        if found is None:
            return None
        anchor, match = found
        verify_fresh(match.role.role, match.role.signed, now)
        return anchor

    async def why(self, gun: str) -> Why:
        """Update a GUN and tell why its root is trusted."""
        name = parse_gun(gun)
        async with self._updated(name) as view:
            self._views.pop(name, None)
            return Why(view.trusted, view.pinned, view.anchors)

    async def is_known(self, gun: str) -> bool:
        """Tell whether a root of a GUN is kept, pinned or given, whatever the server says."""
        name = parse_gun(gun)

        def is_known() -> bool:
            kept = MetadataCache.of(self._home, name).root_versions()
            return bool(kept) or self._pin.root is not None or self._grounds.is_pinned(name)

        return await asyncio.to_thread(is_known)

    def cache(self, gun: str) -> MetadataCache:
        """Give the cache of a GUN, to pin a root in it."""
        return MetadataCache.of(self._home, parse_gun(gun))

    @contextlib.asynccontextmanager
    async def _updated(
        self,
        gun: Gun,
        as_of: datetime | None = None,
        *,
        max_age: timedelta = timedelta(0),
        forgets: bool = False,
    ) -> AsyncIterator[View]:
        """Hold a GUN, read no earlier than this call, or than ``max_age`` before."""
        asked = self._last_ordinal
        async with self._locks.setdefault(gun, asyncio.Lock()):
            cache = MetadataCache.of(self._home, gun)
            async with cache.locked():
                view = self._views.get(gun)
                is_new = view is not None and (
                    view.began > asked or view.is_recent(self._clock(), max_age)
                )
                is_special = forgets or as_of is not None
                if view is None or not is_new or is_special:
                    self._views.pop(gun, None)
                    self._last_ordinal = next(self._ordinals)
                    now = as_of or self._clock()
                    seen = RootsAndTargets(cache.folder) if forgets else cache
                    view = await self._update_whole(gun, seen, self._last_ordinal, now)
                    if not is_special:  # nobody else may take what was judged in another way
                        self._views[gun] = view
                yield view

    async def _update_whole(
        self, gun: Gun, cache: MetadataCache, ordinal: int, now: datetime
    ) -> View:
        try:
            return await self._update(gun, cache, ordinal, now)
        except (MixAndMatchError, ThresholdError, NotFoundError):
            # A publication may have come between two requests; once more sees it whole.
            return await self._update(gun, cache, ordinal, now)

    async def _update(self, gun: Gun, cache: MetadataCache, ordinal: int, now: datetime) -> View:
        base_url = f"{self._server}/v2/{quote(gun, safe='/:@')}/_trust/tuf"
        ground = await self._grounds.of(gun)
        bootstrap = Bootstrap(
            gun, base_url, ground.pin, cache, now=now, limits=self._limits, judge=ground.judge
        )
        updater = Updater(
            base_url,
            gun=gun,
            fetcher=self._fetcher,
            cache=cache,
            now=now,
            limits=self._limits,
            pin=bootstrap.root_pin,
            judge=ground.judge,
        )

        async def fetch_root(version: int | None) -> bytes:
            name = "root.json" if version is None else f"{version}.root.json"
            return await self._fetcher.fetch(
                f"{base_url}/{name}", max_bytes=self._limits.root_bytes
            )

        trusted, pinned = await bootstrap.begin(fetch_root)
        pinned = ground.in_words(pinned)
        anchors = ground.judge.anchors if ground.judge is not None else ()
        try:
            await updater.update_roots(trusted)
            await updater.update_online(trusted)
        except (UnreachableError, TransferError, ServerAnswerError) as error:
            if not self._may_be_offline:
                raise
            trusted = await _last_known(updater, trusted.root.data, error)
            is_offline = True
        else:
            is_offline = False
        return View(trusted, updater, is_offline, pinned, ordinal, anchors)

    async def _read_anchor(self, source: AnchorSource, gun: Gun) -> Anchor | None:
        """Read a collection by its own pin: what was given here is about the GUN that is asked."""
        client = self._neighbours.get(source.server) or self._neighbour(source.server)
        self._neighbours[source.server] = client
        return await client.anchor(source.gun, gun)

    def _neighbour(self, server: str) -> TrustClient:
        return TrustClient(
            server,
            home=self._home,
            offline="last-known" if self._may_be_offline else "deny",
            limits=self._limits,
            clock=self._clock,
            trust_pinning=self._pin.trust_pinning,
            # The mirrors are of this server.
            fetcher=self._fetcher if server == self._server else self._plain_fetcher,
        )


async def _last_known(updater: Updater, root: bytes, reason: TransportError) -> TrustedSet:
    """Read the cache alone; if it isn't whole, the server's silence is what is wrong."""
    trusted = await updater.start(root)
    try:
        await updater.update_roots(trusted, offline=True)
        await updater.load_known(trusted)
    except NotFoundError:
        raise reason from None
    return trusted


def _own_digest(match: TargetMatch) -> object:
    return signed_digest(match.target, match.path)
