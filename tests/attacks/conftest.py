from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from forge import NOW, Forge, target
from simulator import Simulator
from tabellion.transport.fetcher import HttpFetcher
from tabellion.verify.client import TrustClient

Puller = Callable[..., TrustClient]


@pytest.fixture
def forge() -> Forge:
    made = Forge()
    made.targets.targets["1.2"] = target(b"image")
    made.release()
    return made


@pytest.fixture
async def server(forge: Forge) -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        simulator.publish(forge)
        yield simulator


@pytest.fixture
async def puller(server: Simulator, forge: Forge, tmp_path: Path) -> AsyncIterator[Puller]:
    """Make verifiers on one home, with short patience."""
    root = forge.files["root"]
    async with HttpFetcher(stall_seconds=0.4, total_seconds=1.5) as fetcher:

        def make(now: datetime = NOW, **options: Any) -> TrustClient:
            settings: dict[str, Any] = {"home": tmp_path / "home", "root": root} | options
            return TrustClient(server.url, clock=lambda: now, fetcher=fetcher, **settings)

        yield make
