"""The first root: what pins it, what disagrees, and that a wrong pin leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forge import Forge, target
from puller import Puller
from simulator import GUN, Simulator
from tabellion.core.names import Digest
from tabellion.errors import (
    ConfigurationError,
    ThresholdError,
    UntrustedRootError,
    VerificationError,
)

DIGEST = Digest.of(b"image")


def fingerprint(forge: Forge, role: str = "root") -> str:
    return forge.signers[role][0].public_key.keyid


@asynccontextmanager
async def another(roots: int = 1) -> AsyncIterator[Simulator]:
    """Serve another GUN's repository, with its own chain of roots."""
    async with Simulator() as stranger:
        stranger.publish_target(b"other")
        for _ in range(roots - 1):
            stranger.publish_root()
        yield stranger


async def test_a_fingerprint_of_the_first_root_leads_through_rotations_to_the_newest(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    first = fingerprint(forge)
    for _ in range(2):
        server.rotate_keys("root")
    image = await puller.verify(root=None, root_fingerprint=first)
    assert (image.digest, image.versions["root"], image.pinned) == (DIGEST, 3, "root key")
    assert (await puller.verify(root=None, root_fingerprint=first)).digest == DIGEST


async def test_a_fingerprint_of_a_later_root_key_is_found_by_the_walk(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    for _ in range(2):
        server.rotate_keys("root")
    image = await puller.verify(root=None, root_fingerprint=fingerprint(forge))
    assert image.versions["root"] == 3
    # The walk before the pinned root was trusted by nobody: it isn't kept.
    assert puller.client().cache(GUN).root_versions() == [3]


async def test_the_walk_to_the_pinned_key_follows_the_chain_of_roots(
    puller: Puller, server: Simulator
) -> None:
    async with another(roots=2) as stranger:
        server.files["2.root.json"] = stranger.files["2.root.json"]
        pin = fingerprint(stranger.forge)
        await puller.refused(ThresholdError, root=None, root_fingerprint=pin)
    assert puller.kept() == {}


async def test_a_later_pin_of_a_retired_root_key_agrees_with_the_kept_chain(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    first = fingerprint(forge)
    await puller.verify()
    server.rotate_keys("root")
    await puller.verify()
    for pin in (first, fingerprint(forge), f"sha256:{first.upper()}"):
        assert (await puller.verify(root=None, root_fingerprint=pin)).digest == DIGEST


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
@pytest.mark.parametrize("warm", [False, True])
async def test_a_fingerprint_of_a_key_that_is_no_root_key_is_refused(
    puller: Puller, forge: Forge, role: str, *, warm: bool
) -> None:
    if warm:
        await puller.verify()
    await puller.refused(UntrustedRootError, root=None, root_fingerprint=fingerprint(forge, role))


async def test_a_listed_root_key_that_did_not_sign_is_no_pin(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    other = Forge()
    forge.root.add_key(other.signers["root"][0].public_key, "root")
    server.publish_root()
    pin = fingerprint(other)
    await puller.refused(UntrustedRootError, root=None, root_fingerprint=pin)


async def test_a_fingerprint_that_disagrees_with_what_is_kept_is_refused(
    puller: Puller, forge: Forge
) -> None:
    await puller.verify()
    pin = fingerprint(Forge())
    error = await puller.refused(UntrustedRootError, root=None, root_fingerprint=pin)
    assert str(puller.home) in error.hint
    assert (await puller.verify(root=None, root_fingerprint=fingerprint(forge))).digest == DIGEST


async def test_a_root_file_that_disagrees_with_what_is_kept_is_refused(puller: Puller) -> None:
    await puller.verify()
    async with another() as stranger:
        await puller.refused(UntrustedRootError, root=stranger.files["1.root.json"])
    assert (await puller.verify(root=None)).digest == DIGEST


async def test_a_newer_root_file_of_something_else_does_not_stay(
    puller: Puller, server: Simulator
) -> None:
    await puller.verify()
    async with another(roots=3) as stranger:
        await puller.refused(VerificationError, root=stranger.files["3.root.json"])
    server.publish_root()
    assert (await puller.verify(root=None)).versions["root"] == 2


async def test_a_root_file_of_the_middle_of_the_chain_agrees(
    puller: Puller, server: Simulator
) -> None:
    await puller.verify()
    server.rotate_keys("root")
    server.rotate_keys("root")
    for version in (2, 3):
        root = server.files[f"{version}.root.json"]
        assert (await puller.verify(root=root)).versions["root"] == 3
    assert puller.client().cache(GUN).root_versions() == [1, 2, 3]


async def test_a_root_file_and_a_fingerprint_the_file_comes_first(
    puller: Puller, forge: Forge
) -> None:
    image = await puller.verify(root_fingerprint=fingerprint(forge))
    assert image.pinned == "root file"


async def test_first_use_never_replaces_what_is_kept(puller: Puller) -> None:
    await puller.verify()
    async with another() as stranger:
        puller.server = stranger
        await puller.refused(ThresholdError, root=None, first_use=True)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 99, b'{"signed":{},"signatures":[]}'])
async def test_a_root_file_that_is_none_leaves_nothing(puller: Puller, content: bytes) -> None:
    with pytest.raises(ConfigurationError):
        await puller.verify(root=content)
    assert puller.kept() == {}


async def test_a_root_file_that_did_not_sign_itself_leaves_nothing(
    puller: Puller, server: Simulator
) -> None:
    other = Forge().signers["root"][0].public_key.keyid.encode()
    own = server.forge.signers["root"][0].public_key.keyid.encode()
    forged = server.files["1.root.json"].replace(b'{"keyid":"' + own, b'{"keyid":"' + other, 1)
    with pytest.raises(ThresholdError):
        await puller.verify(root=forged)
    assert puller.kept() == {}


async def test_a_root_file_that_is_not_there_is_a_configuration_fault(
    puller: Puller, server: Simulator, tmp_path: Path
) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        error = await puller.refused(ConfigurationError, root=path)
        assert str(path) in error.message
    assert server.requests == []


async def test_a_torn_kept_root_is_fetched_anew(puller: Puller, server: Simulator) -> None:
    server.publish_root()
    await puller.verify()
    for name in ("root.json", "2.root.json"):
        next(puller.home.rglob(name)).write_bytes(b"torn")
    assert (await puller.verify(root=None)).versions["root"] == 2
    assert next(puller.home.rglob("2.root.json")).read_bytes() == server.files["2.root.json"]


async def test_a_server_that_lost_its_roots_is_still_read(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    server.publish_root()
    await puller.verify()
    for version in (1, 2):
        del server.files[f"{version}.root.json"]
    forge.targets.targets["2.0"] = target(b"later", "2.0")
    forge.targets.version += 1
    server.publish()
    assert (await puller.verify(f"{GUN}:2.0", root=None)).digest == Digest.of(b"later")
