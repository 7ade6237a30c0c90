"""The conformance suite's client protocol, spoken to a server of our own making.

The public suite itself is run by hand (its code isn't ours to ship); these hold its contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from forge import Forge, target
from mirror import Mirror, serving

CLIENT = Path(__file__).with_name("tuf-conformance-client")


@pytest.fixture
def forge() -> Forge:
    made = Forge()
    soon = datetime.now(UTC) + timedelta(days=3000)
    made.root.expires = made.targets.expires = soon
    made.targets.targets["a/b.txt"] = target(b"content", "a/b.txt")
    return made


@pytest.fixture
async def mirror(forge: Forge) -> AsyncIterator[Mirror]:
    async with serving(Mirror()) as served:
        served.publish(forge)
        served.files[f"{target(b'content').hashes['sha256']}.b.txt"] = b"content"
        yield served


async def call(folder: Path, mirror: Mirror, *arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(
        str(CLIENT), "--metadata-dir", str(folder), "--metadata-url", f"{mirror.url}/m", *arguments
    )
    return await process.wait()


async def initialized(mirror: Mirror, tmp_path: Path) -> Path:
    folder = tmp_path / "metadata"
    folder.mkdir()
    root = tmp_path / "initial.json"
    root.write_bytes(mirror.files["1.root.json"])
    assert await call(folder, mirror, "init", str(root)) == 0
    assert mirror.requests == []
    return folder


async def test_refresh_asks_in_the_order_of_the_specification(
    mirror: Mirror, tmp_path: Path
) -> None:
    folder = await initialized(mirror, tmp_path)
    assert await call(folder, mirror, "refresh") == 0
    asked = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert mirror.requests == asked
    assert sorted(path.name for path in folder.glob("*.json")) == [
        "root.json", "snapshot.json", "targets.json", "timestamp.json",
    ]  # fmt: skip
    for path in folder.glob("*.json"):
        assert path.read_bytes() in mirror.files.values()


async def test_a_bad_first_root_makes_no_request(mirror: Mirror, tmp_path: Path) -> None:
    folder = await initialized(mirror, tmp_path)
    stranger = CryptoSigner.generate_ed25519().public_key.keyid.encode()
    root = (folder / "root.json").read_bytes()
    (folder / "root.json").write_bytes(root.replace(root[23:87], stranger))
    assert await call(folder, mirror, "refresh") == 1
    assert mirror.requests == []


async def test_b43_b44_download_verifies_and_keeps(mirror: Mirror, tmp_path: Path) -> None:
    folder = await initialized(mirror, tmp_path)
    downloads = tmp_path / "targets"
    downloads.mkdir()
    arguments = ("--target-name", "a/b.txt", "--target-dir", str(downloads),
                 "--target-base-url", f"{mirror.url}/t", "download")  # fmt: skip
    assert await call(folder, mirror, *arguments) == 0
    assert [path.read_bytes() for path in downloads.iterdir()] == [b"content"]
    mirror.requests.clear()
    assert await call(folder, mirror, *arguments) == 0
    assert mirror.requests == ["2.root.json", "timestamp.json"]
