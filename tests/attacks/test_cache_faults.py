"""The cache: torn files, a kill at any byte, many processes, and mutated bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge import NOW, Forge
from puller import Puller
from simulator import IMAGE, Simulator
from tabellion.core.names import Digest
from tabellion.errors import NotFoundError, TabellionError
from tabellion.verify.client import TrustClient

_PROGRAM = """
import asyncio, sys
from datetime import datetime
from pathlib import Path
from tabellion import TrustClient
async def main():
    server, home, root, image, now, rounds = sys.argv[1:]
    for _ in range(int(rounds)):
        async with TrustClient(server, home=Path(home), root=Path(root),
                               clock=lambda: datetime.fromisoformat(now)) as trust:
            print((await trust.verify(image)).digest, flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["root.json", "timestamp.json", "snapshot.json", "targets.json"])
@pytest.mark.parametrize("damage", ["empty", "torn", "garbage", "gone"])
async def test_a_torn_cache_file_is_mended(
    puller: Puller, tmp_path: Path, name: str, damage: str
) -> None:
    expected = (await puller.verify()).digest
    path = next((tmp_path / "home").rglob(name))
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "torn": whole[:-9], "garbage": b"\xff\x00"}[damage])
    assert (await puller.verify()).digest == expected
    assert path.read_bytes() == whole


async def start(
    server: Simulator, tmp_path: Path, forge: Forge, rounds: int
) -> asyncio.subprocess.Process:
    root = tmp_path / "given.json"
    root.write_bytes(forge.files["root"])
    arguments = [server.url, str(tmp_path / "home"), str(root), IMAGE, NOW.isoformat()]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM, *arguments, str(rounds), stdout=-1, stderr=-1
    )


async def test_a_kill_at_any_moment_leaves_a_usable_cache(
    puller: Puller, server: Simulator, forge: Forge, tmp_path: Path
) -> None:
    chance = random.Random(7)  # noqa: S311  # moments, not secrets
    for number in range(6):
        process = await start(server, tmp_path, forge, 1000)
        assert process.stdout is not None
        await process.stdout.readline()
        server.publish_target(f"image {number}".encode())
        await asyncio.sleep(chance.uniform(0, 0.04))
        os.kill(process.pid, signal.SIGKILL)
        await process.communicate()
        image = await puller.verify()
        assert image.digest == Digest.of(f"image {number}".encode())


class DictFetcher:
    """Serves a dictionary."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        name = url.rpartition("/")[2]
        if name not in self.files or len(self.files[name]) > max_bytes:
            raise NotFoundError(name)
        return self.files[name]


def mutated(data: bytes, position: int, piece: bytes, cut: int) -> bytes:
    position %= len(data) + 1
    return data[:position] + piece + data[position + cut :]


_MADE = Simulator()
_MADE.publish_target(b"image")
_MADE.add_delegation("alice", ["rel-*"])
_FILES = {"1.root.json": _MADE.files["1.root.json"], **_MADE.serve()}
_PIECES = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b"null", b"-1", b"1e9", b"[]", b"{}", b'"', b"\\ud800", b"NaN", b"[" * 2000]),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(sorted(_FILES)),
    position=st.integers(0, 10_000),
    piece=_PIECES,
    cut=st.integers(0, 40),
    where=st.sampled_from(["server", "cache", "pin"]),
)
def test_mutated_bytes_give_the_signed_digest_or_our_error(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    name: str,
    position: int,
    piece: bytes,
    cut: int,
    where: str,
) -> None:
    home = tmp_path_factory.mktemp("fuzz")
    changed = mutated(_FILES[name], position, piece, cut)
    root = changed if where == "pin" else _FILES["1.root.json"]
    served = _FILES | {name: changed} if where == "server" else _FILES

    async def attempt() -> None:
        async def verify(files: dict[str, bytes], reference: str) -> Digest:
            client = TrustClient(
                "http://x.example",
                home=home,
                root=root,
                clock=lambda: NOW,
                fetcher=DictFetcher(files),
            )
            return (await client.verify(reference)).digest

        if where == "cache":
            await verify(_FILES, IMAGE)
            stem = name if name == "timestamp.json" else name.partition(".")[2]
            for path in home.rglob(stem):
                path.write_bytes(changed)
        assert await verify(served, IMAGE) == Digest.of(b"image")

    # A damaged cache is mended from the server; anything else is right or refused.
    with contextlib.nullcontext() if where == "cache" else contextlib.suppress(TabellionError):
        asyncio.run(attempt())
