"""What a network or a mirror can do to a verifier: nothing but withhold.

After each refusal the cache still holds what was trusted before, and the next honest answer works.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey

import simulator
from forge import LATER, NOW, Forge, target
from puller import Puller
from simulator import GUN, IMAGE, Answer, Simulator
from tabellion.core.names import Digest
from tabellion.core.pinning import TrustPinning
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

DIGEST = Digest.of(b"image")
FAULTS: dict[str, Answer] = {
    "stall": simulator.stall,
    "cut_short": simulator.truncate,
    "endless": simulator.endless,
    "compressed": simulator.compressed,
    "elsewhere": simulator.redirect("http://localhost:1/other"),
    "broken": simulator.status(500),
    "html": simulator.html,
}


async def test_a_signed_tag_gives_its_digest_and_who_signed(puller: Puller, forge: Forge) -> None:
    image = await puller.verify()
    assert (image.digest, image.length) == (DIGEST, 5)
    assert image.signers[0].role == "targets"
    assert image.signers[0].keyids == (forge.signers["targets"][0].public_key.keyid,)
    assert image.versions == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}
    assert image.expires["timestamp"] == LATER


async def test_a_second_verification_asks_only_for_what_is_mutable(
    puller: Puller, server: Simulator
) -> None:
    await puller.verify()
    server.requests.clear()
    await puller.verify()
    assert server.requests == ["2.root.json", "timestamp.json"]


async def test_a_tag_nobody_signed_is_refused(puller: Puller) -> None:
    await puller.refused(NotSignedError, reference=f"{GUN}:9.9")


async def test_a_digest_nobody_signed_is_refused(puller: Puller) -> None:
    assert (await puller.verify(f"{GUN}@{DIGEST}")).target == "1.2"
    other = Digest.of(b"other")
    await puller.refused(NotSignedError, reference=f"{GUN}@{other}")
    await puller.refused(DigestMismatchError, reference=f"{IMAGE}@{other}")


async def test_children_of_a_signed_index_are_verified_and_picked_by_platform(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    child = Digest.of(b"arm")
    index = target(b"index", "multi")
    index.unrecognized_fields["custom"] = {
        "manifests": [{"digest": str(child), "platform": "linux/arm64/v8", "length": 3}]
    }
    forge.targets.targets["multi"] = index
    forge.targets.version = 2
    server.publish()
    async with puller.client() as trust:
        assert (await trust.verify(f"{GUN}@{child}")).digest == child
        picked = await trust.verify(f"{GUN}:multi", platform="linux/arm64")
        assert (picked.digest, picked.length) == (child, 3)
        again = await trust.verify(f"{GUN}:multi@{child}", platform="linux/arm64")
        assert again.digest == child
        index.unrecognized_fields["custom"]["manifests"].append(
            {"digest": str(DIGEST), "platform": "linux/amd64", "length": 5}
        )
        forge.targets.version = 3
        server.publish()
        with pytest.raises(DigestMismatchError):
            await trust.verify(f"{GUN}:multi@{child}", platform="linux/amd64")
        with pytest.raises(NotSignedError, match="s390x"):
            await trust.verify(f"{GUN}:multi", platform="linux/s390x")


async def test_a_malformed_reference_is_refused_before_any_request(
    puller: Puller, server: Simulator
) -> None:
    await puller.refused(InvalidNameError, reference="UPPER CASE")
    assert server.requests == []


async def test_a_rolled_back_timestamp_is_refused(puller: Puller, server: Simulator) -> None:
    old = server.files["timestamp.json"]
    server.publish()
    await puller.verify()
    new, server.files["timestamp.json"] = server.files["timestamp.json"], old
    await puller.refused(RollbackError)
    server.files["timestamp.json"] = new
    assert (await puller.verify()).digest == DIGEST


async def test_a_frozen_timestamp_is_refused_once_it_expires(puller: Puller) -> None:
    await puller.verify()
    await puller.refused(ExpiredMetadataError, now=LATER + timedelta(seconds=1))


async def test_files_of_two_releases_are_not_mixed(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    old = server.files["1.snapshot.json"]
    forge.targets.version = 2
    server.publish()
    new, server.files["2.snapshot.json"] = server.files["2.snapshot.json"], old
    await puller.refused(MixAndMatchError, advanced=("timestamp.json",))
    server.files["2.snapshot.json"] = new
    assert (await puller.verify()).versions["targets"] == 2


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
async def test_a_release_signed_with_a_wrong_key_is_refused(
    puller: Puller, server: Simulator, forge: Forge, role: str
) -> None:
    await puller.verify()
    honest = forge.signers[role]
    forge.signers[role] = [CryptoSigner.generate_ed25519()]
    forge.targets.version = 2
    server.publish()
    before_it = ("timestamp.json", "snapshot.json")[
        : ["timestamp", "snapshot", "targets"].index(role)
    ]
    await puller.refused(ThresholdError, advanced=before_it)
    forge.signers[role] = honest
    forge.targets.version = 3
    server.publish()
    assert (await puller.verify()).digest == DIGEST


async def test_fast_forwarded_versions_are_forgotten_when_online_keys_rotate(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    honest = server.files["timestamp.json"]
    for _ in range(3):
        server.publish()
    await puller.verify()
    server.files["timestamp.json"] = honest
    await puller.refused(RollbackError)
    forge.root.add_key(CryptoSigner.generate_ed25519().public_key, "timestamp")
    server.publish_root()
    assert (await puller.verify()).versions["timestamp"] == 1


@pytest.mark.parametrize(
    "name", ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
)
@pytest.mark.parametrize("fault", FAULTS)
async def test_b49_http_that_lies_is_our_error_and_heals(
    puller: Puller, server: Simulator, name: str, fault: str
) -> None:
    server.answers[name] = FAULTS[fault]
    await puller.refused(TabellionError)
    server.answers.clear()
    assert (await puller.verify()).digest == DIGEST


async def test_an_unknown_gun_is_said_to_be_unknown(puller: Puller, server: Simulator) -> None:
    root = server.files["1.root.json"]
    server.answers |= dict.fromkeys(server.files, simulator.unknown_gun)
    await puller.refused(UnknownGunError, root=root)
    await puller.refused(UnknownGunError, root=None, first_use=True)


@pytest.mark.parametrize("answer", [simulator.status(404), simulator.html])
async def test_a_server_that_is_no_trust_server_is_told_apart_from_an_unknown_gun(
    puller: Puller, server: Simulator, answer: Answer
) -> None:
    root = server.files["1.root.json"]
    server.answers |= dict.fromkeys([*server.files, "2.root.json"], answer)
    for pin in ({"root": root}, {"root": None, "first_use": True}):
        error = await puller.refused(ServerAnswerError, **pin)
        assert error.message == f"{server.url} doesn't answer as a trust server"
        assert "--server" in error.hint


@pytest.mark.parametrize("answer", [simulator.status(404), simulator.unknown_gun, simulator.html])
async def test_a_known_gun_that_disappeared_is_refused_whatever_the_server_is(
    puller: Puller, server: Simulator, answer: Answer
) -> None:
    await puller.verify()
    server.answers |= dict.fromkeys([*server.files, "2.root.json"], answer)
    for offline in ("deny", "last-known"):
        await puller.refused(VerificationError, offline=offline)


async def test_without_a_root_nothing_is_trusted(puller: Puller, server: Simulator) -> None:
    await puller.refused(UntrustedRootError, root=None)
    assert server.requests == []
    assert (await puller.verify(root=None, first_use=True)).digest == DIGEST
    assert (await puller.verify(root=None)).digest == DIGEST


async def test_a_root_key_fingerprint_decides_on_the_first_root(
    puller: Puller, forge: Forge
) -> None:
    keyid = forge.signers["root"][0].public_key.keyid
    await puller.refused(UntrustedRootError, root=None, root_fingerprint="0" * 64)
    assert (await puller.verify(root=None, root_fingerprint=keyid)).digest == DIGEST


async def test_without_an_answer_the_policy_decides(puller: Puller, server: Simulator) -> None:
    await puller.verify()
    server.answers["timestamp.json"] = simulator.status(500)
    await puller.refused(TransportError)
    known = await puller.verify(offline="last-known")
    assert (known.digest, known.offline) == (DIGEST, True)
    late = LATER + timedelta(seconds=1)
    await puller.refused(ExpiredMetadataError, offline="last-known", now=late)
    server.answers["timestamp.json"] = simulator.html
    with pytest.raises(TabellionError):
        await puller.verify(offline="last-known")


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json"])
async def test_a_cache_torn_at_any_byte_heals(puller: Puller, name: str) -> None:
    await puller.verify()
    (place,) = puller.home.rglob(name)
    whole = place.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 12)):
        place.write_bytes(whole[:size])
        assert (await puller.verify()).digest == DIGEST
        assert place.read_bytes() == whole


async def test_b46_many_processes_share_a_cache(server: Simulator, tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(server.files["1.root.json"])
    program = (
        "import sys, datetime, pathlib\n"
        "from tabellion import SyncTrustClient\n"
        f"now = datetime.datetime.fromisoformat({NOW.isoformat()!r})\n"
        "with SyncTrustClient(sys.argv[1], home=pathlib.Path(sys.argv[2]),\n"
        "    root=pathlib.Path(sys.argv[3]), clock=lambda: now) as trust:\n"
        f"    for _ in range(5): print(trust.verify({IMAGE!r}).digest)\n"
    )
    arguments = (sys.executable, "-c", program, server.url, str(tmp_path / "home"), str(root))
    processes = [
        await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        for _ in range(6)
    ]
    for process in processes:
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert out.decode().split() == [str(DIGEST)] * 5


async def test_many_tasks_share_a_client(puller: Puller) -> None:
    async with puller.client() as trust:
        images = await asyncio.gather(*(trust.verify(IMAGE) for _ in range(20)))
    assert {image.digest for image in images} == {DIGEST}


async def test_a_root_that_names_its_own_key_like_the_pinned_one_is_refused(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    pinned = forge.signers["root"][0].public_key.keyid
    evil = Forge()
    key = evil.signers["root"][0].public_key
    alias = SSlibKey(pinned, key.keytype, key.scheme, dict(key.keyval))
    evil.signers["root"] = [CryptoSigner(evil.signers["root"][0]._private_key, alias)]
    evil.root.revoke_key(key.keyid, "root")
    evil.root.add_key(alias, "root")
    evil.targets.targets["1.2"] = target(b"evil")
    server.files.clear()
    server.forge = evil
    server.publish()
    await puller.refused(UntrustedRootError, root=None, root_fingerprint=pinned)
    pins = TrustPinning({GUN: frozenset({pinned})})
    await puller.refused(UntrustedRootError, root=None, trust_pinning=pins)


async def test_a_root_of_something_else_given_by_mistake_does_not_stay(
    puller: Puller, forge: Forge
) -> None:
    other = Forge(signers={"root": forge.signers["root"]}).release()["root"]
    with pytest.raises(ThresholdError):
        await puller.verify(root=other)
    assert not [name for name in puller.kept() if name.endswith(".json")]
    assert (await puller.verify()).digest == DIGEST


async def test_what_is_no_fingerprint_is_said_to_be_none(puller: Puller) -> None:
    for text in ("abc", "zz" * 32, "a" * 65):
        await puller.refused(ConfigurationError, root=None, root_fingerprint=text)


async def test_an_expired_signer_hides_only_what_depends_on_it(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    server.add_delegation("alice", ["a*"])
    server.publish_target(b"hers", "a1", role="alice")
    forge.delegated["alice"].version += 1
    forge.delegated["alice"].expires = NOW - timedelta(days=1)
    server.publish()
    assert (await puller.verify(f"{GUN}@{DIGEST}")).target == "1.2"
    async with puller.client() as trust:
        listing = await trust.targets(GUN)
        assert [match.path for match in listing] == ["1.2"]
        assert [error.code for error in listing.left_out] == ["expired-metadata"]
        refreshed = await trust.refresh(GUN)
        assert refreshed.role("alice", "targets") is None
        assert list(refreshed.unusable) == [("targets", "alice")]
    for reference in (f"{GUN}:a1", f"{GUN}@{Digest.of(b'hers')}", f"{GUN}:a2"):
        await puller.refused(ExpiredMetadataError, reference)
