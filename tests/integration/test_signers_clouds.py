"""Keys in Google's Cloud KMS and Azure's Key Vault, by peers of ours.

The clouds' own libraries are real, and so are proxy, TLS and signatures; the services are written
from the public reference of their interfaces, as no emulator that signs is to be had. It needs the
extra ``test-cloud``: see the tests of AWS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root

import forked_command
from cloud_world import CloudWorld, cloud_world
from key_places import live, refer
from person import Person
from tabellion.cli import embedded
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import KeyStoreError, SignerError, TabellionError
from tabellion.signers import clouds
from tabellion.signers.registry import RemoteSigners
from tabellion.signers.remote_keys import verify

_EXTRA = "pip install '.[test-cloud]'"
kms: Any = pytest.importorskip("google.cloud.kms", reason=_EXTRA)
pytest.importorskip("azure.keyvault.keys", reason=_EXTRA)
pytest.importorskip("azure.identity", reason=_EXTRA)

from azure_vault import HOST as VAULT  # noqa: E402  (needs what may be missing)
from azure_vault import LOGIN, AzureVault, azure_vault  # noqa: E402
from google_kms import HOST as KMS  # noqa: E402
from google_kms import RING, TOKENS, GoogleKms, google_kms, slow  # noqa: E402

Cloud = GoogleKms | AzureVault


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudWorld]:
    with (
        cloud_world(tmp_path_factory.mktemp("world")) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in running.environ.items():
            patch.setenv(name, value)
        yield running
    assert not running.refused  # nothing asked for more than the tests let it


@pytest.fixture(scope="module")
def google(world: CloudWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleKms]:
    with google_kms(world, tmp_path_factory.mktemp("google")) as peer:
        yield peer


@pytest.fixture(scope="module")
def azure(world: CloudWorld) -> Iterator[AzureVault]:
    with azure_vault(world) as peer:
        yield peer


@pytest.fixture(params=["google", "azure"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    peer: Cloud = request.getfixturevalue(request.param)
    yield log_in(peer, monkeypatch)
    peer.denied, peer.spoil, peer.failures, peer.astray = frozenset(), False, 0, ""
    peer.before = lambda _: None


def log_in(peer: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for name, value in peer.environ.items():
        monkeypatch.setenv(name, value)
    return peer


@contextlib.contextmanager
def away(world: CloudWorld, *hosts: str) -> Iterator[None]:
    """Take hosts out of the world."""
    ports = {host: world.ports.pop(host) for host in hosts}
    try:
        yield
    finally:
        world.ports |= ports
        assert world.refused
        world.refused.clear()


@contextlib.contextmanager
def at_once(seconds: float = 8) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def signers() -> RemoteSigners:
    return RemoteSigners(lambda _: "")


def person(folder: Path) -> Path:
    """Write down a person's login at Google, which was revoked since."""
    file = folder / "person.json"
    login = {"type": "authorized_user", "client_id": "us", "client_secret": "not-the-secret"}
    file.write_text(json.dumps(login | {"refresh_token": "not-the-token"}))
    return file


def host(cloud: Cloud) -> str:
    return KMS if isinstance(cloud, GoogleKms) else VAULT


def test_each_kind_of_key_signs_in_several_threads(cloud: Cloud) -> None:
    for kind in cloud.kinds:
        found = signers().probe(cloud.make(f"kind-{kind.replace('_', '-')}", kind))
        key = signers().private_key(found.uri, found.public)
        with ThreadPoolExecutor(4) as pool:
            for signature in pool.map(key.sign_payload, [b"data"] * 8):
                verify(found.public, signature, b"data")


def test_a_version_signs_on_after_rotations(cloud: Cloud) -> None:
    first = signers().probe(cloud.make("rotated"))
    newest = signers().probe(cloud.rotate("rotated"))
    assert newest.uri != first.uri
    assert newest.public != first.public
    assert signers().probe(first.uri) == first


def test_the_public_key_of_another_version_is_refused(cloud: Cloud) -> None:
    first = cloud.make("astray")
    cloud.astray = cloud.rotate("astray")
    with pytest.raises(SignerError, match="the public key of another"):
        signers().find(first)


def test_without_a_version_azures_newest_is_noted(
    azure: AzureVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(azure, monkeypatch)
    azure.make("newest")
    uri = azure.rotate("newest")
    assert signers().find(uri.rpartition("/")[0]).uri == uri


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_a_gun_lives_by_keys_in_the_cloud(
    server: EmbeddedServer, gun: str, cloud: Cloud, tmp_path: Path, dialect: Dialect
) -> None:
    names = ("root", "targets", "signer", "root2", "targets2")
    uris = {name: cloud.make(f"{dialect.name}-{name}") for name in names}
    await live(server.url, tmp_path, gun, dialect, uris)


async def test_a_key_rotated_in_mid_run_neither_stops_nor_confuses_publishing(
    server: EmbeddedServer, cloud: Cloud, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        refer(owner, cloud.make("mid-run"), "targets", "targets")
        made = await owner.publisher.init(gun, targets_keys=["targets"])

        async def publish() -> None:
            for number in range(5):
                await owner.sign(gun, f"tag-{number}")

        async def rotate() -> None:
            for _ in range(5):
                cloud.rotate("mid-run")
                await asyncio.sleep(0.05)

        await asyncio.gather(publish(), rotate())
        async with Person(server.url, tmp_path / "reader", made.root) as reader:
            assert set(await reader.signed(gun)) == {f"tag-{number}" for number in range(5)}
            refer(owner, cloud.rotate("mid-run"), "targets", "newest")
            await owner.publisher.rotate(gun, "targets", keys=["newest"])
            await owner.sign(gun, "after")
            assert "after" in await reader.signed(gun)


@pytest.mark.parametrize(
    ("trouble", "hint"),
    [
        ("disabled", "enable the key's version"),
        ("denied", "let this identity"),
        ("away", "check the network"),
        ("slow", "check the network"),
        ("spoilt", "check the URI"),
    ],
    ids=["disabled", "denied", "away", "slow", "spoilt"],
)
async def test_trouble_there_stops_publishing_at_once_and_changes_nothing(  # noqa: PLR0917
    server: EmbeddedServer,
    world: CloudWorld,
    cloud: Cloud,
    gun: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    hint: str,
) -> None:
    monkeypatch.setattr(clouds, "_READ_SECONDS", 1)
    monkeypatch.setattr(clouds, "_BLIP_SECONDS", 1)
    async with Person(server.url, tmp_path) as owner:
        uri = cloud.make(trouble)
        refer(owner, uri, "targets", "targets")
        await owner.publisher.init(gun, targets_keys=["targets"])
        await owner.sign(gun, "before")
        gone: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if trouble == "disabled":
            cloud.disable(uri)
        elif trouble == "denied":
            cloud.deny(reading=False)
        elif trouble == "slow":
            cloud.before = slow(4)
        elif trouble == "spoilt":
            cloud.spoil = True
        else:
            gone = away(world, host(cloud))
    async with Person(server.url, tmp_path) as owner:
        with gone, at_once(), pytest.raises(SignerError) as caught:
            await owner.sign(gun, "meanwhile")
        assert hint in str(caught.value.hint)
        assert set(await owner.signed(gun)) == {"before"}
        cloud.version(uri).enabled, cloud.denied = True, frozenset()
        cloud.spoil, cloud.before = False, lambda _: None
        await owner.sign(gun, "after")
        assert set(await owner.signed(gun)) == {"before", "after"}


@pytest.mark.parametrize(
    ("trouble", "hint"),
    [
        ("disabled", "enable the key's version"),
        ("denied", "let this identity"),
        ("away", "check the network"),
        ("slow", "check the network"),
        ("missing", "check the key's name"),
    ],
    ids=["disabled", "denied", "away", "slow", "missing"],
)
def test_trouble_when_a_key_is_added_is_told_with_a_hint(
    world: CloudWorld,
    cloud: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    hint: str,
) -> None:
    monkeypatch.setattr(clouds, "_READ_SECONDS", 1)
    monkeypatch.setattr(clouds, "_BLIP_SECONDS", 1)
    uri = cloud.make(f"add-{trouble}")
    gone: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if trouble == "disabled":
        cloud.disable(uri)
    elif trouble == "denied":
        cloud.deny(reading=True)
    elif trouble == "slow":
        cloud.before = slow(4)
    elif trouble == "missing":
        uri = uri.replace(f"add-{trouble}", "nobody")
    else:
        gone = away(world, host(cloud))
    with gone, at_once(), pytest.raises(SignerError) as caught:
        signers().find(uri)
    assert hint in caught.value.hint
    assert uri in caught.value.message


def test_a_call_that_fails_once_is_made_again(cloud: Cloud) -> None:
    found = signers().find(cloud.make("blip"))
    for _ in range(2):
        cloud.failures = 1
        signers().private_key(found.uri, found.public).sign_payload(b"data")
        assert not cloud.failures
        cloud.failures = 1
        assert signers().find(found.uri) == found


def test_a_signature_that_takes_long_is_given_up(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clouds, "_READ_SECONDS", 1)
    used = signers()
    found = used.probe(cloud.make("takes-long"))  # logs in
    cloud.before = slow(4)
    with at_once(), pytest.raises(SignerError) as caught:
        used.private_key(found.uri, found.public).sign_payload(b"data")
    assert "check the network" in caught.value.hint


def test_a_service_that_is_back_is_used_again_soon(
    world: CloudWorld, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clouds, "_BLIP_SECONDS", 1)
    used = signers()
    found = used.find(cloud.make("back"))
    key = used.private_key(found.uri, found.public)
    with away(world, host(cloud)):
        until = time.monotonic() + 3.5
        while time.monotonic() < until:
            with pytest.raises(SignerError):
                key.sign_payload(b"data")
            time.sleep(0.1)
    key.sign_payload(b"data")


def test_nobody_is_told_how_to_log_in(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = cloud.make("nobody-is-logged-in")
    for name in cloud.nobody:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    cloud.calls.clear()
    with at_once(25), pytest.raises(SignerError) as caught:
        signers().find(uri)
    assert "log in with" in caught.value.hint
    assert not cloud.calls


def test_a_login_that_is_refused_is_told_and_stays_unsaid(
    cloud: Cloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri = cloud.make("refused")
    if isinstance(cloud, GoogleKms):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(person(tmp_path)))
    else:
        monkeypatch.setenv("AZURE_CLIENT_SECRET", "not-the-secret")
    caplog.set_level(logging.DEBUG)
    cloud.calls.clear()
    with at_once(), pytest.raises(SignerError) as caught:
        signers().find(uri)
    assert cloud.calls == ["token"]
    assert "log in with" in caught.value.hint
    assert "not-the-" not in caught.value.message + caplog.text


def test_what_lets_us_in_is_in_no_log(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    uri = cloud.make("logged")
    signers().probe(uri)
    cloud.deny(reading=True)
    with pytest.raises(SignerError) as caught:
        signers().find(uri)
    assert caplog.records
    told = caplog.text + str(caught.value)
    assert not any(secret in told for secret in cloud.secrets)
    assert "Bearer ey" not in told


def test_a_slow_login_is_given_up(azure: AzureVault, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(azure, monkeypatch)
    monkeypatch.setattr(clouds, "_READ_SECONDS", 1)
    uri = azure.make("slow-login")
    azure.before = slow(4)
    try:
        with at_once(), pytest.raises(SignerError) as caught:
            signers().find(uri)
        assert "check the network" in caught.value.hint
    finally:
        azure.before = lambda _: None


def test_a_login_that_can_not_be_reached_is_told(
    world: CloudWorld, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = cloud.make("no-login")
    if isinstance(cloud, GoogleKms):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(person(tmp_path)))
    gone = TOKENS if isinstance(cloud, GoogleKms) else LOGIN
    with away(world, gone), at_once(16), pytest.raises(SignerError) as caught:
        signers().find(uri)
    assert "check the network" in caught.value.hint


@pytest.mark.parametrize(
    "kind", ["EC_SIGN_P384_SHA384", "RSA_SIGN_PKCS1_2048_SHA256", "RSA_SIGN_PSS_4096_SHA512"]
)
def test_googles_keys_that_can_not_be_used_are_refused(
    google: GoogleKms, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    log_in(google, monkeypatch)
    uri = google.make(kind.lower(), kind)
    with pytest.raises(KeyStoreError, match=rf"can't be used \({kind}\)"):
        signers().find(uri)


@pytest.mark.parametrize("kind", ["P-384", "RSA"])
def test_azures_keys_that_can_not_be_used_are_refused(
    azure: AzureVault, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    log_in(azure, monkeypatch)
    uri = azure.make(f"kind-{kind}", kind)
    with pytest.raises(KeyStoreError, match="isn't an EC key on P-256"):
        signers().find(uri)


async def test_a_servers_own_key_may_be_in_the_cloud(
    cloud: Cloud, gun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = cloud.make("online")
    found = signers().find(uri)
    config = f'{embedded._CONFIG}timestamp_signer = "{uri}"\n'
    monkeypatch.setattr(embedded, "_CONFIG", config)
    (tmp_path / "server").mkdir()
    with EmbeddedServer(tmp_path / "server") as server:
        async with Person(server.url, tmp_path / "owner") as owner:
            made = await owner.publisher.init(gun)
            root = Metadata[Root].from_bytes(made.root).signed
            assert root.roles["timestamp"].keyids == [found.key.keyid]
            await owner.sign(gun, "before")
            cloud.disable(uri)
            with at_once(20), pytest.raises(TabellionError) as caught:
                await owner.sign(gun, "meanwhile")
            assert "the server can't do that now" in str(caught.value)
            assert "not enabled" in (told := server.log.read_text()) or "disabled key" in told
            assert set(await owner.signed(gun)) == {"before"}
            cloud.version(uri).enabled = True
            await owner.sign(gun, "after")
            assert set(await owner.signed(gun)) == {"before", "after"}
        assert not any(secret in server.log.read_text() for secret in cloud.secrets)


def test_the_command_line_adds_signs_and_rotates(
    server: EmbeddedServer, world: CloudWorld, cloud: Cloud, gun: str, tmp_path: Path
) -> None:
    environ = {
        **world.environ,
        **cloud.environ,
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TABELLION_HOME": str(tmp_path / "home"),
        "TABELLION_SERVER": server.url,
        "TABELLION_ROOT_PASSPHRASE": "a root passphrase",
    }

    def tabellion(*words: str) -> str:
        done = forked_command.run(words, env=environ, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name in ("one", "two"):
        added = tabellion(
            "key", "add", cloud.make(f"cli-{name}"), "--role", "targets", "--name", name
        )
        assert len(added.strip()) == 64
    tabellion("init", gun, "--targets-key-id", "one")
    image = f"sha256:{'a' * 64}"
    tabellion("sign", f"{gun}:1", "--digest", image, "--length", "1")
    tabellion("rotate", gun, "targets", "--key", "two")
    tabellion("sign", f"{gun}:2", "--digest", image, "--length", "1")
    assert image in tabellion("verify", f"{gun}:2")
    words = ["sign", f"{gun}:3", "--digest", image, "--length", "1"]
    login = TOKENS if isinstance(cloud, GoogleKms) else LOGIN
    for trouble in (host(cloud), login):
        if trouble == TOKENS:
            environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(person(tmp_path))
        with away(world, trouble):
            command = [str(Path(sys.executable).with_name("tabellion")), *words]
            told = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert told.returncode != 0
        error, hint = told.stderr.splitlines()  # and not what the libraries write there
        assert error.startswith("tabellion: error: ")
        assert "check the network" in hint


def test_the_peers_refuse_what_the_services_do(
    google: GoogleKms, azure: AzureVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.core import exceptions  # noqa: PLC0415  (only where it's installed)
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415
    from azure.keyvault.keys.crypto import (  # noqa: PLC0415
        CryptographyClient,
        SignatureAlgorithm,
    )
    from google.api_core.exceptions import InvalidArgument, NotFound  # noqa: PLC0415

    log_in(google, monkeypatch)
    log_in(azure, monkeypatch)
    name = google.make("strict").partition(":")[2]
    asked: list[dict[str, Any]] = [
        {"digest": {"sha256": b"x" * 31}},
        {"digest": {"sha384": b"x" * 48}},
        {"data": b"data"},
        {"digest": {"sha256": b"x" * 32}, "digest_crc32c": 1},
    ]
    with kms.KeyManagementServiceClient() as client:
        for fields in asked:
            with pytest.raises(InvalidArgument):
                client.asymmetric_sign({"name": name, **fields})
        with pytest.raises(NotFound):
            client.asymmetric_sign({"name": f"{RING}/cryptoKeys/strict/cryptoKeyVersions/2"})
    url = f"https:{azure.make('strict').partition(':')[2]}"
    with DefaultAzureCredential() as login, CryptographyClient(url, login) as crypto:
        for algorithm, digest in (
            (SignatureAlgorithm.es256, b"x" * 31),
            (SignatureAlgorithm.es384, b"x" * 48),
        ):
            with pytest.raises((exceptions.HttpResponseError, ValueError)):
                crypto.sign(algorithm, digest)
