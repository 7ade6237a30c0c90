"""Who pulls images: a verifier of a simulated server, and what it must not have lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from forge import NOW
from simulator import IMAGE, Simulator
from tabellion import TrustClient
from tabellion.errors import TabellionError
from tabellion.transport.fetcher import HttpFetcher
from tabellion.verify.image import VerifiedImage


@dataclass
class Puller:
    """Verifies on one home, with little patience; each call is a new client."""

    server: Simulator
    home: Path
    fetcher: HttpFetcher

    def client(self, *, now: datetime = NOW, **options: Any) -> TrustClient:
        """Make a verifier that trusts the server's first root, unless told otherwise."""
        defaults: dict[str, Any] = {
            "home": self.home,
            "clock": lambda: now,
            "root": self.server.files.get("1.root.json"),
            "fetcher": self.fetcher,
        }
        return TrustClient(self.server.url, **(defaults | options))

    async def verify(self, reference: str = IMAGE, **options: Any) -> VerifiedImage:
        return await self.client(**options).verify(reference)

    def kept(self) -> dict[str, bytes]:
        """Give all that the home holds."""
        return {
            path.relative_to(self.home).as_posix(): path.read_bytes()
            for path in sorted(self.home.rglob("*"))
            if path.is_file() and path.name != ".lock"
        }

    async def refused(
        self,
        kind: type[TabellionError],
        reference: str = IMAGE,
        *,
        advanced: tuple[str, ...] = (),
        **options: Any,
    ) -> TabellionError:
        """See it refused; of what was kept, only ``advanced`` may be newer."""
        before = self.kept()
        with pytest.raises(kind) as caught:
            await self.verify(reference, **options)
        after = self.kept()
        changed = {
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        }
        if before:
            assert {Path(name).name for name in changed} <= set(advanced), "a refusal changed it"
        assert caught.value.hint
        return caught.value
