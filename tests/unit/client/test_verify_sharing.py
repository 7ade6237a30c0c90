"""Many verifications at once: in one client, and of many processes on one home."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import pytest

import simulator
from forge import NOW
from puller import Puller
from simulator import GUN, IMAGE, Simulator
from tabellion.core.names import Digest
from tabellion.errors import TransferError

DIGEST = Digest.of(b"image")
_PROGRAM = """
import asyncio, json, sys
from datetime import datetime
from pathlib import Path
from tabellion import TrustClient
async def main():
    server, home, root, image, now, rounds = sys.argv[1:]
    for _ in range(int(rounds)):
        async with TrustClient(server, home=Path(home), root=Path(root),
                               clock=lambda: datetime.fromisoformat(now)) as trust:
            image_ = await trust.verify(image)
            print(json.dumps([dict(image_.versions), str(image_.digest)]), flush=True)
asyncio.run(main())
"""


async def test_verifications_asked_together_share_one_update(
    puller: Puller, server: Simulator
) -> None:
    trust = puller.client()
    await asyncio.gather(*(trust.verify(IMAGE) for _ in range(20)))
    # One is under way when the others come: they may not use what was read before they asked.
    assert server.requests.count("timestamp.json") <= 2
    assert server.requests.count("1.snapshot.json") == 1
    server.requests.clear()
    await asyncio.gather(*(trust.verify(IMAGE) for _ in range(20)))
    assert server.requests.count("timestamp.json") <= 2


async def test_a_verification_never_uses_what_was_read_before_it_was_asked(
    puller: Puller, server: Simulator
) -> None:
    trust = puller.client()
    for number in range(3):
        assert (await trust.verify(IMAGE)).versions["timestamp"] == number + 1
        server.publish()


async def test_a_refused_update_is_not_shared_with_those_who_ask_later(
    puller: Puller, server: Simulator
) -> None:
    trust = puller.client()
    server.answers["timestamp.json"] = simulator.truncate
    answers = await asyncio.gather(*(trust.verify(IMAGE) for _ in range(4)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {TransferError}
    server.answers.clear()
    assert (await trust.verify(IMAGE)).digest == DIGEST


async def test_a_cancelled_verification_leaves_the_client_usable(
    puller: Puller, server: Simulator
) -> None:
    trust = puller.client()
    server.answers["1.snapshot.json"] = simulator.silence
    task = asyncio.create_task(trust.verify(IMAGE))
    await server.until_asked("1.snapshot.json")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.answers.clear()
    async with asyncio.timeout(5):
        assert (await trust.verify(IMAGE)).digest == DIGEST


async def test_guns_do_not_wait_for_each_other(puller: Puller, server: Simulator) -> None:
    trust = puller.client()
    server.answers["timestamp.json"] = simulator.silence
    slow = asyncio.create_task(trust.verify(IMAGE))
    await server.until_asked("timestamp.json")
    server.answers.clear()
    async with asyncio.timeout(1):
        assert (await trust.verify("registry.example/other:1.2")).digest == DIGEST
    slow.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await slow


async def test_many_processes_share_one_cache(
    puller: Puller, server: Simulator, tmp_path: Path
) -> None:
    """The server moves on meanwhile: nobody fails, and no process sees a version go back."""
    root = tmp_path / "given.json"
    root.write_bytes(server.files["1.root.json"])
    arguments = [server.url, str(puller.home), str(root), IMAGE, NOW.isoformat(), "12"]
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PROGRAM, *arguments, stdout=-1, stderr=-1
        )
        for _ in range(8)
    ]
    ending = asyncio.gather(*(process.communicate() for process in processes))
    published = 0
    while not ending.done():
        published += 1
        if published % 5 == 0:
            server.rotate_keys("snapshot" if published % 2 else "root")
        server.publish_target(f"image {published}".encode())
        await asyncio.sleep(0.03)
    for process, (stdout, stderr) in zip(processes, await ending, strict=True):
        assert process.returncode == 0, stderr.decode()
        seen = [json.loads(line) for line in stdout.splitlines()]
        assert len(seen) == 12
        for role in ("root", "timestamp", "snapshot", "targets"):
            versions = [found[role] for found, _ in seen]
            assert versions == sorted(versions), role
        for versions, digest in seen:
            content = f"image {versions['targets'] - 1}" if versions["targets"] > 1 else "image"
            assert digest == str(Digest.of(content.encode()))
    image = await puller.verify()
    assert image.digest == Digest.of(f"image {published}".encode())
    assert not list(puller.client().cache(GUN).folder.rglob(".new-*"))
