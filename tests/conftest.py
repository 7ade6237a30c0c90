from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forge import Forge, target
from puller import Puller
from simulator import Simulator
from tabellion.transport.fetcher import HttpFetcher


@pytest.fixture
def forge() -> Forge:
    """Sign one image."""
    made = Forge()
    made.targets.targets["1.2"] = target(b"image")
    made.release()
    return made


@pytest.fixture
async def server(forge: Forge) -> AsyncIterator[Simulator]:
    """Serve it."""
    async with Simulator(forge) as simulator:
        simulator.serve()
        yield simulator


@pytest.fixture
async def puller(server: Simulator, tmp_path: Path) -> AsyncIterator[Puller]:
    """Verify it."""
    async with HttpFetcher(stall_seconds=0.4, total_seconds=1.5) as fetcher:
        yield Puller(server, tmp_path / "home", fetcher)
