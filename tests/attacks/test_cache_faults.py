"""The cache: torn files, a kill at any byte, many processes, and mutated bytes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge import NOW, Forge
from mutations import (
    CHILD,
    NEW,
    OLD,
    json_changes,
    mutated_bytes,
    naming,
    signed_again,
)
from puller import Puller
from simulator import GUN, IMAGE, Simulator
from tabellion.core.dialect import TUF
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


class RoleFetcher:
    """Serves a role's file under any version; of roots, the newest."""

    def __init__(self, files: dict[str, bytes], root_version: int = 0) -> None:
        self.files = files
        self.root_version = root_version

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        number, _, role = url.rpartition("/")[2].removesuffix(".json").rpartition(".")
        is_unknown = role not in self.files or (role == "root" and int(number) != self.root_version)
        if is_unknown or len(self.files[role]) > max_bytes:
            raise NotFoundError(url)
        return self.files[role]


_MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def client(home: Path, fetcher: RoleFetcher, root: bytes = OLD["root"]) -> TrustClient:
    return TrustClient("http://x.example", home=home, root=root, clock=lambda: NOW, fetcher=fetcher)


def kept(home: Path) -> set[bytes]:
    return {path.read_bytes() for path in home.rglob("*.json")}


@_MANY
@given(
    data=st.data(),
    role=st.sampled_from(sorted(OLD)),
    where=st.sampled_from(["server", "cache", "pin"]),
)
def test_mutated_bytes_give_the_signed_digest_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, role: str, where: str
) -> None:
    home = tmp_path_factory.mktemp("fuzz")
    changed = data.draw(mutated_bytes(OLD[role]))
    root = changed if where == "pin" else OLD["root"]
    served = RoleFetcher(OLD | {role: changed} if where == "server" else OLD)

    async def attempt() -> None:
        if where == "cache":
            await client(home, served).refresh(GUN)
            for path in home.rglob(f"{role}.json"):
                path.write_bytes(changed)
        image = await client(home, served, root).verify(IMAGE)
        assert image.digest == Digest.of(b"image")

    try:
        asyncio.run(attempt())
    except TabellionError:
        # A damaged cache is mended from the server; anything else is right or refused.
        assert where != "cache"
        assert kept(home) <= set(OLD.values())


@pytest.mark.parametrize("signed", [True, False], ids=["hostile signer", "altered"])
@_MANY
@given(data=st.data(), role=st.sampled_from(sorted(NEW)))
def test_a_changed_document_gives_our_error_and_keeps_nothing_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, role: str, *, signed: bool
) -> None:
    home = tmp_path_factory.mktemp("fuzz")
    change = data.draw(json_changes())
    if signed:
        changed = signed_again(role, change)
    else:
        document = json.loads(NEW[role])
        change(document)
        changed = json.dumps(document).encode()
    files = naming(role, changed)

    async def attempt() -> None:
        await client(home, RoleFetcher(OLD)).refresh(GUN)
        trust = client(home, RoleFetcher(files, root_version=2))
        answers = await asyncio.gather(
            trust.verify(IMAGE),
            trust.verify(f"{GUN}:rel-1"),
            trust.verify(f"{GUN}:multi", platform="linux/arm64"),
            trust.verify(f"{GUN}@{CHILD}"),
            trust.targets(GUN),
            trust.refresh(GUN),
            return_exceptions=True,
        )
        for answer in answers:
            assert isinstance(answer, TabellionError) or not isinstance(answer, BaseException)

    asyncio.run(attempt())
    assert kept(home) <= {*OLD.values(), *files.values()}
    if changed in kept(home) - {*OLD.values(), *NEW.values()}:
        TUF.parse(role, changed, max_bytes=99_999)
        assert signed or same_payload(role, changed)


def same_payload(role: str, changed: bytes) -> bool:
    payload: object = json.loads(changed)["signed"]
    return bool(payload == json.loads(NEW[role])["signed"])
