"""What one target costs where there are very many: one flat file beside hash bins.

Run: .venv/bin/python tests/perf/bench_bins.py [TARGETS] [BINS] [FLAT]. A real server, our own
publisher and verifier, and python-tuf's; signing counts. Prints medians and spread. The flat GUN
has fewer targets by default: more than some 40,000 don't fit in the file that clients read.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tuf.ngclient import Updater

from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.names import Digest, parse_gun
from tabellion.publish.changes import SignTarget

ROUNDS = 5


async def clock(act: Callable[[], Awaitable[object]]) -> float:
    begin = time.perf_counter()
    await act()
    return time.perf_counter() - begin


def show(what: str, figures: list[float]) -> None:
    median, low, high = statistics.median(figures), min(figures), max(figures)
    print(f"{what:58} {median:8.3f} s   ({low:.3f} to {high:.3f}, {len(figures)} rounds)")


async def measure(url: str, folder: Path, targets: int, bins: int) -> None:
    gun = parse_gun(f"bench.example/{bins}")
    name = f"{targets} targets, {f'{bins} bins' if bins else 'flat'}"
    changes = [SignTarget(f"t{number}", Digest.of(b"x"), 1) for number in range(targets)]
    async with Person(url, folder / "owner") as owner:
        made = await owner.publisher.init(gun, bins=bins)
        fill = await clock(lambda: owner.publisher._applier.publish(gun, changes, again=False))
        show(f"{name}: publish all of them at once", [fill])

        async def sign(number: int) -> None:
            await owner.sign(gun, f"new{number}")

        figures = [await clock(lambda number=number: sign(number)) for number in range(ROUNDS)]
        show(f"{name}: publish one more", figures)

        async def ours(home: Path) -> None:
            async with Person(url, home, made.root) as reader:
                await reader.trust.target(gun, "t7")

        def peer(home: Path) -> None:
            home.mkdir()
            base = f"{url}/v2/{gun}/_trust/tuf/"
            assert Updater(str(home), base, bootstrap=made.root).get_targetinfo("t7")

        cold = [folder / f"cold{number}" for number in range(ROUNDS)]
        show(f"{name}: verify one, cold", [await clock(lambda h=h: ours(h)) for h in cold])
        show(f"{name}: verify one, warm", [await clock(lambda h=h: ours(h)) for h in cold])
        peers = [folder / f"peer{number}" for number in range(ROUNDS)]
        show(
            f"{name}: verify one, cold, python-tuf",
            [await clock(lambda h=h: asyncio.to_thread(peer, h)) for h in peers],
        )
        if bins:
            anew = await clock(lambda: owner.publisher.rotate(gun, "targets"))
            show(f"{name}: rotate targets, all bins signed anew", [anew])
            for how in ("bins were changed", "again"):
                seen = await clock(lambda: owner.publisher.status(gun))
                show(f"{name}: status, {how}", [seen])
            again = await clock(lambda: owner.publisher.rebin(gun, bins * 2))
            show(f"{name}: move all into {bins * 2} bins", [again])


def main(targets: int = 100_000, bins: int = 1024, flat: int = 40_000) -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        for number, count in ((0, flat), (bins, targets)):
            home = Path(folder) / f"homes{number}"
            asyncio.run(measure(server.url, home, count, number))


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]))
