"""Files that a walk will ask for are fetched a few at once, and judged at their turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from forge import NOW, Forge
from tabellion.core.search import walk_roles
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import MixAndMatchError, NotFoundError
from tabellion.verify.cache import MetadataCache
from tabellion.verify.updater import Updater


class Served:
    """A server of one GUN; counts how many files are asked for at once."""

    def __init__(self, forge: Forge) -> None:
        self.files = {"timestamp.json": forge.files["timestamp"]}
        for role, item in forge.current().files.items():
            self.files[f"{item.version}.{role}.json"] = item.data
        self.asked: list[str] = []
        self.most = self.now = 0

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        name = url.rpartition("/")[2]
        self.asked.append(name)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        if name not in self.files:
            raise NotFoundError(f"no {name}")
        assert len(self.files[name]) <= max_bytes
        return self.files[name]


async def walk(served: Served, forge: Forge, folder: Path) -> tuple[TrustedSet, list[str]]:
    updater = Updater("http://x", gun="x/y", fetcher=served, cache=MetadataCache(folder), now=NOW)
    trusted = await updater.start(forge.files["root"])
    await updater.update_roots(trusted)
    await updater.update_online(trusted)
    roles = await updater.search(trusted, walk_roles(trusted))
    return trusted, [item.role for item in roles]


async def test_bins_are_fetched_sixteen_at_once_and_each_once(tmp_path: Path) -> None:
    forge = Forge()
    forge.spread(6, "bin1", "a", "b", holder=CryptoSigner.generate_ed25519())
    forge.release()
    served = Served(forge)
    trusted, roles = await walk(served, forge, tmp_path)
    assert roles == ["targets", *sorted(forge.delegated)]
    assert not trusted.unusable
    assert served.most == 16
    bins = [name for name in served.asked if ".bin1-" in name]
    assert len(bins) == len(set(bins)) == 64
    # What is kept already isn't asked for.
    again = Served(forge)
    assert (await walk(again, forge, tmp_path))[1] == roles
    assert not [name for name in again.asked if ".bin1-" in name]


async def test_an_early_file_that_is_lacking_or_forged_hides_no_other(tmp_path: Path) -> None:
    forge = Forge()
    forge.spread(5, "bin1", "a", "b", holder=CryptoSigner.generate_ed25519())
    forge.release()
    served = Served(forge)
    del served.files["1.bin1-03.json"]
    served.files["1.bin1-07.json"] = served.files["1.bin1-08.json"]
    trusted, roles = await walk(served, forge, tmp_path)
    assert set(roles) == {"targets", *forge.delegated} - {"bin1-03", "bin1-07"}
    assert isinstance(trusted.unusable["targets", "bin1-03"], NotFoundError)
    assert isinstance(trusted.unusable["targets", "bin1-07"], MixAndMatchError)
    kept = MetadataCache(tmp_path)
    assert kept.load("bin1-07") is None
    assert kept.load("bin1-08") == forge.files["bin1-08"]
