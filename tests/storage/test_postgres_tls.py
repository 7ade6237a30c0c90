"""PostgreSQL over TLS: only the server that was asked for is talked to, else words tell why."""

from __future__ import annotations

import gc
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certificates import Authority
from postgres_server import Database, PostgresServer, as_user
from tabellion_server.settings_storage import shown_url
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.postgres_link import Place
from tabellion_server.storage.postgres_schema import migrate_store

_HBA = """\
local all all trust
hostssl all certified 127.0.0.1/32 cert
hostssl all guarded 127.0.0.1/32 scram-sha-256
host all certified 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
"""


class TlsServer:
    """A server with ``ssl = on``, the certificates it may show, and its clients'."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self.server = server
        self.database = server.migrated_database()
        self.folder = folder
        self.ca, self.stranger = Authority(folder, "ca"), Authority(folder, "stranger")
        near = "IP:127.0.0.1,IP:0.0.0.0"
        self.shown = {
            "right": self.ca.issue("right", alternative=near),
            "elsewhere": self.ca.issue("elsewhere", alternative="DNS:db.example"),
            "expired": self.ca.issue("expired", alternative=near, is_expired=True),
            "strange": self.stranger.issue("strange", alternative=near),
        }
        self.clients = {
            "right": self.ca.issue("certified"),
            "of-somebody": self.ca.issue("somebody"),
            "expired": self.ca.issue("certified", is_expired=True),
            "strange": self.stranger.issue("certified"),
        }
        server.sql("CREATE ROLE certified LOGIN SUPERUSER")
        server.sql("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'right'")
        (server.data / "pg_hba.conf").write_text(_HBA)
        self.show("right")

    def show(self, name: str) -> None:
        """Have it show that certificate from now on."""
        for source, target in zip(
            (*self.shown[name], self.ca.certificate),
            ("server.crt", "server.key", "clients.crt"),
            strict=True,
        ):
            path = self.server.data / target
            shutil.copyfile(source, path)
            path.chmod(0o600)
            if as_user():
                shutil.chown(path, "postgres", "postgres")
        for setting, value in (("ssl", "on"), ("ssl_ca_file", "clients.crt")):
            self.server.sql(f"ALTER SYSTEM SET {setting} = '{value}'")
        self.server.stop()
        self.server.start()

    def client(self, name: str) -> str:
        certificate, key = self.clients[name]
        return f"{self.verified()}&sslcert={certificate}&sslkey={key}"

    def place(self, options: str = "", *, user: str = "tabellion") -> Place:
        url = f"{self.server.url(self.database.name, user)}?{options}"
        return Place(url, shown_url(url))

    def verified(self, mode: str = "verify-full") -> str:
        return f"sslmode={mode}&sslrootcert={self.ca.certificate}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    with PostgresServer.running() as server:
        yield TlsServer(server, tmp_path_factory.mktemp("tls"))


async def opened(place: Place) -> tuple[list[str], bool]:
    """Open a store and use it; give the events that were logged, and whether it spoke TLS."""
    with capture_logs() as logs:
        store = await PostgresStore.open(place)
        try:
            await store.guns()
            query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            ((is_tls,),) = await store._link.fetch(query)
        finally:
            await store.close()
    return [entry["event"] for entry in logs], is_tls


async def refused(place: Place) -> StorageError:
    with pytest.raises(StorageError) as caught:
        await PostgresStore.open(place)
    for secret in ("wrong-pw", "s3cret", "PRIVATE KEY"):
        assert secret not in caught.value.message
    with pytest.raises(StorageError) as again:
        await migrate_store(place)
    error = caught.value
    assert again.value.message == error.message
    told = StorageError(error.message, hint=error.hint)
    del caught, again, error
    with warnings.catch_warnings():  # asyncpg leaves a socket open where TLS doesn't come about
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return told


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_the_right_server_is_talked_to_over_tls(tls: TlsServer, mode: str) -> None:
    assert await opened(tls.place(tls.verified(mode))) == ([], True)


@pytest.mark.parametrize(
    ("shown", "mode", "told", "to_do"),
    [
        ("strange", "require", "unable to get local issuer", "sslrootcert in storage.url"),
        ("strange", "verify-ca", "unable to get local issuer", "sslrootcert in storage.url"),
        ("strange", "verify-full", "unable to get local issuer", "sslrootcert in storage.url"),
        ("elsewhere", "verify-full", "not valid for '127.0.0.1'", "name the host as"),
        ("expired", "verify-ca", "has expired", "renew the certificate"),
        ("expired", "verify-full", "has expired", "renew the certificate"),
    ],
)
async def test_a_server_with_another_certificate_is_refused(
    tls: TlsServer, shown: str, mode: str, told: str, to_do: str
) -> None:
    tls.show(shown)
    try:
        error = await refused(tls.place(tls.verified(mode)))
    finally:
        tls.show("right")
    assert "shows a certificate that isn't trusted" in error.message
    assert told in error.message
    assert to_do in error.hint


async def test_verify_ca_takes_any_host_of_that_ca(tls: TlsServer) -> None:
    tls.show("elsewhere")
    try:
        assert await opened(tls.place(tls.verified("verify-ca"))) == ([], True)
    finally:
        tls.show("right")


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_server_without_tls_is_refused(
    tls: TlsServer, database: Database, mode: str
) -> None:
    place = Place(f"{database.url}?{tls.verified(mode)}", shown_url(database.url))
    error = await refused(place)
    assert "doesn't speak TLS" in error.message
    assert "ssl = on" in error.hint


async def test_a_client_with_the_right_certificate_is_let_in(tls: TlsServer) -> None:
    assert await opened(tls.place(tls.client("right"), user="certified")) == ([], True)


@pytest.mark.parametrize(
    ("name", "told", "to_do"),
    [
        ("of-somebody", "refuses this user: certificate authentication failed", "sslcert"),
        ("expired", "broke the connection", "log tells why"),
        ("strange", "broke the connection", "log tells why"),
    ],
)
async def test_a_client_with_another_certificate_is_told(
    tls: TlsServer, name: str, told: str, to_do: str
) -> None:
    error = await refused(tls.place(tls.client(name), user="certified"))
    assert told in error.message
    assert to_do in error.hint


async def test_what_is_wrong_with_ones_own_files_is_told_without_secrets(tls: TlsServer) -> None:
    certificate, key = tls.clients["right"]
    locked, junk = tls.folder / "locked.key", tls.folder / "junk"
    junk.write_text("s3cret")
    words = ["-topk8", "-in", key, "-out", locked, "-passout", "pass:s3cret"]
    subprocess.run(["openssl", "pkcs8", *words], check=True)  # noqa: S607  (wherever it is)
    given = f"{tls.verified()}&sslcert={certificate}&sslkey="
    for options, told in (
        (tls.verified(), "requires a valid client certificate"),
        ("sslmode=disable", "no encryption"),
        (f"{given}{tls.clients['strange'][1]}", "KEY_VALUES_MISMATCH"),
        (f"{given}{locked}", "can't be spoken to by TLS"),
        (f"{given}{locked}&sslpassword=wrong-pw", "can't be spoken to by TLS"),
        (f"{given}/none", "No such file"),
        (f"{given}{junk}", "can't be spoken to by TLS"),
        (f"sslmode=verify-full&sslrootcert={junk}", "NO_CERTIFICATE"),
    ):
        error = await refused(tls.place(options, user="certified"))
        assert told in error.message, options
        assert "ssl" in error.hint
    place = tls.place(f"{given}{locked}&sslpassword=s3cret", user="certified")
    assert await opened(place) == ([], True)
    error = await refused(tls.place(tls.verified(), user="guarded:wrong-pw"))
    assert "refuses the password" in error.message


@pytest.mark.parametrize(
    ("options", "environment", "is_warned"),
    [
        ("application_name=other", {}, True),
        ("sslmode=prefer", {}, True),
        ("sslmode=require", {}, True),
        ("sslmode=disable", {}, True),
        ("sslmode=require&sslrootcert=CA", {}, False),
        ("sslmode=verify-ca&sslrootcert=CA", {}, False),
        ("sslmode=verify-full&sslrootcert=CA", {}, False),
        ("application_name=other", {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "CA"}, False),
    ],
)
async def test_a_way_to_another_machine_that_is_not_verified_is_told(
    tls: TlsServer,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    environment: dict[str, str],
    is_warned: bool,  # noqa: FBT001  (a parameter)
) -> None:
    """Nobody can tell that 0.0.0.0 is this machine, too; ``PGHOST`` names it as well."""
    monkeypatch.setenv("HOME", str(tls.folder))  # no CA is kept there
    certificate = str(tls.ca.certificate)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("CA", certificate))
    near = tls.place(options.replace("CA", certificate))
    assert (await opened(near))[0] == []
    far = near.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104  (asked, not served)
    monkeypatch.setenv("PGHOST", "0.0.0.0")  # noqa: S104  (same)
    monkeypatch.setenv("PGPORT", str(tls.server.port))
    unnamed = near.url.replace(f"tabellion@127.0.0.1:{tls.server.port}", "") + "&user=tabellion"
    for url in (far, unnamed):
        events, _ = await opened(replace(near, url=url))
        assert events == ["store.link_not_verified"] * is_warned
