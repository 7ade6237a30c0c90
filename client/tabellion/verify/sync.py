"""The verifier for programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from tabellion.core.anchors import Anchor
from tabellion.core.limits import Limits
from tabellion.core.pinning import TrustPinning
from tabellion.core.role_requests import TargetMatch
from tabellion.core.search import BinChoice
from tabellion.core.trusted_set import TrustedSet
from tabellion.verify.client import Listing, TrustClient
from tabellion.verify.grounds import Why
from tabellion.verify.image import VerifiedImage

T = TypeVar("T")


class SyncTrustClient:
    """``TrustClient`` without ``async``: the same arguments but for a fetcher, answers and errors.

    Its loop runs in a thread of its own, so that it works beside a running loop too, and any
    number of threads may use it.
    """

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
        mirrors: Sequence[str] = (),
        trust_pinning: TrustPinning | None = None,
    ) -> None:
        self._client = TrustClient(
            server,
            home=home,
            ca=ca,
            root=root,
            root_fingerprint=root_fingerprint,
            first_use=first_use,
            offline=offline,
            limits=limits,
            clock=clock,
            mirrors=mirrors,
            trust_pinning=trust_pinning,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tabellion-verify", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def verify(self, reference: str, platform: str | None = None) -> VerifiedImage:
        """Verify an image reference, by tag or by digest."""
        return self._run(self._client.verify(reference, platform))

    def verify_target(self, gun: str, path: str) -> VerifiedImage:
        """Verify plain data by its exact names."""
        return self._run(self._client.verify_target(gun, path))

    def target(self, gun: str, path: str) -> TargetMatch:
        """Give who signed what under a path."""
        return self._run(self._client.target(gun, path))

    def targets(self, gun: str, *, released: bool = True) -> Listing:
        """List all signed targets."""
        return self._run(self._client.targets(gun, released=released))

    def refresh(
        self,
        gun: str,
        *,
        as_of: datetime | None = None,
        bins: BinChoice | None = None,
        forgets: bool = False,
    ) -> TrustedSet:
        """Update a GUN and give all of it that can be trusted."""
        return self._run(self._client.refresh(gun, as_of=as_of, bins=bins, forgets=forgets))

    def anchor(self, collection: str, gun: str) -> Anchor | None:
        """Give the entry of an anchor collection that speaks for a GUN."""
        return self._run(self._client.anchor(collection, gun))

    def is_known(self, gun: str) -> bool:
        """Tell whether a root of a GUN is kept, pinned or given, whatever the server says."""
        return self._run(self._client.is_known(gun))

    def why(self, gun: str) -> Why:
        """Update a GUN and tell why its root is trusted."""
        return self._run(self._client.why(gun))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
