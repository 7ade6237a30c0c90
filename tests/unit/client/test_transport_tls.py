"""TLS of reader, publisher and registry client: only whom the CA vouches for is asked."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from authority import Authority
from forge import NOW
from simulator import GUN, IMAGE, Simulator, proper_head
from tabellion import TrustClient
from tabellion.core.names import parse_reference
from tabellion.core.publication import UploadedFile
from tabellion.errors import ConfigurationError, TransportError, UnreachableError
from tabellion.publish.server_api import ServerApi
from tabellion.registry import RegistryClient
from tabellion.verify.sync import SyncTrustClient

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": {}, "layers": []}
).encode()
Ask = Callable[[str, Path, Path | None], Awaitable[object]]


async def read(url: str, home: Path, ca: Path | None) -> object:
    async with TrustClient(url, home=home, ca=ca, first_use=True, clock=lambda: NOW) as trust:
        return await trust.verify(IMAGE)


async def read_in_sync(url: str, home: Path, ca: Path | None) -> object:
    def work() -> object:
        with SyncTrustClient(url, home=home, ca=ca, first_use=True, clock=lambda: NOW) as trust:
            return trust.verify(IMAGE)

    return await asyncio.to_thread(work)


async def look(url: str, _: Path, ca: Path | None) -> object:
    async with ServerApi(url, ca=ca) as api:
        return await api.exists(GUN)


async def publish(url: str, _: Path, ca: Path | None) -> object:
    async with ServerApi(url, ca=ca, token="secret") as api:
        return await api.upload(GUN, [UploadedFile("root", b"{}")])


async def read_history(url: str, _: Path, ca: Path | None) -> object:
    async with ServerApi(url, ca=ca) as api:
        return await api.history(GUN, target=None, before=None, limit=5)


async def pull(url: str, home: Path, ca: Path | None) -> object:
    host = url.rpartition("/")[2]
    async with RegistryClient(docker_config=home, ca=ca) as registry:
        return await registry.manifest(parse_reference(f"{host}/app:tag"))


ASKERS: dict[str, Ask] = {
    "reader": read,
    "sync reader": read_in_sync,
    "publisher looking": look,
    "publisher uploading": publish,
    "publisher reading history": read_history,
    "registry client": pull,
}
asked_by = pytest.mark.parametrize("ask", ASKERS.values(), ids=ASKERS.keys())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "other")


def serving(tls: ssl.SSLContext | None) -> Simulator:
    """Make a server that answers all of the askers."""
    made = Simulator(tls=tls)
    made.publish_target(b"image")
    made.files["tag"] = MANIFEST
    made.files["app?limit=5"] = b'{"events":[]}'

    async def manifest(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(proper_head(len(data), f"Content-Type: {MANIFEST_TYPE}") + data)

    async def accepted(writer: asyncio.StreamWriter, _: bytes) -> None:
        body = b'{"versions":{"root":1}}'
        writer.write(proper_head(len(body)) + body)

    made.answers = {"tag": manifest, "": accepted}
    return made


async def refused(ask: Ask, server: Simulator, tmp_path: Path, ca: Path | None) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await ask(server.url, tmp_path, ca)
    assert server.requests == []
    assert caught.value.hint
    assert not list(tmp_path.rglob("*.json"))
    return caught.value


@asked_by
async def test_a_server_of_an_own_ca_is_trusted(
    ask: Ask, authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority.server()) as server:
        assert await ask(server.url, tmp_path, authority.file) is not None
        assert server.requests


@asked_by
async def test_a_server_of_an_unknown_ca_is_refused(
    ask: Ask, authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority.server()) as server:
        error = await refused(ask, server, tmp_path, None)
    assert "certificate" in error.message
    assert "CA" in error.hint


@asked_by
async def test_a_server_of_another_ca_is_refused(
    ask: Ask, authority: Authority, other_authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority.server()) as server:
        await refused(ask, server, tmp_path, other_authority.file)


@asked_by
async def test_a_certificate_of_another_host_is_refused(
    ask: Ask, authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority.server("elsewhere.example")) as server:
        error = await refused(ask, server, tmp_path, authority.file)
    assert "another host name" in error.message


@asked_by
async def test_an_expired_certificate_is_refused(
    ask: Ask, authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority.server(days=-1)) as server:
        error = await refused(ask, server, tmp_path, authority.file)
    assert "expired" in error.message


@pytest.mark.parametrize("ask", [read, look, publish], ids=["reader", "looking", "uploading"])
async def test_plain_http_on_a_tls_port_is_refused_soon(
    ask: Ask, authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority.server()) as server:
        server.url = server.url.replace("https:", "http:")
        begun = datetime.now(UTC)
        await refused(ask, server, tmp_path, authority.file)
        assert (datetime.now(UTC) - begun).total_seconds() < 5


@pytest.mark.parametrize("ask", [read, look, publish], ids=["reader", "looking", "uploading"])
async def test_tls_on_a_plain_port_is_refused_and_never_falls_back(
    ask: Ask, authority: Authority, tmp_path: Path
) -> None:
    async with serving(None) as server:
        server.url = server.url.replace("http:", "https:")
        error = await refused(ask, server, tmp_path, authority.file)
    assert isinstance(error, UnreachableError)


@asked_by
@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\x00"])
async def test_a_ca_file_without_certificates_is_a_configuration_fault(
    ask: Ask, tmp_path: Path, content: bytes | None
) -> None:
    async with serving(None) as server:
        file = tmp_path / "ca.pem"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"ca\.pem") as caught:
            await ask(server.url, tmp_path, file)
        assert caught.value.hint
        assert server.requests == []
