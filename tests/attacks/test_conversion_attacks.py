"""Conversion as an attacker's tool: a reader of a Notary GUN is shown a TUF root or its like."""

from __future__ import annotations

import copy
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from issuer import Issuer
from notary_conversion import Conversion, plain
from notary_gun import GUN, LATER, NOW, NotaryGun, certified, target
from tabellion.core.conversion import is_tuf_root, tuf_name
from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.fingerprints import fingerprints
from tabellion.core.notary_search import RELEASES
from tabellion.core.pinning import TrustPinning
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    ExpiredMetadataError,
    MixAndMatchError,
    NotFoundError,
    RollbackError,
    ThresholdError,
    UntrustedRootError,
    VerificationError,
)
from tabellion.verify.client import TrustClient

IMAGE = f"{GUN}:1.0"


class Shop:
    """A GUN's files by name as a server keeps them, before and after the conversion."""

    def __init__(self, gun: NotaryGun) -> None:
        self.gun = gun
        self.files: dict[str, bytes] = {}
        self.serve_notary()

    def serve_notary(self) -> None:
        for role, data in self.gun.files.items():
            version = NOTARY.parse(role, data, max_bytes=10**6).version
            self.files[f"{version}.{role}.json"] = data
            self.files[f"{role}.{hashlib.sha256(data).hexdigest()}.json"] = data
            self.files[f"{role}.json"] = data

    def convert(self, conversion: Conversion | None = None) -> Conversion:
        conversion = conversion or Conversion(self.gun)
        for role, data in conversion.serve().items():
            version = TUF.parse(role, data, max_bytes=10**6).version
            self.files[f"{version}.{role}.json"] = data
            if role in {"root", "timestamp"}:
                self.files[f"{role}.json"] = data
        return conversion

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:  # noqa: ARG002  (a fetcher's form)
        name = url.partition("/_trust/tuf/")[2]
        if name not in self.files:
            raise NotFoundError(url)
        return self.files[name]

    def client(self, home: Path, **trust: Any) -> TrustClient:
        return TrustClient(
            "https://trust.example",
            home=home,
            clock=lambda: NOW,
            fetcher=self,  # type: ignore[arg-type]
            **trust,
        )


def shown_by_server(conversion: Conversion) -> dict[str, bytes]:
    """Sign snapshot and timestamp for it with the server's keys, whatever the rules say."""
    files = conversion.files()
    versions = {
        role: TUF.parse(role, data, max_bytes=10**6).version for role, data in files.items()
    }
    roles = {role: (versions[role], data) for role, data in files.items() if role != "root"}
    snapshot = next_snapshot(TUF, None, roles, expires_at=LATER)
    snapshot.version = 90
    data = TUF.sign(snapshot, [conversion.online["snapshot"]])
    timestamp = next_timestamp(TUF, None, data, 90, expires_at=LATER)
    found = {f"{versions[role]}.{role}.json": each for role, each in files.items()}
    signed = TUF.sign(timestamp, [conversion.online["timestamp"]])
    return found | {"90.snapshot.json": data, "timestamp.json": signed}


def made(root_signer: Any = None) -> NotaryGun:
    gun = NotaryGun(root_signer)
    gun.targets["targets"].targets["1.0"] = target(b"owner's old word")
    gun.delegate(RELEASES)
    gun.targets[RELEASES].targets["1.0"] = target(b"released")
    gun.release()
    return gun


@pytest.fixture
def gun() -> NotaryGun:
    return made()


@pytest.fixture
def shop(gun: NotaryGun) -> Shop:
    return Shop(gun)


@pytest.fixture
def trusted(gun: NotaryGun) -> TrustedSet:
    return TrustedSet(gun.files["root"], now=NOW, gun=GUN)


async def test_a_warm_reader_follows_and_does_not_go_back(shop: Shop, tmp_path: Path) -> None:
    before = dict(shop.files)
    async with shop.client(tmp_path, root=shop.gun.files["root"]) as trust:
        released = (await trust.verify(IMAGE)).digest
    shop.convert()
    for _ in range(2):
        async with shop.client(tmp_path, root=shop.gun.files["root"]) as trust:
            assert (await trust.verify(IMAGE)).digest == released
            assert (await trust.refresh(GUN)).dialect is TUF
    shop.files = before
    async with shop.client(tmp_path, root=shop.gun.files["root"]) as trust:
        with pytest.raises((VerificationError, NotFoundError)):
            await trust.verify(IMAGE)


async def test_cold_readers_get_there_from_any_trust(shop: Shop, tmp_path: Path) -> None:
    key = shop.gun.signers["root"][0].public_key
    old = shop.gun.files["root"]
    conversion = shop.convert()
    trusts: list[dict[str, Any]] = [
        {"root": old},
        {"root": shop.files["2.root.json"]},
        {"first_use": True},
    ]
    trusts += [{"root_fingerprint": each} for each in fingerprints(key)]
    trusts += [{"root_fingerprint": conversion.signers["root"][0].public_key.keyid}]
    for number, trust in enumerate(trusts):
        async with shop.client(tmp_path / str(number), **trust) as reader:
            assert (await reader.verify(IMAGE)).digest.hex == target(b"released").hashes["sha256"]
    async with shop.client(tmp_path / "wrong", root_fingerprint="ab" * 32) as reader:
        with pytest.raises(UntrustedRootError):
            await reader.verify(IMAGE)


async def test_a_first_root_of_version_2_or_a_lost_one_is_begun_after(tmp_path: Path) -> None:
    gun = NotaryGun()
    gun.targets["targets"].targets["1.0"] = target(b"image")
    gun.root.version = 2
    gun.release()
    for lost in ([], ["2.root.json"]):
        shop = Shop(gun)
        shop.convert()
        for name in lost:
            del shop.files[name]
        async with shop.client(tmp_path / str(len(lost)), first_use=True) as reader:
            assert await reader.verify(IMAGE)


async def test_readers_get_out_of_an_expired_certificate(tmp_path: Path) -> None:
    gun = made(certified(ends=NOW + timedelta(days=1)))
    shop = Shop(gun)
    conversion = Conversion(gun)
    later = NOW + timedelta(days=2)

    def client(home: Path, **trust: Any) -> TrustClient:
        return TrustClient(
            "https://trust.example",
            home=home,
            clock=lambda: later,
            fetcher=shop,  # type: ignore[arg-type]
            **trust,
        )

    async with shop.client(tmp_path / "warm", root=gun.files["root"]) as trust:
        await trust.verify(IMAGE)
    for home in ("warm", "cold"):
        async with client(tmp_path / home, root=gun.files["root"]) as trust:
            with pytest.raises(ExpiredMetadataError):
                await trust.verify(IMAGE)
    served = conversion.serve()
    shop.files |= {"2.root.json": served["root"], "timestamp.json": served["timestamp"]}
    shop.files |= {f"2.{role}.json": data for role, data in served.items()}
    for home, trust in (
        ("warm", {"root": gun.files["root"]}),
        ("cold", {"root": gun.files["root"]}),
        ("pinned", {"root_fingerprint": gun.signers["root"][0].public_key.keyid}),
        ("first", {"first_use": True}),
    ):
        async with client(tmp_path / home, **trust) as reader:  # type: ignore[arg-type]
            assert await reader.verify(IMAGE)


def test_the_servers_own_keys_convert_nothing(gun: NotaryGun, trusted: TrustedSet) -> None:
    conversion = Conversion(gun)
    forged = copy.deepcopy(conversion.root)
    own = CryptoSigner.generate_ed25519()
    forged.roles["root"].keyids = []
    forged.add_key(own.public_key, "root")
    online = [plain(gun.signers[role][0]) for role in ("snapshot", "timestamp", "targets")]
    for signers in ([own], [own, *online], [*online, *conversion.signers["root"]]):
        with pytest.raises(ThresholdError):
            trusted.update_root(TUF.sign(forged, signers))
    assert (trusted.dialect, trusted.root.version) == (NOTARY, 1)


def test_the_old_threshold_is_asked_of_the_old_keys(gun: NotaryGun) -> None:
    second = certified()
    gun.root.add_key(second.public_key, "root")
    gun.root.roles["root"].threshold = 2
    gun.signers["root"].append(second)
    gun.release()
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    conversion = Conversion(gun)
    stranger = CryptoSigner.generate_ecdsa()
    conversion.root.add_key(stranger.public_key, "root")
    with pytest.raises(ThresholdError):  # two of the new root's keys, one of the old one's
        trusted.update_root(TUF.sign(conversion.root, [conversion.signers["root"][0], stranger]))
    twice = copy.deepcopy(conversion.root)
    twin = copy.deepcopy(conversion.signers["root"][0].public_key)
    twin.keyid = "cd" * 32
    twice.add_key(twin, "root")
    private = conversion.signers["root"][0]._private_key  # type: ignore[attr-defined]
    twins = [conversion.signers["root"][0], CryptoSigner(private, twin)]  # type: ignore[arg-type]
    with pytest.raises(ThresholdError):  # one key under two ids
        trusted.update_root(TUF.sign(twice, twins))
    assert trusted.dialect is NOTARY
    trusted.update_root(TUF.sign(conversion.root, list(conversion.signers["root"])))
    assert trusted.dialect is TUF


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_than_the_next_is_refused(
    gun: NotaryGun, trusted: TrustedSet, version: int
) -> None:
    conversion = Conversion(gun)
    conversion.root.version = version
    with pytest.raises(RollbackError):
        trusted.update_root(TUF.sign(conversion.root, list(conversion.signers["root"])))
    assert trusted.dialect is NOTARY


def test_nobody_is_led_back_to_notary(gun: NotaryGun, trusted: TrustedSet) -> None:
    conversion = Conversion(gun)
    trusted.update_root(conversion.files()["root"])
    gun.root.version = 3
    for data in (gun.sign("root"), gun.files["root"]):
        with pytest.raises(VerificationError):
            trusted.update_root(data)
    assert (trusted.dialect, trusted.root.version) == (TUF, 2)
    # Its files don't pass for the new GUN's either.
    for take, role in (
        (trusted.update_timestamp, "timestamp"),
        (trusted.load_snapshot, "snapshot"),
    ):
        with pytest.raises(VerificationError):
            take(gun.files[role])


def test_a_forged_notary_root_beside_it_is_refused(gun: NotaryGun, trusted: TrustedSet) -> None:
    forger = certified()
    forged = NotaryGun(forger)
    forged.root.version = 2
    with pytest.raises(ThresholdError):
        trusted.update_root(forged.sign("root"))
    assert trusted.update_root(Conversion(gun).files()["root"]).version == 2


def test_a_key_for_another_gun_converts_nothing(gun: NotaryGun) -> None:
    other = certified(name="elsewhere.example/app")
    gun.root.add_key(other.public_key, "root")
    gun.release("root")
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    conversion = Conversion(gun)
    conversion.root.add_key(plain(other).public_key, "root")
    with pytest.raises(ThresholdError):
        trusted.update_root(TUF.sign(conversion.root, [plain(other)]))


def test_a_key_under_an_id_that_is_not_its_own_converts_nothing(gun: NotaryGun) -> None:
    """Notary takes no signature of such a key, so it may stand in a root unnoticed."""
    stranger = certified()
    key = copy.deepcopy(stranger.public_key)
    key.keyid = "ab" * 32
    gun.root.add_key(key, "root")
    gun.release("root")
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    conversion = Conversion(gun)
    conversion.root.add_key(plain(stranger).public_key, "root")
    with pytest.raises(ThresholdError):
        trusted.update_root(TUF.sign(conversion.root, [plain(stranger)]))
    assert trusted.dialect is NOTARY


def test_a_notary_root_with_a_spec_version_is_none_of_tuf() -> None:
    for kind, is_tuf in (("Root", False), ("root", True)):
        data = b'{"signed": {"_type": "%s", "spec_version": "1.0"}}' % kind.encode()
        assert is_tuf_root(data) is is_tuf


def test_who_reads_notary_only_is_not_converted(gun: NotaryGun) -> None:
    """An import or a mirror copies Notary's files, and nothing else."""
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN, dialect=NOTARY)
    with pytest.raises(VerificationError):
        trusted.update_root(Conversion(gun).files()["root"])


@pytest.mark.parametrize("role", ["targets", RELEASES])
@pytest.mark.parametrize("versions", [1, 2])
async def test_a_conversion_that_was_signed_once_shows_nothing_older_than_was_seen(
    shop: Shop, gun: NotaryGun, tmp_path: Path, role: str, versions: int
) -> None:
    abandoned = Conversion(gun)
    for _ in range(versions):
        gun.targets[role].version += 1
        gun.targets[role].targets["1.0"] = target(b"newer")
        gun.release(role)
        shop.serve_notary()
    async with shop.client(tmp_path, root=gun.files["root"]) as trust:
        await trust.verify(IMAGE)
    honest = dict(shop.files)
    shop.files |= shown_by_server(abandoned)
    for _ in range(2):
        async with shop.client(tmp_path, root=gun.files["root"]) as trust:
            with pytest.raises((RollbackError, MixAndMatchError), match=tuf_name(role)):
                await trust.verify(IMAGE)
    shop.files = honest
    shop.convert()
    async with shop.client(tmp_path / "new", root=gun.files["root"]) as trust:
        assert await trust.verify(IMAGE)


def contents(home: Path) -> dict[Path, bytes]:
    files = (path for path in home.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


async def refused(shop: Shop, home: Path, pins: TrustPinning) -> None:
    """See the image refused, twice, by a reader whose files stay as they are."""
    before = contents(home)
    for _ in range(2):
        async with shop.client(home, first_use=True, trust_pinning=pins) as trust:
            with pytest.raises(UntrustedRootError):
                await trust.verify(IMAGE)
        assert contents(home) == before


async def test_a_pin_by_bare_key_holds_through_a_conversion_and_no_other_does(
    tmp_path: Path,
) -> None:
    authority = Issuer()
    shop = Shop(made(authority.issue()))
    key: Any = shop.gun.signers["root"][0].public_key
    bare = TrustPinning({GUN: frozenset({key.canonical_id})})
    certificate = TrustPinning({GUN: frozenset({key.computed_id})})
    issued = TrustPinning(ca={"registry.example/": (authority.certificate,)})
    for name, pins in (("bare", bare), ("certificate", certificate), ("issued", issued)):
        async with shop.client(tmp_path / name, trust_pinning=pins) as trust:
            released = (await trust.verify(IMAGE)).digest
    shop.convert()
    for home in (tmp_path / "bare", tmp_path / "cold"):
        async with shop.client(home, trust_pinning=bare) as trust:
            assert (await trust.verify(IMAGE)).digest == released
    await refused(shop, tmp_path / "certificate", certificate)
    await refused(shop, tmp_path / "issued", issued)
    await refused_when_cold(shop, tmp_path, certificate, issued)


async def refused_when_cold(shop: Shop, home: Path, *pins: TrustPinning) -> None:
    for number, each in enumerate(pins):
        async with shop.client(home / f"cold-{number}", trust_pinning=each) as trust:
            with pytest.raises(UntrustedRootError):
                await trust.verify(IMAGE)


async def test_a_conversion_leads_to_no_other_key_and_back_to_the_pin(
    shop: Shop, tmp_path: Path
) -> None:
    key: Any = shop.gun.signers["root"][0].public_key
    pins = TrustPinning({GUN: frozenset({key.canonical_id})})
    async with shop.client(tmp_path / "warm", trust_pinning=pins) as trust:
        await trust.verify(IMAGE)
    conversion = Conversion(shop.gun)
    ours, theirs = conversion.signers["root"][0], CryptoSigner.generate_ecdsa()
    bridge, back = copy.deepcopy(conversion.root), copy.deepcopy(conversion.root)
    bridge.revoke_key(ours.public_key.keyid, "root")
    bridge.add_key(theirs.public_key, "root")
    back.version = bridge.version + 1
    shop.convert(conversion)
    shop.files["2.root.json"] = TUF.sign(bridge, [ours, theirs])
    shop.files["3.root.json"] = shop.files["root.json"] = TUF.sign(back, [ours, theirs])
    await refused(shop, tmp_path / "warm", pins)


@pytest.mark.parametrize("role", ["targets", RELEASES])
async def test_a_key_id_that_stands_for_no_key_hides_nothing_that_was_seen(
    shop: Shop, gun: NotaryGun, tmp_path: Path, role: str
) -> None:
    abandoned = Conversion(gun)
    if role == "targets":
        abandoned.root.roles["targets"].keyids.insert(0, "ab" * 32)
    else:
        delegations = abandoned.payloads["targets"].delegations
        assert delegations is not None
        assert delegations.roles is not None
        delegations.roles[tuf_name(role)].keyids.insert(0, "ab" * 32)
    gun.targets[role].version += 2
    gun.release(role)
    shop.serve_notary()
    async with shop.client(tmp_path, root=gun.files["root"]) as trust:
        await trust.verify(IMAGE)
    shop.files |= shown_by_server(abandoned)
    async with shop.client(tmp_path, root=gun.files["root"]) as trust:
        with pytest.raises(RollbackError, match=tuf_name(role)):
            await trust.verify(IMAGE)
