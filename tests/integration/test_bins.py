"""Hash bins from founding to rebinning, on a real server, read by python-tuf's client as well."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater

import publisher_process
from person import Person, twin
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY
from tabellion.core.names import Digest
from tabellion.errors import NotSignedError, UsageError

SECRET = publisher_process.PASSPHRASES["TABELLION_SIGNER_PASSPHRASE"]
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


async def test_bins_have_their_own_key_and_a_new_one_comes_with_new_bins(
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
        await owner.publisher.rebin(gun, 4, keys=[other.key])
        found = await owner.trust.target(gun, "1.0")
        assert (found.role.role[:5], found.role.signed_by) == ("bin2-", (other.key.keyid,))


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
