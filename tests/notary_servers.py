"""Trust servers that speak Notary, each on loopback over https: the real one, and ours.

The real one is notary-server with notary-signer on a PostgreSQL of its own. Everything is
stopped by its own process id when the block is left.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from integration import engines
from notary_forge import multipart

_SCHEMA = Path(__file__).parent / "notary_schema.sql"
_ALIAS = "passalias1"
_PASSPHRASE = "correct-horse"
_DATABASES = ("server", "signer")


@dataclass(frozen=True)
class Certificates:
    """Files of one authority and of the certificate it gave to 127.0.0.1.

    Attributes:
        ca: The authority's certificate.
        certificate: For servers and clients alike.
        key: Its private key.
    """

    ca: Path
    certificate: Path
    key: Path

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))


def make_certificates(folder: Path) -> Certificates:
    """Make an authority and a certificate for 127.0.0.1 and localhost."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests' authority")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)

    def signed(builder: x509.CertificateBuilder) -> bytes:
        made = (
            builder.issuer_name(ca_name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=30))
            .sign(ca_key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    authority = (
        x509.CertificateBuilder()
        .subject_name(ca_name)
        .public_key(ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    files = Certificates(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    files.ca.write_bytes(signed(authority))
    files.certificate.write_bytes(signed(leaf))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL; anybody on loopback is let in.

    Attributes:
        port: On 127.0.0.1.
        programs: The folder of its programs.
        words: What goes before a program to run it as the database's user.
    """

    port: int
    programs: Path
    words: tuple[str, ...]

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def run(self, program: str, *words: str, stdin: str | None = None) -> str:
        """Run one of its client programs, and give what it printed."""
        done = subprocess.run(
            [*self.words, str(self.programs / program), *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            timeout=60,
        )
        assert done.returncode == 0, f"{program} {words}: {done.stderr}"
        return done.stdout

    def dump(self, database: str, *words: str) -> str:
        """Give what ``pg_dump`` writes, as plain SQL."""
        return self.run("pg_dump", *words, f"--dbname={self.url(database)}")


def postgres_programs() -> Path:
    """Find PostgreSQL's own folder, or skip the test."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("postgres is missing: apt-get install postgresql")
    return found[-1].parent


@contextmanager
def postgres(databases: Sequence[str] = (), *, fsync: bool = False) -> Iterator[Postgres]:
    """Run PostgreSQL in a new folder, as another user if we're root: it refuses to be root.

    With ``fsync`` it keeps what it acknowledged through a power cut, as it does for operators.
    """
    programs = postgres_programs()
    words: tuple[str, ...] = ()
    # Not pytest's folder: other users can't enter that.
    with tempfile.TemporaryDirectory(prefix="tblpg", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.geteuid() == 0:
            words = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
            shutil.chown(folder, "postgres", "postgres")
        server = Postgres(engines.free_port(), programs, words)
        data = folder / "data"
        server.run("initdb", "--auth=trust", "--username=postgres", "--no-sync", f"-D{data}")
        command = [*words, str(programs / "postgres"), f"-D{data}", f"-p{server.port}"]
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on" if fsync else "off",
            "shared_buffers": "16MB",
        }
        command += [f"-c{key}={value}" for key, value in options.items()]
        with tempfile.TemporaryDirectory(prefix="tblpg") as logs:
            log = Path(logs) / "postgres.log"
            ready = [str(programs / "pg_isready"), "-q", "-h127.0.0.1", f"-p{server.port}"]
            with engines.started(command, log) as process:
                engines.wait_until(
                    lambda: subprocess.run(ready, check=False).returncode == 0, process, log
                )
                for database in databases:
                    server.run(
                        "psql", "-q", server.url("postgres"), f"-cCREATE DATABASE {database}"
                    )
                yield server


@dataclass(frozen=True)
class NotaryServer:
    """A trust server over https that speaks Notary.

    Attributes:
        name: ``real`` or ``ours``.
        url: ``https://127.0.0.1:PORT``.
        ca: The authority's certificate, for clients.
        log: What it wrote.
    """

    name: str
    url: str
    ca: Path
    log: Path

    @property
    def host(self) -> str:
        return self.url.removeprefix("https://")

    def get(self, path: str) -> tuple[int, bytes]:
        """Ask for a path, and give status and body."""
        return self._ask(urllib.request.Request(self.url + path))  # noqa: S310  # loopback

    def publish(self, gun: str, files: Mapping[str, bytes]) -> tuple[int, bytes]:
        """Upload files of a GUN, role to bytes, and give status and body."""
        kind, body = multipart(files)
        request = urllib.request.Request(  # noqa: S310  # loopback
            f"{self.url}/v2/{gun}/_trust/tuf/", data=body, headers={"Content-Type": kind}
        )
        return self._ask(request)

    def _ask(self, request: urllib.request.Request) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(  # noqa: S310  # loopback
                request, timeout=10, context=context
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@dataclass(frozen=True)
class RealNotary(NotaryServer):
    """notary-server with its signer and database.

    Attributes:
        database: The PostgreSQL below.
        signer_passphrases: Alias to passphrase of the rows in ``private_keys``.
    """

    database: Postgres = field(kw_only=True)
    signer_passphrases: Mapping[str, str] = field(kw_only=True, repr=False)

    @property
    def db_urls(self) -> dict[str, str]:
        """Give the URLs of the databases ``server`` and ``signer``."""
        return {name: self.database.url(name) for name in _DATABASES}

    def dump(self, database: str, *words: str) -> str:
        """Give the dump of ``server`` or ``signer``; words are options of ``pg_dump``."""
        return self.database.dump(database, *words)


@contextmanager
def real_notary(
    folder: Path,
    auth: Mapping[str, str] | None = None,
    *,
    https: bool = True,
    fsync: bool = False,
) -> Iterator[RealNotary]:
    """Run notary-server and notary-signer with ECDSA keys, on a PostgreSQL of their own.

    Args:
        folder: Their files.
        auth: As our ``[auth]`` section.
        https: How the server speaks; the signer always does by TLS.
        fsync: As ``postgres`` takes it.
    """
    for program in ("notary-server", "notary-signer"):
        engines.need(program)
    certificates = make_certificates(folder / "tls")
    with postgres(_DATABASES, fsync=fsync) as database:
        for name in _DATABASES:
            database.run("psql", "-q", database.url(name), stdin=_SCHEMA.read_text())
        signer_port, port = engines.free_port(), engines.free_port()
        files = {
            "tls_cert_file": str(certificates.certificate),
            "tls_key_file": str(certificates.key),
        }
        signer = {
            "server": {
                "grpc_addr": f"127.0.0.1:{signer_port}",
                "client_ca_file": str(certificates.ca),
                **files,
            },
            "storage": {
                "backend": "postgres",
                "db_url": database.url("signer"),
                "default_alias": _ALIAS,
            },
            "logging": {"level": "info"},
        }
        server = {
            "server": {"http_addr": f"127.0.0.1:{port}", **(files if https else {})},
            "trust_service": {
                "type": "remote",
                "hostname": "127.0.0.1",
                "port": str(signer_port),
                "key_algorithm": "ecdsa",
                "tls_ca_file": str(certificates.ca),
                "tls_client_cert": str(certificates.certificate),
                "tls_client_key": str(certificates.key),
            },
            "storage": {"backend": "postgres", "db_url": database.url("server")},
            "logging": {"level": "info"},
        }
        if auth is not None:
            options = {key.replace("_", ""): value for key, value in auth.items() if key != "type"}
            server["auth"] = {"type": auth["type"], "options": options}
        env = engines.plain_environment(folder) | {f"NOTARY_SIGNER_{_ALIAS.upper()}": _PASSPHRASE}
        for name, config in (("signer", signer), ("server", server)):
            (folder / f"{name}.json").write_text(json.dumps(config))
        log = folder / "server.log"
        found = RealNotary(
            "real",
            f"{'https' if https else 'http'}://127.0.0.1:{port}",
            certificates.ca,
            log,
            database=database,
            signer_passphrases={_ALIAS: _PASSPHRASE},
        )
        signer_words = ["notary-signer", "-config", str(folder / "signer.json")]
        server_words = ["notary-server", "-config", str(folder / "server.json")]
        with engines.started(signer_words, folder / "signer.log", env=env) as keys:
            engines.wait_until(
                lambda: engines.is_listening(signer_port), keys, folder / "signer.log"
            )
            with engines.started(server_words, log, env=env) as files_server:
                engines.wait_until(lambda: is_healthy(found), files_server, log)
                yield found


def our_config(folder: Path, auth: Mapping[str, str] | None = None) -> Path:
    """Write the configuration of our server over https, all its files in ``folder``.

    Everybody on loopback may write, or as ``auth``, the section of that name, says.
    """
    certificates = make_certificates(folder / "tls")
    config = folder / "server.toml"
    demands = "".join(f'{key} = "{value}"\n' for key, value in (auth or {}).items())
    config.write_text(
        f'[server]\nlisten = "127.0.0.1:{engines.free_port()}"\n'
        f'[server.tls]\ncertificate = "{certificates.certificate}"\nkey = "{certificates.key}"\n'
        f'[storage]\nurl = "sqlite:///{folder / "tabellion.db"}"\n'
        f'[keys]\nmaster_key_file = "{folder / "master.key"}"\n'
        + ("[auth]\n" + demands if demands else "")
    )
    return config


@contextmanager
def our_notary(config: Path) -> Iterator[NotaryServer]:
    """Run tabellion-server with an ``our_config``."""
    folder = config.parent
    address = tomllib.loads(config.read_text())["server"]["listen"]
    log = folder / "server.log"
    found = NotaryServer("ours", f"https://{address}", folder / "tls" / "ca.crt", log)
    words = [sys.executable, "-m", "tabellion_server", "serve", "--config", str(config)]
    with engines.started(words, log, env=engines.plain_environment(folder)) as process:
        engines.wait_until(lambda: is_healthy(found), process, log)
        yield found


def is_healthy(server: NotaryServer) -> bool:
    """Tell whether it answers, and says that it's well."""
    try:
        return server.get("/_notary_server/health")[0] == 200
    except OSError:
        return False
