"""Cold and warm refresh, ours beside python-tuf's Updater, on one loopback server.

Run: .venv/bin/python tests/perf/bench_refresh.py [TARGETS]. Prints medians, spread and ratio.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tuf.ngclient import Updater

from forge import Forge, target
from simulator import Simulator
from tabellion import TrustClient

ROUNDS = 9


async def measure(act: Callable[[], Awaitable[object]]) -> float:
    begin = time.perf_counter()
    await act()
    return (time.perf_counter() - begin) * 1000


async def main(targets: int) -> None:
    forge = Forge()
    forge.root.expires = forge.targets.expires = datetime.now(UTC) + timedelta(days=3000)
    forge.targets.targets = {str(number): target(b"x", str(number)) for number in range(targets)}
    figures: dict[str, list[float]] = {}
    async with Simulator(forge) as server:
        server.publish()
        root = server.files["1.root.json"]
        for _ in range(ROUNDS):
            home = Path(tempfile.mkdtemp())
            base = f"{server.url}/v2/g/a/_trust/tuf/"

            def peer(home: Path = home, base: str = base) -> None:
                Updater(str(home / "peer"), base, bootstrap=root).refresh()

            async def ours(home: Path = home) -> None:
                async with TrustClient(server.url, home=home, root=root) as trust:
                    await trust.refresh("g/a")

            (home / "peer").mkdir()
            for state in ("cold", "warm"):
                figures.setdefault(f"{state} ours", []).append(await measure(ours))
                figures.setdefault(f"{state} python-tuf", []).append(
                    await measure(lambda: asyncio.to_thread(peer))
                )
            shutil.rmtree(home)
    for name, values in figures.items():
        median = statistics.median(values)
        print(f"{name:18} {median:8.1f} ms   ({min(values):.1f} to {max(values):.1f})")
    for state in ("cold", "warm"):
        ratio = statistics.median(figures[f"{state} ours"]) / statistics.median(
            figures[f"{state} python-tuf"]
        )
        print(f"{state} ratio ours / python-tuf: {ratio:.2f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
