"""python-tuf's own client reads our server: what it accepts and refuses is the judge."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Root, TargetFile
from tuf.ngclient import Updater
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher

from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.anchors import Anchor
from tabellion.core.dialect import TUF
from tabellion.core.gun_patterns import GunPattern
from tabellion.core.names import Digest
from tabellion.core.publication import UploadedFile
from tabellion.errors import RefusedPublicationError
from tabellion.publish.keystore import KeyStore
from tabellion.publish.outcome import Initialized
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.publisher import Publisher
from tabellion.publish.server_api import ServerApi
from tabellion.verify.client import TrustClient

GUN = "registry.example/app"
PASSPHRASES = {
    f"TABELLION_{kind}_PASSPHRASE": "a passphrase" for kind in ("ROOT", "TARGETS", "SIGNER")
}


@dataclass
class Site:
    server: EmbeddedServer
    home: Path
    publisher: Publisher
    made: Initialized

    @property
    def base(self) -> str:
        return f"{self.server.url}/v2/{GUN}/_trust/tuf/"

    def updater(self, home: Path) -> Updater:
        home.mkdir(exist_ok=True)
        return Updater(str(home), self.base, bootstrap=self.made.root)

    async def target(self, home: Path, path: str) -> TargetFile | None:
        return await asyncio.to_thread(lambda: self.updater(home).get_targetinfo(path))

    async def rotate_root(self, version: int) -> CryptoSigner:
        """Publish a root with one more root key, signed by the old key and the new one."""
        async with ServerApi(self.server.url) as api:
            data = await api.metadata(GUN, f"{version - 1}.root.json", max_bytes=10**6)
        root = copy.deepcopy(cast("Root", TUF.parse("root", data, max_bytes=10**6).signed))
        root.version = version
        new = CryptoSigner.generate_ecdsa()
        root.add_key(new.public_key, "root")
        keys = KeyStore(self.home)
        old = keys.signer(self.made.root_keys[0].keyid, "a passphrase")
        async with ServerApi(self.server.url) as api:
            await api.upload(GUN, [UploadedFile("root", TUF.sign(root, [old, new]))])
        return new


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    folder, home = tmp_path / "server", tmp_path / "publisher"
    folder.mkdir()
    server = EmbeddedServer(folder)
    await asyncio.to_thread(server.start)
    try:
        async with (
            TrustClient(server.url, home=home) as trust,
            Publisher(
                server.url, home=home, trust=trust, passphrases=Passphrases(environ=PASSPHRASES)
            ) as publisher,
        ):
            yield Site(server, home, publisher, await publisher.init(GUN))
    finally:
        await asyncio.to_thread(server.stop)


async def test_refresh_and_target_info(site: Site, tmp_path: Path) -> None:
    await asyncio.to_thread(lambda: site.updater(tmp_path / "tuf").refresh())
    assert await site.target(tmp_path / "tuf", "1.2") is None
    await site.publisher.sign(GUN, "1.2", Digest.of(b"x"), 1, custom={"platform": "linux/arm64"})
    found = await site.target(tmp_path / "tuf", "1.2")
    assert found is not None
    assert found.hashes == {"sha256": Digest.of(b"x").hex}
    assert found.length == 1
    assert found.custom == {"platform": "linux/arm64"}
    await site.publisher.revoke(GUN, "1.2")
    assert await site.target(tmp_path / "tuf", "1.2") is None


async def test_anchors_are_targets_that_any_client_reads(site: Site, tmp_path: Path) -> None:
    info = KeyStore(site.home).generate("signer", passphrase="a passphrase", name="team")
    await site.publisher.add_signer(GUN, "team", [info.key], paths=["registry.example+team+*"])
    for pattern, role in (("registry.example/**", "targets"), ("registry.example/team/*", "team")):
        made = Anchor(GunPattern.parse(pattern), frozenset({"ab" * 32}), comment="é")
        data, path = made.to_bytes(), made.pattern.path
        custom = {"anchor": made.content()}
        await site.publisher.sign(GUN, path, Digest.of(data), len(data), custom=custom, role=role)
        found = await site.target(tmp_path / "tuf", path)
        assert found is not None
        found.verify_length_and_hashes(data)
        assert Anchor.of_target(path, found) == made


async def test_delegated_roles_with_names_that_need_quoting(site: Site, tmp_path: Path) -> None:
    keys = KeyStore(site.home)
    for name in ("alice", "team/bob+1@x"):
        info = keys.generate("signer", passphrase="a passphrase", keytype="ecdsa", name=name)
        await site.publisher.add_signer(GUN, name, [info.key], paths=[f"{info.name[:4]}-*"])
    await site.publisher.sign(GUN, "alic-1", Digest.of(b"1"), 1, role="alice")
    await site.publisher.sign(GUN, "team-1", Digest.of(b"2"), 1, role="team/bob+1@x")
    first = await site.target(tmp_path / "tuf", "alic-1")
    second = await site.target(tmp_path / "tuf", "team-1")
    assert first is not None
    assert second is not None
    assert second.hashes["sha256"] == Digest.of(b"2").hex
    await site.publisher.remove_signer(GUN, "alice")
    assert await site.target(tmp_path / "tuf", "alic-1") is None


async def test_root_rotation_from_one_to_three(site: Site, tmp_path: Path) -> None:
    await site.publisher.sign(GUN, "1", Digest.of(b"1"), 1)
    before = tmp_path / "before"
    assert await site.target(before, "1") is not None
    for version in (2, 3):
        await site.rotate_root(version)
    await site.publisher.sign(GUN, "2", Digest.of(b"2"), 1)
    assert await site.target(before, "2") is not None
    assert await site.target(tmp_path / "fresh", "2") is not None
    kept = sorted(path.name for path in (before / "root_history").iterdir())
    assert kept == ["1.root.json", "2.root.json", "3.root.json"]


async def test_unknown_root_version_is_404(site: Site) -> None:
    def fetch() -> int:
        with pytest.raises(DownloadHTTPError) as failed:
            Urllib3Fetcher().download_bytes(f"{site.base}2.root.json", 10**6)
        return failed.value.status_code

    assert await asyncio.to_thread(fetch) == 404


async def test_a_root_of_the_wrong_keys_is_refused_and_readers_see_nothing_of_it(
    site: Site, tmp_path: Path
) -> None:
    root = copy.deepcopy(cast("Root", TUF.parse("root", site.made.root, max_bytes=10**6).signed))
    root.version = 2
    stranger = CryptoSigner.generate_ed25519()
    async with ServerApi(site.server.url) as api:
        with pytest.raises(RefusedPublicationError):
            await api.upload(GUN, [UploadedFile("root", TUF.sign(root, [stranger]))])
    await asyncio.to_thread(lambda: site.updater(tmp_path / "tuf").refresh())
    kept = [path.name for path in (tmp_path / "tuf" / "root_history").iterdir()]
    assert kept == ["1.root.json"]
