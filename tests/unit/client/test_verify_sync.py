"""The verifier without a loop: the same as the one with, wherever it's called."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from forge import NOW
from simulator import GUN, IMAGE, Simulator
from tabellion import SyncTrustClient, TrustClient
from tabellion.core.names import Digest
from tabellion.errors import ConfigurationError, NotSignedError

DIGEST = Digest.of(b"image")


def sync_client(server: Simulator, home: Path, **options: Any) -> SyncTrustClient:
    root = server.files["1.root.json"]
    return SyncTrustClient(server.url, home=home, root=root, clock=lambda: NOW, **options)


@contextmanager
def own_thread() -> Iterator[set[str]]:
    """See that a block leaves no thread of ours behind."""
    yield {thread.name for thread in threading.enumerate()}
    assert not [thread for thread in threading.enumerate() if thread.name == "tabellion-verify"]


def public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def test_every_method_of_one_client_is_a_method_of_the_other() -> None:
    ours, theirs = public(SyncTrustClient), public(TrustClient)
    # This one hands out a part of the asynchronous machinery, for the publisher.
    assert ours.keys() == theirs.keys() - {"cache"}
    for name, signature in ours.items():
        assert str(signature) == str(theirs[name]), name


def test_both_clients_take_the_same_arguments() -> None:
    ours = inspect.signature(SyncTrustClient).parameters
    theirs = inspect.signature(TrustClient).parameters
    # A fetcher belongs to the loop of its caller.
    assert [*ours] == [name for name in theirs if name != "fetcher"]


async def test_every_method_answers_as_the_other_client(server: Simulator, tmp_path: Path) -> None:
    root = server.files["1.root.json"]

    def work() -> list[Any]:
        with own_thread(), sync_client(server, tmp_path / "a") as trust:
            return [
                trust.verify(IMAGE),
                trust.verify_target(GUN, "1.2"),
                trust.target(GUN, "1.2"),
                trust.targets(GUN),
                trust.refresh(GUN).targets,
            ]

    async with TrustClient(server.url, home=tmp_path / "b", root=root, clock=lambda: NOW) as trust:
        expected: list[Any] = [
            await trust.verify(IMAGE),
            await trust.verify_target(GUN, "1.2"),
            await trust.target(GUN, "1.2"),
            await trust.targets(GUN),
            (await trust.refresh(GUN)).targets,
        ]
    assert await asyncio.to_thread(work) == expected


async def test_errors_come_out_as_they_are(server: Simulator, tmp_path: Path) -> None:
    def work() -> None:
        with sync_client(server, tmp_path) as trust, pytest.raises(NotSignedError):
            trust.verify(f"{GUN}:9.9")

    await asyncio.to_thread(work)


def test_a_wrong_argument_starts_no_thread(tmp_path: Path) -> None:
    with own_thread(), pytest.raises(ConfigurationError):
        SyncTrustClient("ftp://x.example", home=tmp_path)
    with own_thread(), pytest.raises(ConfigurationError) as caught:
        SyncTrustClient("https://ann:secret@x.example", home=tmp_path)
    assert "secret" not in caught.value.message
    with own_thread(), pytest.raises(ConfigurationError):
        SyncTrustClient("https://x.example", home=tmp_path, offline="never")  # type: ignore[arg-type]


async def test_many_threads_share_a_client(server: Simulator, tmp_path: Path) -> None:
    def work() -> set[Digest]:
        with sync_client(server, tmp_path) as trust, ThreadPoolExecutor(8) as threads:
            return {image.digest for image in threads.map(trust.verify, [IMAGE] * 24)}

    assert await asyncio.to_thread(work) == {DIGEST}


def test_it_works_in_a_thread_with_a_running_loop(tmp_path: Path) -> None:
    """A notebook, or a plug-in of an asynchronous program, calls it inside its loop."""
    ready, done = threading.Event(), threading.Event()
    servers: list[Simulator] = []

    async def serve() -> None:
        async with Simulator() as server:
            server.publish_target(b"image")
            servers.append(server)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)

        async def inside() -> Digest:
            with sync_client(servers[0], tmp_path) as trust:
                return trust.verify(IMAGE).digest

        assert asyncio.run(inside()) == DIGEST
    finally:
        done.set()
        thread.join()


def test_closing_twice_is_closing(tmp_path: Path) -> None:
    with own_thread():
        trust = SyncTrustClient("http://127.0.0.1:9", home=tmp_path)
        trust.close()
        trust.close()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_closed_client_says_so(tmp_path: Path) -> None:
    trust = SyncTrustClient("http://127.0.0.1:9", home=tmp_path)
    trust.close()
    with pytest.raises(RuntimeError, match="closed"):
        trust.verify(IMAGE)
