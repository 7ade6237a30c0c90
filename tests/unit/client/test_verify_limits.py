"""Bounds on what a server can make a verifier read, walk and keep."""

from __future__ import annotations

import pytest

from forge import Forge, target
from puller import Puller
from simulator import GUN, Simulator
from tabellion.core.limits import Limits
from tabellion.core.names import Digest
from tabellion.errors import (
    ConfigurationError,
    MalformedMetadataError,
    NotSignedError,
    TransferError,
)

TOP_LEVEL = pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])


@pytest.fixture
async def names(puller: Puller, server: Simulator) -> dict[str, str]:
    """Be one release behind, of longer files; gives the new files' names."""
    await puller.verify()
    server.rotate_keys("root")
    server.publish_target(b"new image", "2.0")
    return {
        "root": "2.root.json",
        "timestamp": "timestamp.json",
        "snapshot": "2.snapshot.json",
        "targets": "2.targets.json",
    }


def before(role: str) -> tuple[str, ...]:
    """List what an update may have taken when it comes to a role."""
    taken = ("root.json", "2.root.json", "timestamp.json", "snapshot.json")
    return taken[: {"root": 0, "timestamp": 2, "snapshot": 3, "targets": 4}[role]]


@TOP_LEVEL
async def test_a_file_at_its_limit_is_read_and_one_byte_more_is_not(
    puller: Puller, server: Simulator, names: dict[str, str], role: str
) -> None:
    size = len(server.files[names[role]])
    short, just = (Limits(**{f"{role}_bytes": size - less}) for less in (1, 0))
    error = await puller.refused(TransferError, advanced=before(role), limits=short)
    assert f"{names[role]}: {size} bytes announced, the limit is {size - 1}" in error.message
    assert (await puller.verify(f"{GUN}:2.0", limits=just)).digest == Digest.of(b"new image")


@TOP_LEVEL
async def test_the_default_limits_hold_on_the_wire(
    puller: Puller, server: Simulator, names: dict[str, str], role: str
) -> None:
    limit = Limits().max_bytes(role)
    server.files[names[role]] = b" " * (limit + 1)
    error = await puller.refused(TransferError, advanced=before(role))
    assert f"the limit is {limit}" in error.message


@TOP_LEVEL
async def test_an_over_long_file_in_the_cache_is_not_parsed(
    puller: Puller, server: Simulator, role: str
) -> None:
    await puller.verify()
    place = next(path for path in puller.home.rglob(f"{role}.json"))
    place.write_bytes(b"[" * (Limits().max_bytes(role) + 1))
    assert (await puller.verify()).digest == Digest.of(b"image")
    assert place.read_bytes() in server.files.values()


async def test_an_over_long_root_file_is_refused_before_any_request(
    puller: Puller, server: Simulator
) -> None:
    given = server.files["1.root.json"] + b" " * Limits().root_bytes
    error = await puller.refused(ConfigurationError, root=given)
    assert "bytes" in error.message
    assert server.requests == []
    assert puller.kept() == {}


async def test_a_role_behind_32_others_is_found_and_no_further_one(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    for number in range(40):
        forge.delegate(f"r{number}", ["*"])
    for number in (31, 32, 39):
        path = f"of-{number}"
        forge.delegated[f"r{number}"].targets[path] = target(path.encode(), path)
    forge.targets.version += 1
    server.publish()
    assert (await puller.verify(f"{GUN}:of-31")).signers[0].role == "r31"
    for number in (32, 39):
        await puller.refused(
            NotSignedError, f"{GUN}:of-{number}", advanced=tuple(f"r{n}.json" for n in range(40))
        )
    assert not [name for name in server.requests if name.startswith("1.r32")]
    assert {match.path for match in await puller.client().targets(GUN)} == {"1.2", "of-31"}
    image = await puller.verify(f"{GUN}:of-39", limits=Limits(delegations=40))
    assert image.signers[0].role == "r39"


async def test_a_ring_of_delegations_ends(puller: Puller, server: Simulator, forge: Forge) -> None:
    signer = forge.delegate("alice", ["*"])
    assert forge.targets.delegations is not None
    forge.delegated["alice"].delegations = forge.targets.delegations
    forge.targets.version += 1
    server.publish()
    assert signer.public_key.keyid in forge.targets.delegations.keys
    with pytest.raises(NotSignedError):
        await puller.verify(f"{GUN}:9.9")
    assert server.requests.count("1.alice.json") == 1
    assert (await puller.client().refresh(GUN)).role("alice", "targets") is not None


@pytest.mark.parametrize("depth", [33, 1600])
async def test_deep_nesting_is_refused(puller: Puller, server: Simulator, depth: int) -> None:
    await puller.verify()
    server.files["timestamp.json"] = b'{"signed":' * depth
    await puller.refused(MalformedMetadataError)
