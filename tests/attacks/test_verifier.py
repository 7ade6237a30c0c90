"""What a network or a mirror can do to a verifier: nothing but withhold.

After each refusal the cache still holds what was trusted before, and the next honest answer works.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey

import mirror as mirrors
from forge import LATER, NOW, Forge, target
from mirror import Mirror, serving
from tabellion import TrustClient
from tabellion.core.names import Digest
from tabellion.errors import (
    ConfigurationError,
    DigestMismatchError,
    ExpiredMetadataError,
    InvalidNameError,
    MixAndMatchError,
    NotSignedError,
    RollbackError,
    ServerAnswerError,
    TabellionError,
    ThresholdError,
    TransportError,
    UnknownGunError,
    UntrustedRootError,
    VerificationError,
)
from tabellion.transport.fetcher import HttpFetcher

IMAGE = "registry.example/app:1.2"
GUN = "registry.example/app"
DIGEST = Digest.of(b"image")


@pytest.fixture
def forge() -> Forge:
    made = Forge()
    made.targets.targets["1.2"] = target(b"image")
    return made


@pytest.fixture
async def mirror(forge: Forge) -> AsyncIterator[Mirror]:
    async with serving(Mirror()) as served:
        served.publish(forge)
        yield served


@asynccontextmanager
async def client(
    mirror: Mirror, home: Path, *, now: datetime = NOW, **options: Any
) -> AsyncIterator[TrustClient]:
    """Make a verifier with little patience."""
    options.setdefault("root", mirror.files.get("1.root.json"))
    async with (
        HttpFetcher(stall_seconds=0.3, total_seconds=5) as fetcher,
        TrustClient(mirror.url, home=home, clock=lambda: now, fetcher=fetcher, **options) as trust,
    ):
        yield trust


async def verify(mirror: Mirror, home: Path, reference: str = IMAGE, **options: Any) -> Any:
    async with client(mirror, home, **options) as trust:
        return await trust.verify(reference)


def cached(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*.json")}


async def refused(
    error: type[TabellionError],
    mirror: Mirror,
    home: Path,
    *,
    advanced: tuple[str, ...] = (),
    **options: Any,
) -> TabellionError:
    """See it refused; only files that came before the refused one, in order, may be newer."""
    before = {name: data for name, data in cached(home).items() if not name.endswith(advanced)}
    with pytest.raises(error) as caught:
        await verify(mirror, home, **options)
    after = cached(home)
    assert before.items() <= after.items() or not before, "a refusal changed what was trusted"
    assert caught.value.hint
    return caught.value


async def test_a_signed_tag_gives_its_digest_and_who_signed(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    image = await verify(mirror, tmp_path)
    assert (image.digest, image.length) == (DIGEST, 5)
    assert image.signers[0].role == "targets"
    assert image.signers[0].keyids == (forge.signers["targets"][0].public_key.keyid,)
    assert image.versions == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}
    assert image.expires["timestamp"] == LATER


async def test_a_second_verification_asks_only_for_what_is_mutable(
    mirror: Mirror, tmp_path: Path
) -> None:
    await verify(mirror, tmp_path)
    mirror.requests.clear()
    await verify(mirror, tmp_path)
    assert mirror.requests == ["2.root.json", "timestamp.json"]


async def test_a_tag_nobody_signed_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    await refused(NotSignedError, mirror, tmp_path, reference=f"{GUN}:9.9")


async def test_a_digest_nobody_signed_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    assert (await verify(mirror, tmp_path, f"{GUN}@{DIGEST}")).target == "1.2"
    other = Digest.of(b"other")
    await refused(NotSignedError, mirror, tmp_path, reference=f"{GUN}@{other}")
    await refused(DigestMismatchError, mirror, tmp_path, reference=f"{IMAGE}@{other}")


async def test_children_of_a_signed_index_are_verified_and_picked_by_platform(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    child = Digest.of(b"arm")
    index = target(b"index", "multi")
    index.unrecognized_fields["custom"] = {
        "manifests": [{"digest": str(child), "platform": "linux/arm64/v8", "length": 3}]
    }
    forge.targets.targets["multi"] = index
    forge.targets.version = 2
    mirror.publish(forge)
    async with client(mirror, tmp_path) as trust:
        assert (await trust.verify(f"{GUN}@{child}")).digest == child
        picked = await trust.verify(f"{GUN}:multi", platform="linux/arm64")
        assert (picked.digest, picked.length) == (child, 3)
        again = await trust.verify(f"{GUN}:multi@{child}", platform="linux/arm64")
        assert again.digest == child
        index.unrecognized_fields["custom"]["manifests"].append(
            {"digest": str(DIGEST), "platform": "linux/amd64", "length": 5}
        )
        forge.targets.version = 3
        mirror.publish(forge)
        with pytest.raises(DigestMismatchError):
            await trust.verify(f"{GUN}:multi@{child}", platform="linux/amd64")
        with pytest.raises(NotSignedError, match="s390x"):
            await trust.verify(f"{GUN}:multi", platform="linux/s390x")


async def test_a_malformed_reference_is_refused_before_any_request(
    mirror: Mirror, tmp_path: Path
) -> None:
    await refused(InvalidNameError, mirror, tmp_path, reference="UPPER CASE")
    assert mirror.requests == []


async def test_a_rolled_back_timestamp_is_refused(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    old = mirror.files["timestamp.json"]
    mirror.publish(forge)
    await verify(mirror, tmp_path)
    new, mirror.files["timestamp.json"] = mirror.files["timestamp.json"], old
    await refused(RollbackError, mirror, tmp_path)
    mirror.files["timestamp.json"] = new
    assert (await verify(mirror, tmp_path)).digest == DIGEST


async def test_a_frozen_timestamp_is_refused_once_it_expires(
    mirror: Mirror, tmp_path: Path
) -> None:
    await verify(mirror, tmp_path)
    await refused(ExpiredMetadataError, mirror, tmp_path, now=LATER + timedelta(seconds=1))


async def test_files_of_two_releases_are_not_mixed(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    old = mirror.files["1.snapshot.json"]
    forge.targets.version = 2
    mirror.publish(forge)
    new, mirror.files["2.snapshot.json"] = mirror.files["2.snapshot.json"], old
    await refused(MixAndMatchError, mirror, tmp_path, advanced=("timestamp.json",))
    mirror.files["2.snapshot.json"] = new
    assert (await verify(mirror, tmp_path)).versions["targets"] == 2


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
async def test_a_release_signed_with_a_wrong_key_is_refused(
    mirror: Mirror, forge: Forge, tmp_path: Path, role: str
) -> None:
    await verify(mirror, tmp_path)
    honest = forge.signers[role]
    forge.signers[role] = [CryptoSigner.generate_ed25519()]
    forge.targets.version = 2
    mirror.publish(forge)
    before_it = ("timestamp.json", "snapshot.json")[
        : ["timestamp", "snapshot", "targets"].index(role)
    ]
    await refused(ThresholdError, mirror, tmp_path, advanced=before_it)
    forge.signers[role] = honest
    forge.targets.version = 3
    mirror.publish(forge)
    assert (await verify(mirror, tmp_path)).digest == DIGEST


async def test_fast_forwarded_versions_are_forgotten_when_online_keys_rotate(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    honest = mirror.files["timestamp.json"]
    for _ in range(3):
        mirror.publish(forge)
    await verify(mirror, tmp_path)
    mirror.files["timestamp.json"] = honest
    await refused(RollbackError, mirror, tmp_path)
    forge.root.add_key(CryptoSigner.generate_ed25519().public_key, "timestamp")
    forge.root.version = 2
    forge.release()
    mirror.files["2.root.json"] = forge.files["root"]
    assert (await verify(mirror, tmp_path)).versions["timestamp"] == 1


@pytest.mark.parametrize(
    "name", ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
)
@pytest.mark.parametrize(
    "fault", ["stall", "cut_short", "endless", "compressed", "elsewhere", "broken", "html"]
)
async def test_b49_http_that_lies_is_our_error_and_heals(
    mirror: Mirror, tmp_path: Path, name: str, fault: str
) -> None:
    mirror.faults[name] = getattr(mirrors, fault)
    await refused(TabellionError, mirror, tmp_path)
    mirror.faults.clear()
    assert (await verify(mirror, tmp_path)).digest == DIGEST


async def test_an_unknown_gun_is_said_to_be_unknown(mirror: Mirror, tmp_path: Path) -> None:
    root = mirror.files["1.root.json"]
    mirror.faults |= dict.fromkeys(mirror.files, mirrors.unknown_gun)
    await refused(UnknownGunError, mirror, tmp_path, root=root)
    await refused(UnknownGunError, mirror, tmp_path, root=None, first_use=True)


@pytest.mark.parametrize("fault", ["not_found", "html"])
async def test_a_server_that_is_no_trust_server_is_told_apart_from_an_unknown_gun(
    mirror: Mirror, tmp_path: Path, fault: str
) -> None:
    root = mirror.files["1.root.json"]
    names = [*mirror.files, "2.root.json"]
    mirror.files.clear()
    if fault == "html":
        mirror.faults |= dict.fromkeys(names, mirrors.html)
    for pin in ({"root": root}, {"root": None, "first_use": True}):
        error = await refused(ServerAnswerError, mirror, tmp_path, **pin)
        assert error.message == f"{mirror.url} doesn't answer as a trust server"
        assert "--server" in error.hint


@pytest.mark.parametrize("fault", ["not_found", "unknown_gun", "html"])
async def test_a_known_gun_that_disappeared_is_refused_whatever_the_server_is(
    mirror: Mirror, tmp_path: Path, fault: str
) -> None:
    await verify(mirror, tmp_path)
    names = list(mirror.files)
    mirror.files.clear()
    if fault != "not_found":
        mirror.faults |= dict.fromkeys(names, getattr(mirrors, fault))
    for offline in ("deny", "last-known"):
        await refused(VerificationError, mirror, tmp_path, offline=offline)


async def test_without_a_root_nothing_is_trusted(mirror: Mirror, tmp_path: Path) -> None:
    await refused(UntrustedRootError, mirror, tmp_path, root=None)
    assert mirror.requests == []
    assert (await verify(mirror, tmp_path, root=None, first_use=True)).digest == DIGEST
    assert (await verify(mirror, tmp_path, root=None)).digest == DIGEST


async def test_a_root_key_fingerprint_decides_on_the_first_root(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    keyid = forge.signers["root"][0].public_key.keyid
    await refused(UntrustedRootError, mirror, tmp_path, root=None, root_fingerprint="0" * 64)
    assert (await verify(mirror, tmp_path, root=None, root_fingerprint=keyid)).digest == DIGEST


async def test_without_an_answer_the_policy_decides(mirror: Mirror, tmp_path: Path) -> None:
    await verify(mirror, tmp_path)
    mirror.faults["timestamp.json"] = mirrors.broken
    await refused(TransportError, mirror, tmp_path)
    known = await verify(mirror, tmp_path, offline="last-known")
    assert (known.digest, known.offline) == (DIGEST, True)
    late = LATER + timedelta(seconds=1)
    await refused(ExpiredMetadataError, mirror, tmp_path, offline="last-known", now=late)
    mirror.faults["timestamp.json"] = mirrors.html
    with pytest.raises(TabellionError):
        await verify(mirror, tmp_path, offline="last-known")


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json"])
async def test_a_cache_torn_at_any_byte_heals(mirror: Mirror, tmp_path: Path, name: str) -> None:
    await verify(mirror, tmp_path)
    (place,) = tmp_path.rglob(name)
    whole = place.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 12)):
        place.write_bytes(whole[:size])
        assert (await verify(mirror, tmp_path)).digest == DIGEST
        assert place.read_bytes() == whole


async def test_b46_many_processes_share_a_cache(mirror: Mirror, tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(mirror.files["1.root.json"])
    program = (
        "import sys, datetime, pathlib\n"
        "from tabellion import SyncTrustClient\n"
        f"now = datetime.datetime.fromisoformat({NOW.isoformat()!r})\n"
        "with SyncTrustClient(sys.argv[1], home=pathlib.Path(sys.argv[2]),\n"
        "    root=pathlib.Path(sys.argv[3]), clock=lambda: now) as trust:\n"
        f"    for _ in range(5): print(trust.verify({IMAGE!r}).digest)\n"
    )
    arguments = (sys.executable, "-c", program, mirror.url, str(tmp_path / "home"), str(root))
    processes = [
        await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        for _ in range(6)
    ]
    for process in processes:
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert out.decode().split() == [str(DIGEST)] * 5


async def test_many_tasks_share_a_client(mirror: Mirror, tmp_path: Path) -> None:
    async with client(mirror, tmp_path) as trust:
        images = await asyncio.gather(*(trust.verify(IMAGE) for _ in range(20)))
    assert {image.digest for image in images} == {DIGEST}


async def test_a_root_that_names_its_own_key_like_the_pinned_one_is_refused(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    pinned = forge.signers["root"][0].public_key.keyid
    evil = Forge()
    key = evil.signers["root"][0].public_key
    alias = SSlibKey(pinned, key.keytype, key.scheme, dict(key.keyval))
    evil.signers["root"] = [CryptoSigner(evil.signers["root"][0]._private_key, alias)]
    evil.root.revoke_key(key.keyid, "root")
    evil.root.add_key(alias, "root")
    evil.targets.targets["1.2"] = target(b"evil")
    mirror.files.clear()
    mirror.publish(evil)
    await refused(UntrustedRootError, mirror, tmp_path, root=None, root_fingerprint=pinned)


async def test_a_root_of_something_else_given_by_mistake_does_not_stay(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    other = Forge(signers={"root": forge.signers["root"]}).release()["root"]
    with pytest.raises(ThresholdError):
        await verify(mirror, tmp_path, root=other)
    assert cached(tmp_path) == {}
    assert (await verify(mirror, tmp_path)).digest == DIGEST


async def test_what_is_no_fingerprint_is_said_to_be_none(mirror: Mirror, tmp_path: Path) -> None:
    for text in ("abc", "zz" * 32, "a" * 65):
        await refused(ConfigurationError, mirror, tmp_path, root=None, root_fingerprint=text)
