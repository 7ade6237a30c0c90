"""One update of one GUN: the client workflow over a fetcher and a cache.

Spec: TUF 1.0.34, section 5; the rules are in ``tabellion.core``, the order of requests is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Generator
from datetime import datetime
from typing import Final, TypeVar

from tuf.api.metadata import MetaFile

from tabellion.core.anchors import AnchorJudge
from tabellion.core.conversion import notary_name
from tabellion.core.dialect import TUF
from tabellion.core.limits import Limits
from tabellion.core.pinning import RootPin
from tabellion.core.role_requests import RoleRequest, is_published
from tabellion.core.succession import have_online_keys_changed, verify_hashes
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    AccessDeniedError,
    NotFoundError,
    RollbackError,
    UnknownGunError,
    VerificationError,
)
from tabellion.transport.absence import check_is_no_page, unknown_gun
from tabellion.transport.fetcher import Fetcher
from tabellion.verify.cache import MetadataCache

_AT_ONCE: Final = 16
T = TypeVar("T")


class Updater:
    """Updates a cache from a metadata URL.

    The caller holds the cache's lock.
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
        pin: RootPin | None = None,
        judge: AnchorJudge | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._gun = gun
        self._is_new = False  # nothing of this GUN was seen before
        self._is_proven = False  # the root began from is one that is kept
        self._must_drop = False  # the online keys changed on the way to the newest root
        self._fetcher = fetcher
        self._cache = cache
        self._now = now
        self._limits = limits or Limits()
        self._pin = pin
        self._judge = judge
        self._seen_root = 0  # newest version that was ever kept
        self._unkept_roots: list[tuple[int, bytes]] = []
        self._early: dict[str, bytes] = {}  # fetched before their turn, unverified

    async def start(self, root_data: bytes) -> TrustedSet:
        """Begin from a root the caller trusts (5.2), without any request."""
        return await _off_loop(lambda: self._open(root_data))

    async def update_roots(self, trusted: TrustedSet, *, offline: bool = False) -> None:
        """Walk to the newest root (5.3), through the cache, then over the network."""
        left = await _off_loop(lambda: self._walk_kept(trusted))
        while left > 0 and not offline:
            try:
                name = trusted.dialect.file_name("root", trusted.root.version + 1)
                data = await self._fetch("root", name)
            except (NotFoundError, AccessDeniedError):  # object stores say 403 for "no such file"
                break
            await _off_loop(functools.partial(self._take_root, trusted, data))
            left -= 1
        if trusted.root.version < self._seen_root:
            raise RollbackError(
                f"root version {self._seen_root} was seen before, and no way there is shown from "
                f"version {trusted.root.version}",
                role="root",
                found=trusted.root.version,
                expected=self._seen_root,
            )
        if self._judge is not None:
            await _off_loop(functools.partial(self._judge_root, trusted, self._judge))
        trusted.finish_root()

    async def update_online(self, trusted: TrustedSet) -> None:
        """Fetch timestamp, snapshot and top-level targets (5.4 to 5.6)."""
        if not self._must_drop:
            await _off_loop(lambda: self._load_cached("timestamp", trusted.load_timestamp))
        try:
            timestamp = await self._fetch("timestamp", trusted.dialect.file_name("timestamp", None))
        except NotFoundError as error:
            if self._is_new:
                raise unknown_gun(self._gun, self._base_url, error) from error
            raise UnknownGunError(
                f"{self._gun} was known, but now the server holds nothing of it",
                hint="check --server; if it's right, ask its operator before trusting anything",
            ) from error
        await _off_loop(lambda: self._take_timestamp(trusted, timestamp))
        if not trusted.is_snapshot_current():
            snapshot = await self._fetch_named(trusted, "snapshot", trusted.snapshot_meta)
            await _off_loop(lambda: self._take_snapshot(trusted, snapshot))
        await self.load(trusted, RoleRequest("targets", "root"))
        if trusted.gone_roles:
            await _off_loop(lambda: self._take_gone(trusted))

    async def load_known(self, trusted: TrustedSet) -> None:
        """Take everything from the cache; all of it must hold and be fresh."""
        for role, take in (
            ("timestamp", trusted.update_timestamp),
            ("snapshot", trusted.update_snapshot),
        ):
            await _off_loop(functools.partial(self._load_cached, role, take, strict=True))
        await self.load(trusted, RoleRequest("targets", "root"), offline=True)

    async def load(
        self, trusted: TrustedSet, request: RoleRequest, *, offline: bool = False
    ) -> None:
        """Load one targets role, from the cache if that file is the one named."""
        role, delegator = request.role, request.delegator
        meta = trusted.targets_meta(role)

        def take(data: bytes) -> None:
            trusted.update_targets(data, role, delegator)

        await _off_loop(lambda: self._load_cached(role, take, strict=offline))
        if trusted.role(role, delegator) is not None:
            return
        seen = notary_name(role) if trusted.dialect is TUF else role
        await _off_loop(
            lambda: self._load_cached(seen, lambda old: trusted.load_targets(old, role, delegator))
        )
        data = await self._fetch_beside(trusted, request, meta)

        def keep() -> None:
            take(data)
            self._cache.save(role, data)

        await _off_loop(keep)

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
            try:
                await self.load(trusted, step, offline=offline)
            except (VerificationError, NotFoundError) as error:
                if not step.optional:
                    raise
                trusted.note_unusable(step.role, step.delegator, error)

    def _open(self, root_data: bytes) -> TrustedSet:
        return TrustedSet(
            root_data, now=self._now, gun=self._gun, limits=self._limits, pin=self._pin
        )

    async def _fetch_named(self, trusted: TrustedSet, role: str, meta: MetaFile) -> bytes:
        name = trusted.dialect.named_file(role, meta, root=trusted.root.signed)
        return await self._fetch(role, name)

    async def _fetch_beside(
        self, trusted: TrustedSet, request: RoleRequest, meta: MetaFile
    ) -> bytes:
        """Fetch a role's file, and the next ones that will be asked for along with it.

        What can't be fetched early is fetched, or refused, when its turn comes.
        """
        name = trusted.dialect.named_file(request.role, meta, root=trusted.root.signed)
        if name in self._early:
            return self._early.pop(name)
        others = await _off_loop(lambda: self._next_of(trusted, request))
        own, *found = await asyncio.gather(
            self._fetch(request.role, name),
            *(self._fetch(role, each) for each, role in others.items()),
            return_exceptions=True,
        )
        early = zip(others, found, strict=True)
        self._early = {each: data for each, data in early if isinstance(data, bytes)}
        if isinstance(own, BaseException):
            raise own
        return own

    def _next_of(self, trusted: TrustedSet, request: RoleRequest) -> dict[str, str]:
        """Give file name to role of those asked for next that the cache doesn't hold."""
        found: dict[str, str] = {}
        start = list(request.beside).index(request.role) + 1 if request.beside else 0
        for role in request.beside[start : start + _AT_ONCE - 1]:
            if not is_published(trusted, role):
                continue
            meta = trusted.targets_meta(role)
            held = self._cache.load(role)
            if held is None or not _is_named(role, held, meta):
                found[trusted.dialect.named_file(role, meta, root=trusted.root.signed)] = role
        return found

    async def _fetch(self, role: str, name: str) -> bytes:
        data = await self._fetcher.fetch(
            f"{self._base_url}/{name}", max_bytes=self._limits.max_bytes(role)
        )
        return check_is_no_page(self._base_url, data) if self._is_new else data

    def _walk_kept(self, trusted: TrustedSet) -> int:
        """Take the roots kept after the trusted one; give how many more may be taken."""
        # A root that isn't kept yet is kept, and what follows from it done, once it led to a
        # timestamp: a root of something else that was given by mistake must not stay.
        current = self._cache.load("root")
        self._is_new = current is None
        self._seen_root = max(self._cache.root_versions(), default=0)
        kept = self._cache.load_root(trusted.root.version)
        self._is_proven = trusted.root.data in {current, kept}
        self._keep_root(trusted)
        for left in range(self._limits.root_rotations, 0, -1):
            data = self._cache.load_root(trusted.root.version + 1)
            try:
                if data is None:
                    return left
                self._take_root(trusted, data)
            except VerificationError:
                return left  # damaged: the server has it whole
        return 0

    def _take_root(self, trusted: TrustedSet, data: bytes) -> None:
        old, dialect = trusted.root.signed, trusted.dialect
        trusted.update_root(data)
        # 5.3.11. The timestamp and snapshot of a Notary GUN that was converted can't be read any
        # more, and its new ones have new keys; what was seen of its targets roles still counts.
        is_converted = trusted.dialect is not dialect
        if is_converted or have_online_keys_changed(old, trusted.root.signed):
            self._must_drop = True
        self._keep_root(trusted)

    def _keep_root(self, trusted: TrustedSet) -> None:
        root = trusted.root.version, trusted.root.data
        self._unkept_roots.append(root)
        if self._is_proven and self._judge is None:
            self._keep_roots()

    def _judge_root(self, trusted: TrustedSet, judge: AnchorJudge) -> None:
        """Judge the newest root; the roots that led there are kept only with it.

        Not each of them: anchors may have moved on from the keys that signed the older ones.
        """
        judge.verify_root(trusted.root)
        if self._is_proven:
            self._keep_roots()

    def _keep_roots(self) -> None:
        if self._must_drop:
            # Before the new root is kept: killed in between, the next run comes here again.
            self._cache.drop("timestamp", "snapshot")
            self._must_drop = False
        for version, data in self._unkept_roots:
            if self._cache.load_root(version) != data or self._cache.load("root") != data:
                self._cache.save_root(version, data)
        self._unkept_roots.clear()

    def _take_timestamp(self, trusted: TrustedSet, data: bytes) -> None:
        is_new = trusted.update_timestamp(data)
        self._keep_roots()
        self._is_new = False
        if is_new:
            self._cache.save("timestamp", data)
        self._load_cached("snapshot", trusted.load_snapshot)

    def _take_snapshot(self, trusted: TrustedSet, data: bytes) -> None:
        trusted.update_snapshot(data)
        if not trusted.gone_roles:
            self._cache.save("snapshot", data)

    def _take_gone(self, trusted: TrustedSet) -> None:
        """Keep a snapshot in which roles are gone only once that is known to be right."""
        for role in trusted.gone_roles:
            data = self._cache.load(role)
            if data is not None:
                trusted.verify_not_hidden(role, data)
        if trusted.snapshot is not None:
            self._cache.save("snapshot", trusted.snapshot.data)

    def _load_cached(
        self, role: str, take: Callable[[bytes], object], *, strict: bool = False
    ) -> None:
        """Give the set a cached file; an absent or bad one is passed over unless ``strict``."""
        data = self._cache.load(role)
        if data is None:
            if strict:
                raise NotFoundError(f"no {role} is in the cache")
            return
        try:
            take(data)
        except VerificationError:
            if strict:
                raise


def _is_named(role: str, data: bytes, meta: MetaFile) -> bool:
    """Tell whether a cached file may be the one that the snapshot names."""
    try:
        verify_hashes(role, data, meta.hashes or {})
    except VerificationError:
        return False
    return True


def _advance(search: Generator[RoleRequest, None, T]) -> RoleRequest | tuple[T]:
    """Take one step; a generator's end can't cross a thread as an exception."""
    try:
        return next(search)
    except StopIteration as stop:
        return (stop.value,)


async def _off_loop(work: Callable[[], T]) -> T:
    """Run parsing, signature checks and file access beside the event loop.

    Cancelled, it ends only when the work has ended: a thread that still writes to the cache must
    not outlive the lock on it.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise
