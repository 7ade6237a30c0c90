"""The verifier: an image reference in, a verified digest out, or an error.

::

    async with TrustClient("https://trust.example", home=home) as trust:
        image = await trust.verify("registry.example/app:1.2")
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

from tuf.api.metadata import Root

from tabellion.core.limits import Limits
from tabellion.core.names import Digest, Gun, Reference, parse_gun, parse_reference
from tabellion.core.roles import key_material
from tabellion.core.search import (
    RoleRequest,
    TargetMatch,
    find_all,
    find_digest,
    find_target,
    index_manifests,
    names_digest,
)
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    DigestMismatchError,
    InvalidNameError,
    MixAndMatchError,
    NotFoundError,
    NotSignedError,
    ServerAnswerError,
    ThresholdError,
    TransferError,
    UnknownGunError,
    UnreachableError,
    UntrustedRootError,
)
from tabellion.transport.fetcher import Fetcher, HttpFetcher
from tabellion.verify.cache import MetadataCache
from tabellion.verify.updater import Updater

T = TypeVar("T")
Offline = Literal["deny", "last-known"]


@dataclass(frozen=True)
class Signer:
    """A role that vouches for an image, and the key ids whose signatures count."""

    role: str
    keyids: tuple[str, ...]


@dataclass(frozen=True)
class VerifiedImage:
    """What a verification found out; the digest may be used.

    Attributes:
        reference: What was asked, normalized; None for plain data.
        gun: The collection.
        target: Target path; for an image, its tag.
        digest: The signed digest (of the platform's manifest, if one was asked for).
        length: Length of what the digest names, in bytes.
        custom: The signed custom data.
        signers: Who signed.
        versions: Role to version of the metadata relied on.
        expires: Role to expiry of the metadata relied on.
        offline: The server didn't answer; this is the last known state, not yet expired.
    """

    reference: Reference | None
    gun: Gun
    target: str
    digest: Digest
    length: int
    custom: Mapping[str, Any]
    signers: tuple[Signer, ...]
    versions: Mapping[str, int]
    expires: Mapping[str, datetime]
    offline: bool = False

    @property
    def pinned(self) -> str:
        """Give ``name@sha256:...``, which only ever means the verified bytes."""
        if self.reference is None:
            return str(self.digest)
        return self.reference.with_digest(self.digest)


@dataclass
class _View:
    """One refreshed GUN, with what loads further roles of it."""

    trusted: TrustedSet
    updater: Updater
    offline: bool = False

    async def search(self, search: Generator[RoleRequest, None, T]) -> T:
        return await self.updater.search(self.trusted, search, offline=self.offline)


@dataclass
class TrustClient:
    """Verifies references against a trust server.

    Many may share one home folder, in one process or in many. A GUN's first root comes from
    ``root``, from a server whose root is signed by ``root_fingerprint``, from the cache, or, only
    with ``first_use``, from the server on trust.

    Attributes:
        server: Base URL of the trust server.
        home: Tabellion's folder; the cache lies in ``trust/`` in it.
        ca: PEM file of extra CAs.
        root: A trusted root, as bytes or file.
        root_fingerprint: Key id, or hex SHA-256 of the key material, of a root key.
        first_use: Trust the server's first root if nothing is known of a GUN.
        offline: What to do without an answer: refuse, or use the last known state until its
            timestamp expires.
        limits: Size bounds.
        clock: Gives the moment of judgement.
        fetcher: Where metadata comes from; HTTP by default.
    """

    server: str
    home: Path
    ca: Path | None = None
    root: bytes | Path | None = None
    root_fingerprint: str | None = None
    first_use: bool = False
    offline: Offline = "deny"
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    fetcher: Fetcher | None = None
    _locks: defaultdict[str, asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock), init=False, repr=False
    )
    _own_fetcher: HttpFetcher | None = field(default=None, init=False, repr=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._own_fetcher is not None:
            await self._own_fetcher.close()

    async def verify(self, reference: str, *, platform: str | None = None) -> VerifiedImage:
        """Verify an image reference, by tag or by digest.

        Args:
            reference: Such as ``registry.example/app:1.2`` or ``app@sha256:...``.
            platform: Such as ``linux/arm64``: give the digest of this child of a signed index.

        Raises:
            NotSignedError: Nobody who may has signed it.
            DigestMismatchError: Tag and digest are given, and the tag is signed otherwise.
            VerificationError: The metadata must not be trusted.
            TransportError: No usable answer came, and the policy allows no other.
        """
        parsed = parse_reference(reference)
        gun = parsed.gun
        async with self._locked(gun) as cache:
            view = await self._refresh(gun, cache)
            if parsed.tag is not None:
                match = await view.search(find_target(view.trusted, parsed.tag))
                wanted = f"{parsed.name}:{parsed.tag}"
            else:
                match = await view.search(find_digest(view.trusted, _some(parsed.digest)))
                wanted = f"{parsed.name}@{parsed.digest}"
        if match is None:
            raise NotSignedError(f"{wanted} isn't signed by anyone who may sign for {gun}")
        digest, length = _signed_digest(match)
        if parsed.digest is not None:
            digest, length = _asked_digest(match, parsed, digest, length)
        if platform is not None:
            digest, length = _platform_digest(match, platform, wanted)
        return _image(view, match, digest, length, gun=gun, reference=parsed)

    async def verify_target(self, gun: str, path: str) -> VerifiedImage:
        """Verify plain data by GUN and target path; errors as for ``verify``."""
        name = parse_gun(gun)
        async with self._locked(name) as cache:
            view = await self._refresh(name, cache)
            match = await view.search(find_target(view.trusted, path))
        if match is None:
            raise NotSignedError(f"{path[:150]!r} isn't signed by anyone who may sign for {gun}")
        digest, length = _signed_digest(match)
        return _image(view, match, digest, length, gun=name, reference=None)

    async def target(self, gun: str, path: str) -> TargetMatch | None:
        """Give who signed what under a path, None if nobody did."""
        name = parse_gun(gun)
        async with self._locked(name) as cache:
            view = await self._refresh(name, cache)
            return await view.search(find_target(view.trusted, path))

    async def targets(self, gun: str) -> list[TargetMatch]:
        """Give all that is signed in a GUN, each path as it resolves, sorted."""
        name = parse_gun(gun)
        async with self._locked(name) as cache:
            view = await self._refresh(name, cache)
            return await view.search(find_all(view.trusted))

    async def refresh(self, gun: str) -> TrustedSet:
        """Give the verified current state of a GUN, top-level roles loaded.

        Raises:
            UnknownGunError: The server holds nothing for this GUN.
            UntrustedRootError: There's no trusted root to start from.
            VerificationError: The metadata must not be trusted.
            TransportError: No usable answer came.
        """
        name = parse_gun(gun)
        async with self._locked(name) as cache:
            return (await self._refresh(name, cache)).trusted

    async def load_roles(
        self, gun: str, search: Callable[[TrustedSet], Generator[RoleRequest, None, T]]
    ) -> T:
        """Refresh, then run a search of ``tabellion.core.search`` to its end."""
        name = parse_gun(gun)
        async with self._locked(name) as cache:
            view = await self._refresh(name, cache)
            return await view.search(search(view.trusted))

    def cache(self, gun: str) -> MetadataCache:
        """Give the cache of a GUN, to pin a root in it."""
        return MetadataCache.of(self.home, parse_gun(gun))

    def _locked(self, gun: Gun) -> _Locked:
        return _Locked(self._locks[gun], MetadataCache.of(self.home, gun))

    async def _refresh(self, gun: Gun, cache: MetadataCache) -> _View:
        try:
            return await self._refresh_once(gun, cache)
        except (MixAndMatchError, ThresholdError, NotFoundError):
            # A publication may have come between two requests; once more sees it whole.
            return await self._refresh_once(gun, cache)

    async def _refresh_once(self, gun: Gun, cache: MetadataCache) -> _View:
        base = f"{self.server.rstrip('/')}/v2/{quote(gun, safe='/:@')}/_trust/tuf"
        updater = Updater(
            base, fetcher=self._fetch_with(), cache=cache, now=self.clock(), limits=self.limits
        )
        trusted = await updater.start(await self._first_root(gun, base, cache))
        try:
            await updater.update_roots(trusted)
            await self._check_pin(gun, trusted, cache)
            await updater.update_online(trusted)
        except (UnreachableError, TransferError, ServerAnswerError):
            if self.offline != "last-known":
                raise
            return await self._last_known(gun, updater, cache)
        return _View(trusted, updater)

    async def _last_known(self, gun: Gun, updater: Updater, cache: MetadataCache) -> _View:
        root = await asyncio.to_thread(cache.load, "root")
        if root is None:
            raise UntrustedRootError(f"the server doesn't answer and nothing is known of {gun}")
        trusted = await updater.start(root)
        await updater.update_roots(trusted, offline=True)
        await self._check_pin(gun, trusted, cache)
        await updater.load_known(trusted)
        return _View(trusted, updater, offline=True)

    async def _first_root(self, gun: Gun, base: str, cache: MetadataCache) -> bytes:
        if self.root is not None:
            if isinstance(self.root, bytes):
                return self.root
            try:
                return await asyncio.to_thread(self.root.read_bytes)
            except OSError as error:
                raise UntrustedRootError(
                    f"root file {self.root} can't be read: {error.strerror}"
                ) from error
        cached = await asyncio.to_thread(cache.load, "root")
        if cached is not None:
            return cached
        if self.root_fingerprint is None and not self.first_use:
            raise UntrustedRootError(
                f"there is no trusted root for {gun} yet",
                hint="give --root FILE or --root-key FINGERPRINT from the publisher, "
                "or --trust-on-first-use",
            )
        try:
            return await self._fetch_with().fetch(
                f"{base}/1.root.json", max_bytes=self.limits.root_bytes
            )
        except NotFoundError as error:
            raise UnknownGunError(f"{self.server} holds nothing for {gun}") from error

    async def _check_pin(self, gun: Gun, trusted: TrustedSet, cache: MetadataCache) -> None:
        """Refuse a chain of roots in which none is signed by the pinned key."""
        if self.root_fingerprint is None or self.root is not None:
            return
        if not await asyncio.to_thread(self._is_pinned, trusted, cache):
            raise UntrustedRootError(
                f"no root of {gun} is signed by the pinned key {self.root_fingerprint[:64]}"
            )

    def _is_pinned(self, trusted: TrustedSet, cache: MetadataCache) -> bool:
        versions = [item for item in cache.root_versions() if item <= trusted.root.version]
        for version in reversed(versions):
            data = cache.load_root(version)
            if data is None:
                continue
            root = TrustedSet(data, now=self.clock(), limits=self.limits).root
            if self._has_pinned_key(root.signed, root.signed_by):
                return True
        return False

    def _has_pinned_key(self, root: Root, signed_by: tuple[str, ...]) -> bool:
        wanted = (self.root_fingerprint or "").lower().removeprefix("sha256:")
        return any(
            wanted in {keyid, Digest.of(key_material(root.keys[keyid])).hex} for keyid in signed_by
        )

    def _fetch_with(self) -> Fetcher:
        if self.fetcher is not None:
            return self.fetcher
        if self._own_fetcher is None:
            self._own_fetcher = HttpFetcher(ca=self.ca)
        return self._own_fetcher


class _Locked:
    """One update of a GUN at a time: in this process, then among processes."""

    def __init__(self, lock: asyncio.Lock, cache: MetadataCache) -> None:
        self._lock = lock
        self._cache = cache
        self._held = cache.locked()

    async def __aenter__(self) -> MetadataCache:
        await self._lock.acquire()
        try:
            await self._held.__aenter__()
        except BaseException:
            self._lock.release()
            raise
        return self._cache

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._held.__aexit__(kind, error, trace)
        finally:
            self._lock.release()


def _some(digest: Digest | None) -> Digest:
    if digest is None:
        raise InvalidNameError("the reference has neither tag nor digest")
    return digest


def _signed_digest(match: TargetMatch) -> tuple[Digest, int]:
    hashes = match.target.hashes
    for algorithm in ("sha256", "sha512"):
        if algorithm in hashes:
            digest = Digest.parse(f"{algorithm}:{hashes[algorithm]}")
            return digest, match.target.length
    raise NotSignedError(
        f"{match.path!r} is signed with unknown hashes only: {', '.join(sorted(hashes))[:80]}"
    )


def _asked_digest(
    match: TargetMatch, reference: Reference, signed: Digest, length: int
) -> tuple[Digest, int]:
    asked = _some(reference.digest)
    if not names_digest(match.target, asked):
        raise DigestMismatchError(
            f"{reference.name}:{reference.tag} is signed as {signed}, not as {asked}"
        )
    for child in index_manifests(match.target):
        if child.get("digest") == str(asked):
            child_length = child.get("length")
            return asked, child_length if type(child_length) is int else length
    return asked, length


def _platform_digest(match: TargetMatch, platform: str, wanted: str) -> tuple[Digest, int]:
    children = index_manifests(match.target)
    for child in children:
        name = str(child.get("platform"))
        if name == platform or name.startswith(f"{platform}/"):
            length = child.get("length")
            try:
                digest = Digest.parse(str(child.get("digest")))
            except InvalidNameError as error:
                raise NotSignedError(f"{wanted} is signed with a malformed index") from error
            return digest, length if type(length) is int else 0
    known = ", ".join(str(child.get("platform")) for child in children) or "none"
    raise NotSignedError(
        f"{wanted} has no signed manifest for platform {platform[:40]}",
        hint=f"platforms signed: {known[:200]}",
    )


def _image(
    view: _View,
    match: TargetMatch,
    digest: Digest,
    length: int,
    *,
    gun: Gun,
    reference: Reference | None,
) -> VerifiedImage:
    trusted = view.trusted
    custom = match.target.unrecognized_fields.get("custom")
    used: dict[str, Any] = {
        "root": trusted.root,
        "timestamp": trusted.timestamp,
        "snapshot": trusted.snapshot,
        "targets": trusted.targets,
        match.role.role: match.role,
    }
    return VerifiedImage(
        reference=reference,
        gun=gun,
        target=match.path,
        digest=digest,
        length=length,
        custom=custom if isinstance(custom, dict) else {},
        signers=(Signer(match.role.role, match.role.signed_by),),
        versions={role: item.version for role, item in used.items()},
        expires={role: item.expires_at for role, item in used.items()},
        offline=view.offline,
    )
