"""The registry client against a small registry on loopback that behaves as told."""

from __future__ import annotations

import base64
import json
import ssl
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tabellion.core.names import Digest, parse_reference
from tabellion.errors import (
    AccessDeniedError,
    ConfigurationError,
    DigestMismatchError,
    RegistryError,
    ServerAnswerError,
    TabellionError,
    TransferError,
    UnknownImageError,
    UnreachableError,
)
from tabellion.registry import Manifest, RegistryClient
from tabellion.registry.client import is_loopback
from tabellion.transport.challenge import parse_challenges
from tabellion.transport.credentials import find_credentials

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DATA = json.dumps({"schemaVersion": 2, "mediaType": IMAGE, "config": {}, "layers": []}).encode()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeRegistry:
    """Answers every manifest with ``handler``; keeps what was asked."""

    host: str = ""
    handler: Handler | None = None
    data: bytes = DATA
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": IMAGE})
    seen: list[web.Request] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response()
        self.seen.append(request)
        if self.handler is not None:
            return await self.handler(request)
        return web.Response(body=self.data, headers=self.headers)

    async def ask(self, folder: Path, name: str = "app:1") -> Manifest:
        async with RegistryClient(docker_config=folder) as client:
            return await client.manifest(parse_reference(f"{self.host}/{name}"))


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    fake = FakeRegistry()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", fake.answer)
    async with TestServer(app) as server:
        fake.host = f"127.0.0.1:{server.port}"
        yield fake


def write_config(folder: Path, **members: object) -> None:
    (folder / "config.json").write_text(json.dumps(members))


def basic(user: str, secret: str) -> str:
    return base64.b64encode(f"{user}:{secret}".encode()).decode()


async def test_the_digest_is_computed_here(registry: FakeRegistry, tmp_path: Path) -> None:
    manifest = await registry.ask(tmp_path)
    assert manifest.digest == Digest.of(DATA)
    assert (manifest.length, manifest.media_type, manifest.platforms) == (len(DATA), IMAGE, ())


async def test_other_bytes_than_the_digest_asked_for_are_refused(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    with pytest.raises(DigestMismatchError):
        await registry.ask(tmp_path, f"app@{Digest.of(b'other')}")
    registry.headers["Docker-Content-Digest"] = str(Digest.of(b"other"))
    with pytest.raises(DigestMismatchError):
        await registry.ask(tmp_path)
    registry.headers["Docker-Content-Digest"] = "md5:1"
    with pytest.raises(RegistryError):
        await registry.ask(tmp_path)


async def test_an_index_gives_its_platforms(registry: FakeRegistry, tmp_path: Path) -> None:
    entry = {
        "digest": str(Digest.of(b"x")),
        "size": 7,
        "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
    }
    registry.data = json.dumps({"mediaType": INDEX, "manifests": [entry]}).encode()
    registry.headers["Content-Type"] = INDEX
    (platform,) = (await registry.ask(tmp_path)).platforms
    assert (platform.platform, platform.length) == ("linux/arm/v7", 7)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"a":1,"a":2}',
        json.dumps({"mediaType": INDEX, "manifests": [], "layers": []}).encode(),
        json.dumps({"mediaType": INDEX, "layers": []}).encode(),
        json.dumps({"mediaType": "text/plain", "layers": []}).encode(),
        json.dumps({"mediaType": {}, "layers": []}).encode(),
        json.dumps({"mediaType": INDEX, "manifests": [1]}).encode(),
        json.dumps({"mediaType": INDEX, "manifests": {}}).encode(),
    ],
)
async def test_what_is_no_manifest_is_refused(
    registry: FakeRegistry, tmp_path: Path, data: bytes
) -> None:
    registry.data = data
    registry.headers["Content-Type"] = INDEX if b"manifests" in data else IMAGE
    with pytest.raises(RegistryError):
        await registry.ask(tmp_path)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, UnknownImageError),
        (401, AccessDeniedError),
        (403, AccessDeniedError),
        (429, ServerAnswerError),
        (500, ServerAnswerError),
        (204, ServerAnswerError),
    ],
)
async def test_each_status_has_its_error(
    registry: FakeRegistry, tmp_path: Path, status: int, error: type[TabellionError]
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    registry.handler = answer
    with pytest.raises(error) as caught:
        await registry.ask(tmp_path)
    assert caught.value.hint


async def test_too_long_and_cut_short_answers_are_refused(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.data = b" " * (4 * 1024 * 1024 + 1)
    with pytest.raises(TransferError):
        await registry.ask(tmp_path)

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return response

    registry.handler = cut
    with pytest.raises(TransferError):
        await registry.ask(tmp_path)


async def test_basic_credentials_of_the_configuration_are_used(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    async def guarded(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") == f"Basic {basic('me', 'pass:word')}":
            return web.Response(body=DATA, content_type=IMAGE)
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    registry.handler = guarded
    with pytest.raises(AccessDeniedError):
        await registry.ask(tmp_path)
    write_config(
        tmp_path, auths={f"http://{registry.host}/v1/": {"auth": basic("me", "pass:word")}}
    )
    assert (await registry.ask(tmp_path)).digest == Digest.of(DATA)


@pytest.mark.parametrize("kind", ["anonymous", "basic", "identity"])
async def test_bearer_tokens_are_fetched(registry: FakeRegistry, tmp_path: Path, kind: str) -> None:
    async def guarded(request: web.Request) -> web.Response:
        if request.path == "/token":
            form = dict(await request.post()) if request.method == "POST" else request.query
            assert form["scope"] == "repository:team/app:pull"
            assert form["service"] == "it, self"
            if kind == "identity":
                assert (request.method, form["refresh_token"]) == ("POST", "tok")
            assert ("Authorization" in request.headers) == (kind == "basic")
            return web.json_response({"access_token": "t0"})
        if request.headers.get("Authorization") == "Bearer t0":
            return web.Response(body=DATA, content_type=IMAGE)
        challenge = f'Bearer realm="http://{registry.host}/token",service="it, self"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    registry.handler = guarded
    entry = {
        "anonymous": {},
        "basic": {"auth": basic("me", "x")},
        "identity": {"identitytoken": "tok"},
    }[kind]
    write_config(tmp_path, auths={registry.host: entry})
    assert (await registry.ask(tmp_path, "team/app:1")).digest == Digest.of(DATA)


@pytest.mark.parametrize("is_logged_in", [False, True])
async def test_a_token_service_that_refuses_is_a_matter_of_configuration(
    registry: FakeRegistry,
    tmp_path: Path,
    is_logged_in: bool,  # noqa: FBT001
) -> None:
    async def guarded(_: web.Request) -> web.Response:
        challenge = f'Bearer realm="http://{registry.host}/token"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    registry.handler = guarded
    write_config(
        tmp_path, auths={registry.host: {"auth": basic("me", "x")}} if is_logged_in else {}
    )
    with pytest.raises(AccessDeniedError) as refused:
        await registry.ask(tmp_path)
    said = "refuses the credentials" if is_logged_in else "asks for credentials"
    assert said in refused.value.message
    assert f"docker login {registry.host}" in refused.value.hint
    assert refused.value.exit_status == 2


async def test_credentials_never_go_to_a_plain_http_token_service_elsewhere(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    async def guarded(_: web.Request) -> web.Response:
        challenge = 'Bearer realm="http://elsewhere.example/token"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    registry.handler = guarded
    write_config(tmp_path, auths={registry.host: {"auth": basic("me", "x")}})
    with pytest.raises(RegistryError, match="isn't https"):
        await registry.ask(tmp_path)


async def test_redirects_lose_credentials_and_end(registry: FakeRegistry, tmp_path: Path) -> None:
    async def around(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/v2/app/manifests/again"})

    registry.handler = around
    with pytest.raises(RegistryError, match="redirects"):
        await registry.ask(tmp_path)
    assert len(registry.seen) == 4


async def test_plain_http_is_only_for_loopback_or_when_told() -> None:
    assert is_loopback("localhost:5000")
    assert is_loopback("127.3.2.1")
    assert is_loopback("[::1]:5000")
    assert not is_loopback("localhost.example")
    assert not is_loopback("10.0.0.1:5000")
    client = RegistryClient(insecure=["reg.example:5000"])
    assert client._may_use_http("reg.example:5000")
    assert not client._may_use_http("reg.example")
    await client.close()


async def test_https_needs_a_trusted_certificate_and_never_falls_back(tmp_path: Path) -> None:
    fake = FakeRegistry()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", fake.answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(tmp_path), tmp_path / "key.pem")
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        reference = parse_reference(f"127.0.0.1:{port}/app:1")
        async with RegistryClient(docker_config=tmp_path) as client:
            with pytest.raises(UnreachableError, match="certificate"):
                await client.manifest(reference)
        assert fake.seen == []
        async with RegistryClient(docker_config=tmp_path, ca=tmp_path / "cert.pem") as client:
            assert (await client.manifest(reference)).digest == Digest.of(DATA)
        async with RegistryClient(docker_config=tmp_path, ca=tmp_path / "key.pem") as client:
            with pytest.raises(ConfigurationError):
                await client.manifest(reference)
    finally:
        await runner.cleanup()


def write_certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem"


async def test_an_unreachable_registry_is_said_so(tmp_path: Path, unused_tcp_port: int) -> None:
    async with RegistryClient(docker_config=tmp_path) as client:
        with pytest.raises(UnreachableError):
            await client.manifest(parse_reference(f"127.0.0.1:{unused_tcp_port}/app"))


def test_challenges_are_parsed() -> None:
    (bearer, basic_) = parse_challenges(['Bearer realm="a\\"b",scope="x,y", Basic realm=z'])
    assert (bearer.scheme, bearer.parameters) == ("bearer", {"realm": 'a"b', "scope": "x,y"})
    assert (basic_.scheme, basic_.parameters) == ("basic", {"realm": "z"})
    assert parse_challenges(["", "=", "Negotiate"])[-1].scheme == "negotiate"


@pytest.mark.parametrize(
    "header",
    [
        'Bearer realm="x"' + " " * 8000 + "!",
        " ," * 4000 + "!",
        "Bearer " + "a" * 8000 + "!",
        "a" + " " * 8000 + "=",
        'A b="' + "\\a" * 4000,
    ],
)
def test_no_challenge_takes_long_to_read(header: str) -> None:
    """It's read on the event loop, where no timeout of ours would end it."""
    begun = time.perf_counter()
    parse_challenges([header])
    assert time.perf_counter() - begun < 0.5


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def write(body: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / "docker-credential-test"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return write


async def test_credential_helpers_are_asked(tmp_path: Path, helper: Callable[[str], None]) -> None:
    helper('read host; echo "{\\"Username\\":\\"u\\",\\"Secret\\":\\"$host\\"}"')
    write_config(tmp_path, credHelpers={"reg.example": "test"}, credsStore="test")
    found = await find_credentials("reg.example", tmp_path)
    assert found is not None
    assert (found.username, found.secret) == ("u", "reg.example")
    assert "reg.example" not in repr(found)
    hub = await find_credentials("docker.io", tmp_path)
    assert hub is not None
    assert hub.secret == "https://index.docker.io/v1/"


async def test_a_helper_without_credentials_is_no_fault_but_a_broken_one_is(
    tmp_path: Path, helper: Callable[[str], None]
) -> None:
    write_config(tmp_path, credHelpers={"reg.example": "test"})
    helper("echo credentials not found in native keychain; exit 1")
    assert await find_credentials("reg.example", tmp_path) is None
    for body in ("exit 1", "echo '{}'", "echo no"):
        helper(body)
        with pytest.raises(ConfigurationError):
            await find_credentials("reg.example", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"auths": 1}',
        '{"auths": {"reg.example": {"auth": "%%"}}}',
        '{"auths": {"reg.example": {"auth": "bm9jb2xvbg=="}}}',
        '{"credHelpers": {"reg.example": "../../bin/sh"}}',
        '{"credHelpers": {"reg.example": "absent-helper"}}',
    ],
)
async def test_a_broken_configuration_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        await find_credentials("reg.example", tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "realm",
    [
        "http://%5B::1%5D@elsewhere.example/token",
        "http://localhost:x@elsewhere.example/token",
        "https://127.0.0.1@elsewhere.example/token",
        "https://user:secret@registry.example/token",
        "http://127.0.0.1:2375/containers/json",
        "https://localhost/token",
        "http://localhost./token",
        "http://127.1/token",
        "http://0x7f.1/token",
        "http://registry.example/token",
        "file:///etc/passwd",
        "http://[bad",
    ],
)
def test_a_registry_elsewhere_sends_nobody_by_plain_http_or_to_this_machine(realm: str) -> None:
    with pytest.raises(RegistryError):
        RegistryClient()._check_realm(realm, "https://registry.example", "it")


def test_a_registry_may_name_a_token_service_of_its_own_kind() -> None:
    client = RegistryClient(insecure=["plain.example:5000"])
    for realm, base in (
        ("https://auth.example/token", "https://registry.example"),
        ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000"),
        ("http://plain.example:5000/token", "http://plain.example:5000"),
    ):
        client._check_realm(realm, base, "it")
