"""Redis by TLS: who isn't trusted is refused in words, of one server, Sentinels and a Cluster."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from authority import Authority
from redis_tls_servers import RedisServer, TlsCluster, TlsSentinel, TlsSentinels, TlsServer
from storage.test_valkey_faults import GUN, publish
from tabellion.errors import ConfigurationError
from tabellion_server.settings import load_settings
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.opening import check_files, open_store
from tabellion_server.storage.redis import RedisStore
from tabellion_server.storage.redis_address import parse_redis_url
from valkey_servers import ALWAYS

_TIMEOUT_SECONDS = 1.0
_ATTEMPTS_SECONDS = 1.0  # what three attempts and their pauses take besides


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("one") / "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other") / "stranger")


@pytest.fixture(scope="module")
def tls_server(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path_factory.mktemp("tls"), *ALWAYS, authority=authority)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def tls_sentinels(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[TlsSentinels]:
    sentinels = TlsSentinels(tmp_path_factory.mktemp("sentinels"), authority)
    try:
        yield sentinels.start()  # type: ignore[misc]
    finally:
        sentinels.kill()


@pytest.fixture(scope="module")
def tls_cluster(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[TlsCluster]:
    cluster = TlsCluster(tmp_path_factory.mktemp("cluster"), authority)
    try:
        yield cluster.start()  # type: ignore[misc]
    finally:
        cluster.kill()


@contextlib.asynccontextmanager
async def opened(
    url: str, ca: Path | None, *, sentinel_password: str | None = None
) -> AsyncIterator[RedisStore]:
    address = replace(
        parse_redis_url(url),
        timeout_seconds=_TIMEOUT_SECONDS,
        sentinel_password=sentinel_password,
    )
    store = await RedisStore.open(address, ca=ca)
    try:
        yield store
    finally:
        await store.close()


async def refused(url: str, ca: Path | None, *, sentinel_password: str | None = None) -> str:
    """See that it can't be opened, and that soon; give what is said."""
    begun = time.monotonic()
    with pytest.raises(StorageError) as caught:
        async with opened(url, ca, sentinel_password=sentinel_password):
            pass
    assert time.monotonic() - begun < _TIMEOUT_SECONDS + _ATTEMPTS_SECONDS
    assert caught.value.hint
    return f"{caught.value.message} | {caught.value.hint}"


def secret(file: Path, text: str) -> None:
    file.write_text(f"{text}\n")
    file.chmod(0o600)


async def use(url: str, ca: Path) -> None:
    async with opened(url, ca) as store:
        head = await publish(store)
        assert await store.head(GUN) == head


class TestOneServer:
    async def test_one_of_the_right_ca_is_used(
        self, tls_server: TlsServer, authority: Authority
    ) -> None:
        await use(tls_server.url, authority.file)

    async def test_one_of_another_ca_or_none_that_is_known_is_refused(
        self, tls_server: TlsServer, stranger: Authority
    ) -> None:
        for ca in (stranger.file, None):
            assert "isn't trusted" in (told := await refused(tls_server.url, ca))
            assert "storage.ca_file" in told

    async def test_with_a_ca_file_what_the_system_trusts_is_not_taken(
        self,
        tls_server: TlsServer,
        authority: Authority,
        stranger: Authority,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        await use(tls_server.url, authority.file)
        assert "isn't trusted" in await refused(tls_server.url, stranger.file)
        async with opened(tls_server.url, None) as store:
            await store.check()

    async def test_one_of_another_name_is_refused(
        self, tmp_path: Path, authority: Authority
    ) -> None:
        other = TlsServer(tmp_path, *ALWAYS, authority=authority, name="redis.example")
        try:
            await asyncio.to_thread(other.start)
            assert "for another host" in await refused(other.url, authority.file)
        finally:
            other.kill()

    async def test_one_that_speaks_no_tls_is_refused_in_time(
        self, tmp_path: Path, authority: Authority
    ) -> None:
        plain = RedisServer(tmp_path, *ALWAYS)
        try:
            await asyncio.to_thread(plain.start)
            told = await refused(plain.url.replace("redis:", "rediss:"), authority.file)
            assert "TLS" in told
        finally:
            plain.kill()

    async def test_one_that_says_nothing_is_refused_in_time(self, authority: Authority) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"rediss://127.0.0.1:{silent.getsockname()[1]}"
            assert "in time while TLS was begun" in await refused(url, authority.file)

    async def test_one_that_speaks_tls_only_is_not_asked_in_plain_text_for_long(
        self, tls_server: TlsServer
    ) -> None:
        told = await refused(tls_server.url.replace("rediss:", "redis:"), None)
        assert "can't be reached" in told
        assert "rediss instead of redis" in told

    async def test_one_that_wants_a_client_certificate_is_told_apart(
        self, tmp_path: Path, authority: Authority
    ) -> None:
        server = TlsServer(tmp_path, *ALWAYS, authority=authority)
        try:
            await asyncio.to_thread(server.start)
            assert server.say("CONFIG", "SET", "tls-auth-clients", "yes") == "+OK"
            told = await refused(server.url, authority.file)
            assert "client's certificate" in told
            assert "set tls-auth-clients no" in told
        finally:
            server.kill()

    @pytest.mark.parametrize("content", [None, b"", b"no certificate"])
    async def test_a_ca_file_without_certificates_is_a_configuration_fault(
        self, tls_server: TlsServer, tmp_path: Path, content: bytes | None
    ) -> None:
        file = tmp_path / "ca.pem"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"storage\.ca_file .*ca\.pem") as caught:
            async with opened(tls_server.url, file):
                pass
        assert caught.value.hint


class TestSentinels:
    async def test_they_and_their_master_are_asked_by_tls(
        self, tls_sentinels: TlsSentinels, authority: Authority
    ) -> None:
        await use(tls_sentinels.url, authority.file)

    async def test_those_of_another_ca_are_refused(
        self, tls_sentinels: TlsSentinels, stranger: Authority
    ) -> None:
        assert "isn't trusted" in await refused(tls_sentinels.url, stranger.file)

    async def test_those_that_speak_tls_only_are_not_asked_in_plain_text_for_long(
        self, tls_sentinels: TlsSentinels
    ) -> None:
        told = await refused(tls_sentinels.url.replace("rediss", "redis"), None)
        assert "none of its Sentinels" in told
        assert "rediss instead of redis" in told

    async def test_a_service_that_they_do_not_know_is_told(
        self, tls_sentinels: TlsSentinels, authority: Authority
    ) -> None:
        url = tls_sentinels.url.replace("/trust/", "/thrust/")
        told = await refused(url, authority.file)
        assert "know no master of that name" in told
        assert "check the service's name; if it's right, its master is down" in told

    async def test_they_have_users_and_passwords_of_their_own(
        self, tls_server: TlsServer, authority: Authority, tmp_path: Path
    ) -> None:
        (tmp_path / "sentinel.conf").write_text(
            f"sentinel monitor trust 127.0.0.1 {tls_server.port} 1\n"
        )
        sentinel = TlsSentinel(tmp_path, authority=authority)
        rights = ("allchannels", "-@all", "+auth", "+client", "+ping", "+sentinel|masters")
        url, ca = f"rediss+sentinel://127.0.0.1:{sentinel.port}/trust", authority.file
        asked = f"{url}?sentinel_user=asker"
        try:
            await asyncio.to_thread(sentinel.start)
            for user, right in (("asker", rights), ("default", ())):
                given = ("on", "resetpass", f">{user}-secret", *right)
                assert sentinel.say("ACL", "SETUSER", user, *given) == "+OK"
            for place, password in ((asked, "asker-secret"), (url, "default-secret")):
                async with opened(place, ca, sentinel_password=password) as store:
                    await publish(store)
                told = await refused(place, ca, sentinel_password="wrong")
                assert "its Sentinels don't take this password" in told
                told = await refused(place, ca)
                assert "storage.sentinel_password_file" in told
            secret(tmp_path / "secret", "asker-secret")
            (tmp_path / "server.toml").write_text(
                f'[storage]\nurl = "{asked}&timeout=1"\nca_file = "{ca}"\n'
                'sentinel_password_file = "secret"\n'
            )
            store = await open_store(load_settings(tmp_path / "server.toml", {}))
            await store.check()
            await store.close()
        finally:
            sentinel.kill()


class TestCluster:
    async def test_all_its_nodes_are_asked_by_tls(
        self, tls_cluster: TlsCluster, authority: Authority
    ) -> None:
        await use(tls_cluster.url, authority.file)
        async with opened(tls_cluster.url, authority.file) as store:
            for number in range(6):  # on some slot of each
                await publish(store, f"gun/{number}")

    async def test_one_of_another_ca_is_refused(
        self, tls_cluster: TlsCluster, stranger: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "isn't trusted" in await refused(tls_cluster.url, None)
        monkeypatch.setenv("SSL_CERT_FILE", str(tls_cluster.authority.file))
        assert "isn't trusted" in await refused(tls_cluster.url, stranger.file)

    async def test_one_that_speaks_tls_only_is_not_asked_in_plain_text_for_long(
        self, tls_cluster: TlsCluster
    ) -> None:
        told = await refused(tls_cluster.url.replace("rediss", "redis"), None)
        assert "none of its nodes" in told
        assert "rediss instead of redis" in told


def test_the_password_files_of_store_and_sentinels_are_told_apart(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(
        '[storage]\nurl = "redis+sentinel://h:1/trust"\n'
        'password_file = "one"\nsentinel_password_file = "two"\n'
    )
    settings = load_settings(config, {})
    secret(tmp_path / "one", "store-secret")
    with pytest.raises(ConfigurationError, match=r"storage\.sentinel_password_file .*two isn't"):
        check_files(settings)
    secret(tmp_path / "two", "sentinel-secret")
    check_files(settings)
