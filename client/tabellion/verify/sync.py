"""The synchronous twin of ``TrustClient``, for programs without an event loop."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from tabellion.core.search import TargetMatch
from tabellion.core.trusted_set import TrustedSet
from tabellion.verify.client import TrustClient, VerifiedImage


class SyncTrustClient:
    """Takes what ``TrustClient`` takes; to be used in ``with``, not inside a running loop."""

    def __init__(self, server: str, **options: Any) -> None:  # noqa: ANN401  # TrustClient's own
        self._trust = TrustClient(server, **options)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._runner.run(self._trust.__aexit__(kind, error, trace))
        finally:
            self._runner.close()

    def verify(self, reference: str, *, platform: str | None = None) -> VerifiedImage:
        """Verify an image reference; see ``TrustClient.verify``."""
        return self._runner.run(self._trust.verify(reference, platform=platform))

    def verify_target(self, gun: str, path: str) -> VerifiedImage:
        """Verify plain data; see ``TrustClient.verify_target``."""
        return self._runner.run(self._trust.verify_target(gun, path))

    def targets(self, gun: str) -> list[TargetMatch]:
        """List what is signed; see ``TrustClient.targets``."""
        return self._runner.run(self._trust.targets(gun))

    def refresh(self, gun: str) -> TrustedSet:
        """Give the verified current state; see ``TrustClient.refresh``."""
        return self._runner.run(self._trust.refresh(gun))
