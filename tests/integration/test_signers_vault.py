"""Keys in the transit engine, by OpenBao."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from http_site import raw_answer
from key_places import Bao, live, refer
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import KeyStoreError, SignerError
from tabellion.signers.registry import RemoteSigners
from tabellion.signers.remote_keys import verify


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with (
        Bao(tmp_path_factory.mktemp("bao")) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in running.environ.items():
            patch.setenv(name, value)
        yield running


def signers() -> RemoteSigners:
    return RemoteSigners(lambda _: "")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256", "rsa-3072"])
def test_a_version_signs_on_after_rotations(bao: Bao, kind: str) -> None:
    uri = bao.make(f"rotated-{kind}", kind)
    first = signers().probe(uri)
    assert first.uri == f"{uri}/1"
    key = signers().private_key(first.uri, first.public)
    for _ in range(10):  # version 10 is newer than 9, not older than 2
        bao.rotate(uri.removeprefix("hv:"))
    with ThreadPoolExecutor(4) as pool:
        for signature in pool.map(key.sign_payload, [b"data"] * 20):
            verify(first.public, signature, b"data")
    newest = signers().probe(uri)
    assert newest.uri == f"{uri}/11"
    assert newest.public != first.public
    assert signers().find(first.uri) == first


def test_a_version_that_was_given_up_is_told_and_no_other_signs(bao: Bao) -> None:
    uri = bao.make("given-up")
    found = signers().find(uri)
    key = signers().private_key(found.uri, found.public)
    bao.rotate("given-up")
    assert bao.ask("POST", "transit/keys/given-up/config", {"min_decryption_version": 2})
    with pytest.raises(SignerError, match="hv:given-up/1: Vault answered"):
        key.sign_payload(b"data")


def test_a_key_that_was_replaced_under_its_name_signs_nothing_that_gets_out(bao: Bao) -> None:
    found = signers().find(bao.make("replaced"))
    assert bao.ask("POST", "transit/keys/replaced/config", {"deletion_allowed": True})
    assert bao.ask("DELETE", "transit/keys/replaced")
    bao.make("replaced")
    with pytest.raises(SignerError, match="signed with another one than was noted"):
        signers().private_key(found.uri, found.public).sign_payload(b"data")


@pytest.mark.usefixtures("bao")
def test_a_refused_token_is_told_and_stays_unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    for secret, said in {"not-the-token": "refuses", "two\nlines": "holds no token"}.items():
        monkeypatch.setenv("VAULT_TOKEN", secret)
        with pytest.raises(SignerError, match=said) as caught:
            signers().find("hv:any")
        told = [caught.value, caught.value.__cause__]
        assert not any(part in repr(error) for error in told for part in secret.split())


def test_a_token_in_a_file_is_read_anew_each_time(
    bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, file = bao.make("token-file"), tmp_path / "token"
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(file))
    used = signers()
    with pytest.raises(SignerError, match="can't be read"):
        used.find(uri)
    file.write_text("an-old-one\n")
    with pytest.raises(SignerError, match="refuses"):
        used.find(uri)
    file.write_text(bao.environ["VAULT_TOKEN"] + "\n")
    assert used.find(uri).uri == f"{uri}/1"


@pytest.mark.usefixtures("bao")
def test_a_key_or_mount_that_is_not_there_is_told() -> None:
    for uri in ("hv:nobody", "hv:nobody?mount=elsewhere"):
        with pytest.raises(KeyStoreError, match="no such key"):
            signers().find(uri)


def test_a_mount_of_another_name_is_found(bao: Bao) -> None:
    assert bao.ask("POST", "sys/mounts/team/keys", {"type": "transit"})
    assert bao.ask("POST", "team/keys/keys/other", {"type": "ecdsa-p256"})
    assert signers().probe("hv:other?mount=team/keys").uri == "hv:other/1?mount=team/keys"


def test_what_can_not_be_a_key_of_ours_is_told(bao: Bao) -> None:
    uri = bao.make("secret", "aes256-gcm96")
    with pytest.raises(KeyStoreError, match="no public key"):
        signers().find(uri)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot json!",
        b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data": 1}',
        b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{"data": {"keys": "all"}}'[:-1],
        b'HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{"data": {"keys": {"x": {}}}}'[:-1],
        b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Sealed\r\nContent-Length: 2\r\n\r\n[]",
        b"nonsense",
    ],
)
def test_nonsense_in_place_of_an_answer_is_an_error_of_ours(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "some-token")
    with raw_answer(answer) as port:
        monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{port}")
        with pytest.raises((SignerError, KeyStoreError)):
            signers().find("hv:any")


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_a_gun_lives_by_keys_in_vault(
    server: EmbeddedServer, bao: Bao, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    names = ("root", "targets", "signer", "root2", "targets2")
    uris = {name: bao.make(f"{dialect.name}-{name}") for name in names}
    await live(server.url, tmp_path, gun, dialect, uris)


async def test_a_key_rotated_in_mid_run_neither_stops_nor_confuses_publishing(
    server: EmbeddedServer, bao: Bao, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        refer(owner, bao.make("mid-run"), "targets", "targets")
        made = await owner.publisher.init(gun, targets_keys=["targets"])

        async def publish() -> None:
            for number in range(8):
                await owner.sign(gun, f"tag-{number}")

        async def rotate() -> None:
            for _ in range(5):
                await asyncio.to_thread(bao.rotate, "mid-run")
                await asyncio.sleep(0.1)

        await asyncio.gather(publish(), rotate())
        async with Person(server.url, tmp_path / "reader", made.root) as reader:
            assert set(await reader.signed(gun)) == {f"tag-{number}" for number in range(8)}
            # The newest version is taken up when its holder says so.
            refer(owner, "hv:mid-run", "targets", "newest")
            await owner.publisher.rotate(gun, "targets", keys=["newest"])
            await owner.sign(gun, "after")
            assert "after" in await reader.signed(gun)


async def test_a_vault_that_is_gone_stops_publishing_and_changes_nothing(
    server: EmbeddedServer, bao: Bao, gun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Person(server.url, tmp_path) as owner:
        refer(owner, bao.make("gone"), "targets", "targets")
        await owner.publisher.init(gun, targets_keys=["targets"])
        await owner.sign(gun, "before")
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{nobody.getsockname()[1]}")
            with pytest.raises(SignerError, match="can't be reached"):
                await owner.sign(gun, "meanwhile")
        assert set(await owner.signed(gun)) == {"before"}
        monkeypatch.setenv("VAULT_ADDR", bao.environ["VAULT_ADDR"])
        await owner.sign(gun, "after")
        assert set(await owner.signed(gun)) == {"before", "after"}


async def test_signing_elsewhere_is_never_done_on_the_event_loop(
    server: EmbeddedServer, bao: Bao, gun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tabellion.signers import transit  # noqa: PLC0415  (what is watched)

    where: list[threading.Thread] = []
    ask = transit._ask

    def watched(*args: object, **fields: object) -> object:
        where.append(threading.current_thread())
        time.sleep(0.05)
        return ask(*args, **fields)  # type: ignore[arg-type]

    async with Person(server.url, tmp_path) as owner:
        names = ("loop-root", "loop-targets")
        infos = [refer(owner, bao.make(name), name[5:], name) for name in names]
        monkeypatch.setattr(transit, "_ask", watched)
        await owner.publisher.init(gun, root_keys=[infos[0].name], targets_keys=[infos[1].name])
        await owner.sign(gun, "1")
    assert len(where) >= 3
    assert threading.current_thread() not in where
