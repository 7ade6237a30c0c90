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
from simulator import Simulator

CLIENT = Path(__file__).with_name("tuf-conformance-client")


@pytest.fixture
def forge() -> Forge:
    made = Forge()
    soon = datetime.now(UTC) + timedelta(days=3000)
    made.root.expires = made.targets.expires = soon
    made.targets.targets["a/b.txt"] = target(b"content", "a/b.txt")
    return made


@pytest.fixture
async def server(forge: Forge) -> AsyncIterator[Simulator]:
    async with Simulator(forge) as served:
        served.publish()
        served.files[f"{target(b'content').hashes['sha256']}.b.txt"] = b"content"
        yield served


async def call(folder: Path, server: Simulator, *arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(
        str(CLIENT), "--metadata-dir", str(folder), "--metadata-url", f"{server.url}/m", *arguments
    )
    return await process.wait()


async def initialized(server: Simulator, tmp_path: Path) -> Path:
    folder = tmp_path / "metadata"
    folder.mkdir()
    root = tmp_path / "initial.json"
    root.write_bytes(server.files["1.root.json"])
    assert await call(folder, server, "init", str(root)) == 0
    assert server.requests == []
    return folder


async def test_refresh_asks_in_the_order_of_the_specification(
    server: Simulator, tmp_path: Path
) -> None:
    folder = await initialized(server, tmp_path)
    assert await call(folder, server, "refresh") == 0
    asked = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert server.requests == asked
    assert sorted(path.name for path in folder.glob("*.json")) == [
        "root.json", "snapshot.json", "targets.json", "timestamp.json",
    ]  # fmt: skip
    for path in folder.glob("*.json"):
        assert path.read_bytes() in server.files.values()


async def test_a_bad_first_root_makes_no_request(server: Simulator, tmp_path: Path) -> None:
    folder = await initialized(server, tmp_path)
    stranger = CryptoSigner.generate_ed25519().public_key.keyid.encode()
    root = (folder / "root.json").read_bytes()
    (folder / "root.json").write_bytes(root.replace(root[23:87], stranger))
    assert await call(folder, server, "refresh") == 1
    assert server.requests == []


async def test_b43_b44_download_verifies_and_keeps(server: Simulator, tmp_path: Path) -> None:
    folder = await initialized(server, tmp_path)
    downloads = tmp_path / "targets"
    downloads.mkdir()
    arguments = ("--target-name", "a/b.txt", "--target-dir", str(downloads),
                 "--target-base-url", f"{server.url}/t", "download")  # fmt: skip
    assert await call(folder, server, *arguments) == 0
    assert [path.read_bytes() for path in downloads.iterdir()] == [b"content"]
    server.requests.clear()
    assert await call(folder, server, *arguments) == 0
    assert server.requests == ["2.root.json", "timestamp.json"]


@pytest.mark.parametrize("served", [b"malware", b"content and more", b"conten", b""])
async def test_b43_a_download_of_other_bytes_is_refused_and_not_kept(
    server: Simulator, tmp_path: Path, served: bytes
) -> None:
    folder = await initialized(server, tmp_path)
    downloads = tmp_path / "targets"
    downloads.mkdir()
    name = next(name for name in server.files if name.endswith(".b.txt"))
    server.files[name] = served
    arguments = ("--target-name", "a/b.txt", "--target-dir", str(downloads),
                 "--target-base-url", f"{server.url}/t", "download")  # fmt: skip
    assert await call(folder, server, *arguments) == 1
    assert list(downloads.iterdir()) == []


async def test_b27_a_root_is_kept_even_if_what_follows_is_refused(
    server: Simulator, tmp_path: Path
) -> None:
    folder = await initialized(server, tmp_path)
    server.publish_root()
    server.files["timestamp.json"] = b"{}"
    assert await call(folder, server, "refresh") == 1
    assert (folder / "root.json").read_bytes() == server.files["2.root.json"]
