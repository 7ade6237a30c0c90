"""One update of one GUN: the client workflow over a fetcher and a cache.

Spec: TUF 1.0.34, section 5; the rules are in ``tabellion.core``, the order of requests is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from datetime import datetime
from typing import TypeVar

from tabellion.core.limits import Limits
from tabellion.core.search import RoleRequest
from tabellion.core.trusted_set import TrustedSet, have_online_keys_changed
from tabellion.errors import AccessDeniedError, NotFoundError, UnknownGunError, VerificationError
from tabellion.transport.absence import check_is_no_page, unknown_gun
from tabellion.transport.fetcher import Fetcher
from tabellion.verify.cache import MetadataCache

T = TypeVar("T")


class Updater:
    """Updates a cache from a metadata URL.

    The caller holds the cache's lock.

    Attributes:
        trusted: What is trusted so far, None before the first root.
    """

    def __init__(
        self,
        base_url: str,
        *,
        gun: str,
        fetcher: Fetcher,
        cache: MetadataCache,
        now: datetime,
        limits: Limits | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._gun = gun
        self._is_new = False  # nothing of this GUN was seen before
        self._fetcher = fetcher
        self._cache = cache
        self._now = now
        self._limits = limits or Limits()
        self._unkept_roots: list[tuple[int, bytes]] = []

    async def start(self, root_data: bytes) -> TrustedSet:
        """Begin from a root the caller trusts (5.2), without any request."""
        return await _off_loop(lambda: TrustedSet(root_data, now=self._now, limits=self._limits))

    async def update_roots(self, trusted: TrustedSet, *, offline: bool = False) -> None:
        """Walk to the newest root (5.3), through the cache, then over the network."""
        # The first roots of a GUN are kept once they led to a timestamp: a root of something else
        # that was given by mistake must not stay.
        self._is_new = await _off_loop(lambda: self._cache.load("root")) is None
        keep = self._unkept_roots.append if self._is_new else self._keep_root
        await _off_loop(lambda: keep((trusted.root.version, trusted.root.data)))
        for _ in range(self._limits.root_rotations):
            data = await self._next_root(trusted, offline=offline)
            if data is None:
                break
            old = trusted.root.signed
            await _off_loop(lambda data=data: trusted.update_root(data))  # type: ignore[misc]
            if have_online_keys_changed(old, trusted.root.signed):
                # Before the new root is kept: killed in between, the next run comes here again.
                await _off_loop(lambda: self._cache.drop("timestamp", "snapshot"))  # 5.3.11
            await _off_loop(lambda data=data: keep((trusted.root.version, data)))  # type: ignore[misc]
        trusted.finish_root()

    async def update_online(self, trusted: TrustedSet) -> None:
        """Fetch timestamp, snapshot and top-level targets (5.4 to 5.6)."""
        await _off_loop(lambda: self._load_timestamp(trusted))
        try:
            data = await self._fetch(trusted, "timestamp", None)
        except NotFoundError as error:
            if self._is_new:
                raise unknown_gun(self._gun, self._base_url, error) from error
            raise UnknownGunError(
                f"{self._gun} was known, but now the server holds nothing of it",
                hint="check --server; if it's right, ask its operator before trusting anything",
            ) from error
        is_new = await _off_loop(lambda: trusted.update_timestamp(data))
        for root in self._unkept_roots:
            await _off_loop(lambda root=root: self._keep_root(root))  # type: ignore[misc]
        self._is_new = False
        if is_new:
            await _off_loop(lambda: self._cache.save("timestamp", data))
        await _off_loop(lambda: self._load_snapshot(trusted))
        if not trusted.is_snapshot_current():
            snapshot = await self._fetch(trusted, "snapshot", trusted.snapshot_meta.version)
            await _off_loop(lambda: trusted.update_snapshot(snapshot))
            await _off_loop(lambda: self._cache.save("snapshot", snapshot))
        await self.load(trusted, RoleRequest("targets", "root"))

    async def load_known(self, trusted: TrustedSet) -> None:
        """Take everything from the cache; all of it must hold and be fresh."""
        await _off_loop(lambda: self._load_timestamp(trusted, strict=True))
        await _off_loop(lambda: self._load_snapshot(trusted, strict=True))
        await self.load(trusted, RoleRequest("targets", "root"), offline=True)

    async def load(
        self, trusted: TrustedSet, request: RoleRequest, *, offline: bool = False
    ) -> None:
        """Load one targets role, from the cache if that file is the one named."""
        role, delegator = request.role, request.delegator
        meta = trusted.targets_meta(role)
        cached = await _off_loop(lambda: self._cache.load(role))
        if cached is not None:
            try:
                await _off_loop(lambda: trusted.update_targets(cached, role, delegator))
            except VerificationError:
                if offline:
                    raise
            else:
                return
        if offline:
            raise NotFoundError(f"{role} isn't in the cache")
        data = await self._fetch(trusted, role, meta.version)
        await _off_loop(lambda: trusted.update_targets(data, role, delegator))
        await _off_loop(lambda: self._cache.save(role, data))

    async def search(
        self,
        trusted: TrustedSet,
        search: Generator[RoleRequest, None, T],
        *,
        offline: bool = False,
    ) -> T:
        """Drive a search, loading the roles that it asks for."""
        while True:
            step = await _off_loop(lambda: _advance(search))
            if not isinstance(step, RoleRequest):
                return step[0]
            await self.load(trusted, step, offline=offline)

    async def _next_root(self, trusted: TrustedSet, *, offline: bool) -> bytes | None:
        version = trusted.root.version + 1
        cached = await _off_loop(lambda: self._cache.load_root(version))
        if cached is not None or offline:
            return cached
        try:
            return await self._fetch(trusted, "root", version)
        except (NotFoundError, AccessDeniedError):  # object stores say 403 for "no such file"
            return None

    async def _fetch(self, trusted: TrustedSet, role: str, version: int | None) -> bytes:
        if role != "root" and not trusted.root.signed.consistent_snapshot:
            version = None  # 5.3.12
        name = trusted.dialect.file_name(role, version)
        data = await self._fetcher.fetch(
            f"{self._base_url}/{name}", max_bytes=self._limits.max_bytes(role)
        )
        return check_is_no_page(self._base_url, data) if self._is_new else data

    def _keep_root(self, root: tuple[int, bytes]) -> None:
        version, data = root
        if self._cache.load_root(version) != data or self._cache.load("root") != data:
            self._cache.save_root(version, data)

    def _load_timestamp(self, trusted: TrustedSet, *, strict: bool = False) -> None:
        data = self._cache.load("timestamp")
        if data is None:
            if strict:
                raise NotFoundError("no timestamp is in the cache")
            return
        try:
            trusted.load_timestamp(data)
            if strict:
                trusted.update_timestamp(data)
        except VerificationError:
            if strict:
                raise

    def _load_snapshot(self, trusted: TrustedSet, *, strict: bool = False) -> None:
        data = self._cache.load("snapshot")
        if data is None:
            if strict:
                raise NotFoundError("no snapshot is in the cache")
            return
        try:
            if strict:
                trusted.update_snapshot(data)
            else:
                trusted.load_snapshot(data)
        except VerificationError:
            if strict:
                raise


def _advance(search: Generator[RoleRequest, None, T]) -> RoleRequest | tuple[T]:
    """Take one step; a generator's end can't cross a thread as an exception."""
    try:
        return next(search)
    except StopIteration as stop:
        return (stop.value,)


async def _off_loop(work: Callable[[], T]) -> T:
    """Run parsing, signature checks and file access beside the event loop."""
    return await asyncio.to_thread(work)
