"""The cache: whole files for every reader, one update at a time among processes."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from puller import Puller
from simulator import GUN, Simulator
from tabellion.core.names import Digest
from tabellion.errors import CacheError, InvalidNameError
from tabellion.verify import cache as cache_module
from tabellion.verify.cache import MetadataCache

DIGEST = Digest.of(b"image")


@contextmanager
def held(cache: MetadataCache) -> Iterator[None]:
    """Hold the lock as another process does."""
    cache.folder.mkdir(parents=True, exist_ok=True)
    with (cache.folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def test_an_update_waits_for_the_one_of_another_process(
    puller: Puller, server: Simulator
) -> None:
    with held(puller.client().cache(GUN)):
        waiting = asyncio.create_task(puller.verify())
        await asyncio.sleep(0.3)
        assert not waiting.done()
        assert server.requests == []
    assert (await waiting).digest == DIGEST


async def test_a_process_that_hangs_is_not_waited_for_without_end(
    puller: Puller, server: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_LOCK_SECONDS", 0.1)
    with held(puller.client().cache(GUN)):
        error = await puller.refused(CacheError)
    assert "hangs" in error.hint
    assert server.requests == []
    assert (await puller.verify()).digest == DIGEST


def test_a_reader_has_the_old_file_or_the_new_one_whole(tmp_path: Path) -> None:
    cache = MetadataCache.of(tmp_path, GUN)
    cache.save("timestamp", b"old")
    with (cache.folder / "timestamp.json").open("rb") as reader:
        cache.save("timestamp", b"new and longer")
        assert reader.read() == b"old"
    assert cache.load("timestamp") == b"new and longer"
    assert [path.name for path in cache.folder.iterdir()] == ["timestamp.json"]


def test_a_failed_write_leaves_the_old_file_and_no_scraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    cache = MetadataCache.of(tmp_path, GUN)
    cache.save("timestamp", b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CacheError, match="No space left"):
        cache.save("timestamp", b"new")
    assert cache.load("timestamp") == b"old"
    assert [path.name for path in cache.folder.iterdir()] == ["timestamp.json"]


async def test_a_home_that_cannot_be_written_is_a_cache_fault(puller: Puller) -> None:
    puller.home.write_bytes(b"a file, not a folder")
    with pytest.raises(CacheError) as caught:
        await puller.verify()
    assert str(puller.home) in caught.value.message


@pytest.mark.parametrize(
    "gun", ["a/../..", "a/" + "x" * 300, "registry.example:5000/a", "A%2Fb", "é/ü"]
)
def test_no_name_leads_out_of_the_home_or_is_too_long(tmp_path: Path, gun: str) -> None:
    cache = MetadataCache.of(tmp_path / "home", gun)
    cache.save(gun, b"x")
    (place,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert place.parent.parent == tmp_path / "home" / "trust"
    assert cache.load(gun) == b"x"
    assert cache.load(gun + "x") is None


@pytest.mark.parametrize("gun", ["..", ".", "", "a/..", "/a"])
def test_what_is_no_gun_has_no_cache(puller: Puller, gun: str) -> None:
    with pytest.raises(InvalidNameError):
        puller.client().cache(gun)
