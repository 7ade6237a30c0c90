"""What one publication costs the server: a small change to GUNs of several sizes.

Run: .venv/bin/python tests/perf/bench_publish.py [ROUNDS]. A real store in a scratch folder, no
HTTP; the publisher's own signing isn't counted. Prints medians and spread.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from forge import Forge, target
from tabellion.core.publication import UploadedFile
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services.files import MetadataFiles
from tabellion_server.services.locks import GunLocks
from tabellion_server.services.publishing import Publisher
from tabellion_server.services.signing import Lives, ReleaseSigner
from tabellion_server.storage.sqlite import SqliteStore

LATER = datetime.now(UTC) + timedelta(days=300)


@dataclass(frozen=True)
class Shape:
    """A GUN, and the role that each publication changes."""

    name: str
    targets: int
    delegated: int
    targets_each: int
    changes: str


SHAPES = (
    Shape("10 targets", 10, 0, 0, "targets"),
    Shape("1,000 targets", 1_000, 0, 0, "targets"),
    Shape("10,000 targets", 10_000, 0, 0, "targets"),
    Shape("50 roles of 200, one changes", 10, 50, 200, "r7"),
    Shape("50 roles of 200, top changes", 10, 50, 200, "targets"),
)


async def make(shape: Shape, keys: OnlineKeys) -> Forge:
    forge = Forge()
    forge.root.expires = forge.targets.expires = LATER
    for role in ("snapshot", "timestamp"):
        forge.root.revoke_key(forge.root.roles[role].keyids[0], role)
        forge.root.add_key(await keys.public_key(shape.name, role), role)
    for number in range(shape.targets):
        forge.targets.targets[f"t{number}"] = target(b"x", f"t{number}")
    for number in range(shape.delegated):
        name = f"r{number}"
        forge.delegate(name, [f"{name}-*"])
        forge.delegated[name].expires = LATER
        for one in range(shape.targets_each):
            forge.delegated[name].targets[f"{name}-{one}"] = target(b"x", f"{name}-{one}")
    return forge


async def measure(shape: Shape, folder: Path, rounds: int) -> None:
    store = await SqliteStore.open(folder / "store.db")
    keys = OnlineKeys(store, MasterKey.generate())
    lives = Lives(snapshot=timedelta(days=30), timestamp=timedelta(days=1))
    signer = ReleaseSigner(keys, tuf=lives, notary=lives)
    publisher = Publisher(
        store,
        MetadataFiles(store),
        signer,
        GunLocks(),
        clock=lambda: datetime.now(UTC),
        allow_example_keys=True,
    )
    forge = await make(shape, keys)
    files = {"root": forge.root, "targets": forge.targets, **forge.delegated}
    upload = [UploadedFile(role, forge.sign(role, signed)) for role, signed in files.items()]
    await publisher.publish(shape.name, upload)
    changed = files[shape.changes]
    figures: list[float] = []
    for number in range(rounds):
        changed.version += 1
        path = f"{'' if shape.changes == 'targets' else 'r7-'}new{number}"
        changed.targets[path] = target(b"y", path)
        data = forge.sign(shape.changes, changed)
        begin = time.perf_counter()
        await publisher.publish(shape.name, [UploadedFile(shape.changes, data)])
        figures.append((time.perf_counter() - begin) * 1000)
    await store.close()
    print(
        f"{shape.name:30} {statistics.median(figures):8.1f} ms"
        f"   ({min(figures):.1f} to {max(figures):.1f}, {rounds} rounds, {len(data)} bytes sent)"
    )


async def main(rounds: int) -> None:
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            await measure(shape, Path(folder), rounds)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 11))
