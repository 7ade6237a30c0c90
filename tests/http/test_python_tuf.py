"""python-tuf's own client reads our server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher

from forge import target
from http_site import Site
from tabellion.core.dialect import TUF


class Recorder(FetcherInterface):
    """The stock fetcher, remembering what was asked for."""

    def __init__(self) -> None:
        self.inner = Urllib3Fetcher()
        self.missing: list[str] = []

    def _fetch(self, url: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
        try:
            return self.inner._fetch(url)
        except DownloadHTTPError as error:
            self.missing.append(f"{error.status_code} {url.rpartition('/')[2]}")
            raise


@pytest.mark.parametrize("role", ["alice", "team/alice"])
async def test_the_updater_refreshes_through_rotations_and_delegations(
    site: Site, tmp_path: Path, role: str
) -> None:
    forge = await site.forge()
    forge.targets.targets["1.0"] = target(b"one", "1.0")
    forge.delegate(role, ["2.*"])
    await site.publish(forge, "root", "targets")
    forge.delegated[role].targets["2.1"] = target(b"two", "2.1")
    await site.publish(forge, role)
    bootstrap = forge.files["root"]
    roots: dict[str, bytes] = {}
    for version in (2, 3):
        forge.root.version = version
        roots[f"{version}.root"] = TUF.sign(forge.root, forge.signers["root"])
    response = await site.post(roots)
    assert response.status == 200, await response.text()
    recorder = Recorder()

    def read() -> tuple[object, object, object]:
        updater = Updater(
            str(tmp_path),
            str(site.url("")),
            fetcher=recorder,
            bootstrap=bootstrap,
        )
        updater.refresh()
        found = tuple(updater.get_targetinfo(path) for path in ("1.0", "2.1", "3.0"))
        assert updater._trusted_set.root.version == 3
        return found[0], found[1], found[2]

    first, second, absent = await asyncio.to_thread(read)
    assert first == forge.targets.targets["1.0"]
    assert second == forge.delegated[role].targets["2.1"]
    assert absent is None
    assert recorder.missing == ["404 4.root.json"]
