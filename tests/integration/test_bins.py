"""Hash bins from founding to rotation on a real server, read by python-tuf's client as well."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater

import publisher_process
from person import Person, twin
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.expiry import BinsState, remedy
from tabellion.core.names import Digest
from tabellion.core.publication import UploadedFile
from tabellion.errors import KeyStoreError, NotSignedError, RefusedPublicationError, UsageError
from tabellion.publish.public_keys import public_pem
from tabellion.publish.signing import Expiries

SECRET = publisher_process.PASSPHRASES["TABELLION_SIGNER_PASSPHRASE"]
TARGETS_SECRET = publisher_process.PASSPHRASES["TABELLION_TARGETS_PASSPHRASE"]
TAGS = [f"1.{number}" for number in range(20)]


def as_python_tuf(url: str, gun: str, home: Path, root: bytes, path: str) -> TargetFile | None:
    home.mkdir(exist_ok=True)
    base = f"{url}/v2/{gun}/_trust/tuf/"
    return Updater(str(home), base, bootstrap=root).get_targetinfo(path)


@pytest.mark.parametrize("snapshot", ["server", "local"])
async def test_a_target_signs_its_bin_alone(
    server: EmbeddedServer, gun: str, tmp_path: Path, snapshot: Literal["server", "local"]
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun, bins=128, snapshot=snapshot)
        versions = await owner.sign(gun, "1.2")
        (role,) = versions.keys() - {"snapshot"}
        assert role.startswith("bin1-")
        assert versions[role] == 2
        assert await owner.signed(gun) == {"1.2": Digest.of(b"1.2").hex}
        assert (await owner.trust.verify_target(gun, "1.2")).signers[0].role == role
        assert set((await owner.publisher.revoke(gun, "1.2")).versions) - {"snapshot"} == {role}
        assert await owner.digest(gun, "1.2") is None
        entries = await owner.publisher.history(gun, target="1.2")
        assert [entry.kind for entry in entries] == ["revoked", "signed"]
        with pytest.raises(NotSignedError):
            await owner.publisher.revoke(gun, "1.2")
        assert await owner.version(gun) == 1


async def test_python_tuf_finds_targets_in_bins_before_and_after_rebinning(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, bins=4)
        for tag in TAGS:
            await owner.sign(gun, tag)

        async def all_found(bins: int) -> None:
            for home in ("old", f"fresh-{bins}"):
                for tag in [*TAGS[:5], "none"]:
                    found = await asyncio.to_thread(
                        as_python_tuf, server.url, gun, tmp_path / home, made.root, tag
                    )
                    hashes = found.hashes if found is not None else None
                    wanted = {"sha256": Digest.of(tag.encode()).hex}
                    assert hashes == (None if tag == "none" else wanted)

        await all_found(4)
        before = await owner.signed(gun)
        outcome = await owner.publisher.rebin(gun, 128)
        assert outcome.versions["targets"] == 2
        assert len(outcome.versions) == 1 + 128
        assert await owner.signed(gun) == before
        await all_found(128)
        # A tag that only moved was signed once, and by its own history still is.
        entries = await owner.publisher.history(gun, limit=200)
        assert [entry.kind for entry in entries] == ["signed"] * len(TAGS)


async def test_a_flat_gun_is_spread_over_bins_and_a_home_that_knew_it_follows(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun)
        await owner.sign(gun, "1.0")
        async with Person(server.url, tmp_path / "reader", made.root) as reader:
            assert await reader.signed(gun) == {"1.0": Digest.of(b"1.0").hex}
            await owner.publisher.rebin(gun, 8)
            await owner.sign(gun, "1.1")
            assert (await reader.signed(gun)).keys() == {"1.0", "1.1"}
            assert (await reader.trust.target(gun, "1.0")).role.role.startswith("bin1-")


async def test_signing_and_rebinning_at_once_lose_nothing(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "one") as one:
        await one.publisher.init(gun, bins=2)
        async with twin(one, tmp_path / "two", server.url) as two:

            async def sign_all() -> None:
                for tag in TAGS:
                    await two.sign(gun, tag)

            async def rebin() -> None:
                for bins in (4, 8, 16):
                    await one.publisher.rebin(gun, bins)

            await asyncio.gather(sign_all(), rebin())
        assert await one.signed(gun) == {tag: Digest.of(tag.encode()).hex for tag in TAGS}
        assert (await one.trust.target(gun, TAGS[0])).role.role.startswith("bin4-")


async def test_bins_have_their_own_key_until_rebin_gives_them_another(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        key = owner.keys.generate("signer", passphrase=SECRET, name="ci")
        other = owner.keys.generate("signer", passphrase=SECRET, name="ci2")
        await owner.publisher.init(gun, bins=4, bins_keys=["ci"])
        await owner.sign(gun, "1.0")
        found = await owner.trust.target(gun, "1.0")
        assert found.role.signed_by == (key.key.keyid,)
        assert (await owner.publisher.rebin(gun, 4, keys=[key.key])).versions == {}
        outcome = await owner.publisher.rebin(gun, 4, keys=[other.key])
        assert len(outcome.versions) == 1 + 4
        found = await owner.trust.target(gun, "1.0")
        # The same bins: a name that a snapshot lists stays in it for ever.
        assert (found.role.role[:5], found.role.signed_by) == ("bin1-", (other.key.keyid,))


@pytest.mark.parametrize("snapshot", ["server", "local"])
async def test_rotating_targets_signs_its_bins_anew_in_the_same_publication(
    server: EmbeddedServer, gun: str, tmp_path: Path, snapshot: Literal["server", "local"]
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, bins=8, snapshot=snapshot)
        for tag in TAGS[:5]:
            await owner.sign(gun, tag)
        before = await owner.signed(gun)
        warm = Person(server.url, tmp_path / "warm", made.root)
        found = await asyncio.to_thread(
            as_python_tuf, server.url, gun, tmp_path / "peer", made.root, TAGS[0]
        )
        assert found is not None
        async with warm:
            assert await warm.signed(gun) == before
            outcome = await owner.publisher.rotate(gun, "targets")
            bins = {role for role in outcome.versions if role.startswith("bin1-")}
            assert len(bins) == 8
            assert outcome.versions.keys() - bins - {"snapshot"} == {"root", "targets"}
            assert outcome.own_bins == 0
            new = (await warm.trust.target(gun, TAGS[0])).role.signed_by
            assert new[0] not in {key.key.keyid for key in made.targets_keys}
            assert await warm.signed(gun) == before
        async with Person(server.url, tmp_path / "cold", made.root) as cold:
            assert await cold.signed(gun) == before
        for home in ("peer", "fresh"):
            for tag in TAGS[:5]:
                found = await asyncio.to_thread(
                    as_python_tuf, server.url, gun, tmp_path / home, made.root, tag
                )
                assert found is not None
                assert found.hashes == {"sha256": before[tag]}
        # Nothing was signed or withdrawn, and the next target needs its bin alone.
        entries = await owner.publisher.history(gun, limit=200)
        assert [entry.kind for entry in entries] == ["signed"] * 5
        versions = await owner.sign(gun, "2.0")
        assert len(versions.keys() - {"snapshot"}) == 1


async def test_a_bin_signed_by_the_rotated_targets_key_is_refused(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, bins=4)
        await owner.sign(gun, "1.0")
        async with twin(owner, tmp_path / "thief", server.url) as thief:
            await owner.publisher.rotate(gun, "targets")
            before = await owner.signed(gun)
            with pytest.raises(KeyStoreError, match="no key here may sign"):
                await thief.sign(gun, "1.1")
            current = await owner.publisher._reader.read(gun, bins=None)
            role = (await owner.trust.target(gun, "1.0")).role.role
            old = thief.publisher._ring.private(made.targets_keys[0])
            payload = copy.deepcopy(current.roles[role].signed)
            payload.version += 1
            payload.targets.clear()
            forged = TUF.sign(payload, [TUF.signer(old, made.targets_keys[0].key)])
            with pytest.raises(RefusedPublicationError) as caught:
                await thief.publisher._api.upload(gun, [UploadedFile(role, forged)])
            assert (caught.value.rule, caught.value.role) == ("threshold", role)
        assert await owner.signed(gun) == before


async def test_bins_with_keys_of_their_own_stay_when_targets_is_rotated(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        key = owner.keys.generate("signer", passphrase=SECRET, name="ci")
        await owner.publisher.init(gun, bins=4, bins_keys=["ci"])
        await owner.sign(gun, "1.0")
        outcome = await owner.publisher.rotate(gun, "targets")
        assert outcome.versions.keys() == {"root", "targets"}
        assert outcome.own_bins == 4
        found = await owner.trust.target(gun, "1.0")
        assert found.role.signed_by == (key.key.keyid,)
        assert (await owner.publisher.rotate(gun, "root")).own_bins == 0


async def test_rotating_targets_while_another_signs_in_bins_loses_nothing(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "one") as one:
        await one.publisher.init(gun, bins=4)
        async with twin(one, tmp_path / "two", server.url) as two:
            signed: list[str] = []

            async def sign_until_rotated() -> None:
                for tag in TAGS:
                    try:
                        await two.sign(gun, tag)
                    except KeyStoreError:  # the key there was rotated
                        return
                    signed.append(tag)

            await asyncio.gather(sign_until_rotated(), one.publisher.rotate(gun, "targets"))
        assert (await one.signed(gun)).keys() == set(signed)


async def test_a_second_targets_key_signs_bins_too(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        made = await owner.publisher.init(gun, bins=4)
        await owner.sign(gun, "1.0")
        second = owner.keys.generate("targets", passphrase=TARGETS_SECRET, name="second")
        outcome = await owner.publisher.proposals.prepare_root(gun, added={"targets": ["second"]})
        # What the first key signed is still vouched for.
        assert outcome.versions.keys() == {"root", "targets"}
        old = made.targets_keys[0].keyid
        outcome = await owner.publisher.proposals.prepare_root(gun, removed=[old])
        assert len(outcome.versions) == 2 + 4
        found = await owner.trust.target(gun, "1.0")
        assert found.role.signed_by == (second.key.keyid,)


async def test_bins_of_several_holders_are_rotated_by_a_ceremony(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "ann") as ann:
        for name in ("t1", "t2"):
            ann.keys.generate("targets", passphrase=TARGETS_SECRET, name=name)
        made = await ann.publisher.init(gun, bins=4, targets_keys=["t1", "t2"], targets_threshold=2)
        await ann.sign(gun, "1.0")
        async with Person(server.url, tmp_path / "bob", made.root) as bob:
            theirs = bob.keys.generate("targets", passphrase=TARGETS_SECRET, name="t3")
            file = tmp_path / "t3.pub"
            file.write_bytes(public_pem(theirs.key))
            added = {"targets": [str(file)]}
            old = made.targets_keys[0].keyid
            outcome = await ann.publisher.proposals.prepare_root(gun, added=added, removed=[old])
            assert outcome.pending
            assert outcome.missing.keys() >= {"targets", "bin1-0", "bin1-3"}
            assert (await ann.signed(gun)).keys() == {"1.0"}
            outcome = await bob.publisher.proposals.cosign(gun)
            assert len(outcome.versions) >= 2 + 4
            assert (await bob.signed(gun)).keys() == {"1.0"}
            found = await bob.trust.target(gun, "1.0")
            assert old not in found.role.signed_by
            assert len(found.role.signed_by) == 2


async def test_bins_outlive_targets_and_are_renewed_in_time(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun, bins=2)
        await owner.sign(gun, "1.0")
        found = await owner.trust.target(gun, "1.0")
        assert found.role.expires_at - datetime.now(UTC) > timedelta(days=1800)
        owner.publisher._clock = lambda: datetime.now(UTC) + timedelta(days=1000)
        outcome = await owner.publisher.rebin(gun, 2)
        assert {role for role in outcome.versions if role.startswith("bin")} == {"bin1-0", "bin1-1"}


@pytest.mark.parametrize("own", ["", "ci"], ids=["of-targets", "own"])
async def test_status_tells_the_bin_that_ends_first_and_what_renews_all(
    server: EmbeddedServer, gun: str, tmp_path: Path, own: str
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        key = owner.keys.generate("signer", passphrase=SECRET, name="ci")
        made = await owner.publisher.init(gun, bins=16, bins_keys=[own] if own else [])
        owner.publisher._expiries = Expiries(bins=timedelta(days=5))
        await owner.sign(gun, "1.0")
        role = (await owner.trust.target(gun, "1.0")).role.role
        status = await owner.publisher.status(gun)
        assert status.versions.keys() == {"root", "targets", "snapshot", "timestamp", role}
        assert set(status.can_sign) == {"root", "targets", role}
        assert status.standing is not None
        first, told = status.standing.first, status.standing.roles[-1]
        assert first is not None
        assert (first.role, first.level, told.margin) == (role, "critical", 0)
        keyid = key.keyid if own else made.targets_keys[0].keyid
        assert [item.keyid for item in told.keys] == [keyid]
        assert first.bins == BinsState(16, (keyid,) if own else ())
        with_key = f" --bins-key {keyid[:16]}" if own else ""
        assert remedy(first, gun) == f"tabellion rebin {gun} --bins 16{with_key}"
        # By the server's word the same is known.
        async with Person(server.url, tmp_path / "monitor") as monitor:
            found = [s async for s in monitor.publisher.overview().statuses() if s.gun == gun]
            assert not found[0].is_verified
            assert found[0].standing is not None
            assert found[0].standing.first == first
        # Past its end it's told, and what was told renews it.
        later = datetime.now(UTC) + timedelta(days=6)
        async with twin(owner, tmp_path / "late", server.url) as late:
            late.publisher._clock = lambda: later
            standing = (await late.publisher.status(gun)).standing
            assert standing is not None
            assert standing.level_of(role) == "expired"
        owner.publisher._expiries = None
        keys = [key.key] if own else []
        outcome = await owner.publisher.rebin(gun, 16, keys=keys)
        assert set(outcome.versions) - {"snapshot"} == {role}
        assert (await owner.publisher.status(gun)).standing.first.level == "ok"


async def test_bins_are_refused_where_they_cant_be(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        for count in (1, 3, 16384, -4):
            with pytest.raises(UsageError, match="bins"):
                await owner.publisher.init(gun, bins=count)
        with pytest.raises(UsageError, match="Notary"):
            await owner.publisher.init(gun, bins=4, dialect=NOTARY)
        assert owner.keys.list() == []
        await owner.publisher.init(f"{gun}/n", dialect=NOTARY)
        with pytest.raises(UsageError, match="Notary"):
            await owner.publisher.rebin(f"{gun}/n", 4)
        key = owner.keys.generate("signer", passphrase=SECRET, name="alice")
        await owner.publisher.init(gun)
        await owner.publisher.add_signer(gun, "alice", [key.key])
        with pytest.raises(UsageError, match="signers"):
            await owner.publisher.rebin(gun, 4)
        await owner.publisher.init(f"{gun}/b", bins=4)
        with pytest.raises(UsageError, match="bins"):
            await owner.publisher.add_signer(f"{gun}/b", "alice", [key.key])
        assert await owner.version(f"{gun}/b") == 1


async def test_staged_changes_of_several_bins_are_one_publication(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun, bins=64)
        for tag in TAGS:
            await owner.publisher.sign(gun, tag, Digest.of(tag.encode()), 1, publish=False)
        outcome = await owner.publisher.publish(gun)
        assert 1 < len(outcome.versions) <= len(TAGS)
        assert set(outcome.versions.values()) == {2}
        assert (await owner.signed(gun)).keys() == set(TAGS)
