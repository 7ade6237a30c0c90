"""Notary's databases for tests: real PostgreSQL and MariaDB on loopback, with Notary's tables.

Rows are those that the real Notary wrote (tests/vectors/notary) and those of GUNs made here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from integration.engines import free_port, wait_until
from notary_gun import NotaryGun
from tabellion.core.dialect import NOTARY

VECTORS = Path(__file__).parent / "vectors" / "notary"
PASSPHRASE = "correct-horse"
ALIAS = "passalias1"
PASSWORD = "db-secret-7431"
BEGIN = datetime(2026, 11, 24, 1, 0, 0, 123456, tzinfo=UTC)

_POSTGRES_SCHEMA = """
CREATE TABLE tuf_files (id serial PRIMARY KEY, created_at timestamptz, updated_at timestamptz,
  deleted_at timestamptz, gun varchar(255) NOT NULL, role varchar(255) NOT NULL,
  version integer NOT NULL, data bytea NOT NULL, sha256 char(64) NOT NULL,
  UNIQUE (gun, role, version));
CREATE TABLE change_category (category varchar(20) PRIMARY KEY);
INSERT INTO change_category VALUES ('update'), ('deletion');
CREATE TABLE changefeed (id serial PRIMARY KEY, created_at timestamptz, gun varchar(255) NOT NULL,
  version integer NOT NULL, sha256 char(64), category varchar(20) REFERENCES change_category);
CREATE TABLE private_keys (id serial PRIMARY KEY, created_at timestamptz, updated_at timestamptz,
  deleted_at timestamptz, key_id varchar(255) NOT NULL UNIQUE, encryption_alg varchar(255),
  keywrap_alg varchar(255), algorithm varchar(50), passphrase_alias varchar(50),
  gun varchar(255), role varchar(255), public bytea NOT NULL, private bytea NOT NULL,
  last_used timestamptz);
"""
_MYSQL_SCHEMA = (
    _POSTGRES_SCHEMA.replace("serial PRIMARY KEY", "int AUTO_INCREMENT PRIMARY KEY")
    .replace("timestamptz", "timestamp(6) NULL DEFAULT NULL")
    .replace("bytea", "longblob")
    .replace("));\n", ")) DEFAULT CHARSET=utf8mb3;\n", 1)
)


@dataclass
class NotaryRows:
    """What the three tables are to hold, column to value; ids follow the order."""

    tuf_files: list[dict[str, Any]] = field(default_factory=list)
    changefeed: list[dict[str, Any]] = field(default_factory=list)
    private_keys: list[dict[str, Any]] = field(default_factory=list)

    def add_vectors(self) -> None:
        """Add what the real server and signer wrote."""
        for row in json.loads((VECTORS / "server-tuf_files-rows.json").read_text()):
            at = datetime.fromisoformat(row["created_at"]).replace(tzinfo=UTC)
            self.add_file(row["gun"], row["role"], row["version"], row["data"].encode(), at)
            assert self.tuf_files[-1]["sha256"] == row["sha256"]
        for row in json.loads((VECTORS / "signer-private_keys-rows.json").read_text()):
            names = ("key_id", "encryption_alg", "keywrap_alg", "algorithm", "passphrase_alias")
            self.private_keys.append(
                {name: row[name] for name in (*names, "gun", "role")}
                | {
                    "created_at": datetime.fromisoformat(row["created_at"]).replace(tzinfo=UTC),
                    "public": base64.b64decode(row["public_b64"]),
                    "private": row["private_jwe"].encode(),
                    "last_used": row["last_used"],
                }
            )

    def add_file(self, gun: str, role: str, version: int, data: bytes, at: datetime) -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        self.tuf_files.append(
            {"created_at": at, "gun": gun, "role": role, "version": version}
            | {"data": data, "sha256": sha256}
        )
        if role == "timestamp":
            self.add_change(gun, version, sha256, "update", at)

    def add_change(self, gun: str, version: int, sha256: str, kind: str, at: datetime) -> None:
        self.changefeed.append(
            {"created_at": at, "gun": gun, "version": version, "sha256": sha256, "category": kind}
        )

    def add_release(self, gun: str, files: Mapping[str, bytes], number: int) -> None:
        """Add those current files of a GUN that aren't in the table yet."""
        known = {(row["gun"], row["role"], row["version"]) for row in self.tuf_files}
        for role, data in files.items():
            version = NOTARY.parse(role, data, max_bytes=len(data)).signed.version
            if (gun, role, version) not in known:
                self.add_file(gun, role, version, data, BEGIN + timedelta(minutes=number))

    def add_key(
        self, made: NotaryGun, gun: str, role: str, *, used: bool = True, told: bool = True
    ) -> None:
        """Add an online key of a GUN as notary-signer wraps it."""
        signer = made.signers[role][-1]
        private = signer._private
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        der = private.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        self.private_keys.append(
            {
                "created_at": BEGIN,
                "key_id": signer.public_key.keyid,
                "encryption_alg": "A256GCM",
                "keywrap_alg": "PBES2-HS256+A128KW",
                "algorithm": "ecdsa",
                "passphrase_alias": ALIAS,
                "gun": gun if told else "",
                "role": role if told else "",
                "public": base64.b64decode(signer.public_key.keyval["public"]),
                "private": wrap(der, PASSPHRASE),
                "last_used": BEGIN if used else None,
            }
        )

    def tables(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        yield "tuf_files", self.tuf_files
        yield "changefeed", self.changefeed
        yield "private_keys", self.private_keys


def wrap(plain: bytes, passphrase: str, *, p2c: object = 8192) -> bytes:
    """Write the compact JWE that notary-signer does, by a hand of its own."""

    def text(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    salt, content_key, nonce = secrets.token_bytes(12), secrets.token_bytes(32), b"n" * 12
    fields = {"alg": "PBES2-HS256+A128KW", "enc": "A256GCM", "p2c": p2c, "p2s": text(salt)}
    header = text(json.dumps(fields, separators=(",", ":")).encode())
    rounds = p2c if isinstance(p2c, int) and 0 < p2c < 100_000 else 1
    full_salt = b"PBES2-HS256+A128KW\0" + salt
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), full_salt, rounds, 16)
    sealed = AESGCM(content_key).encrypt(nonce, plain, header.encode())
    parts = [aes_key_wrap(key, content_key), nonce, sealed[:-16], sealed[-16:]]
    return ".".join([header, *map(text, parts)]).encode()


@dataclass(frozen=True)
class RunningDatabase:
    """A database server with Notary's tables.

    Attributes:
        url: Its address, without the password.
        variable: Variable that the password goes into.
        dump: Words of its dump program, and a variant of them.
        variant: Same, in its other form.
    """

    url: str
    variable: str
    dump: Sequence[str]
    variant: Sequence[str]

    def dumped(self, words: Sequence[str], path: Path) -> Path:
        with path.open("wb") as output:
            subprocess.run(
                words, stdout=output, env=os.environ | {self.variable: PASSWORD}, check=True
            )
        return path


@contextmanager
def postgresql(rows: NotaryRows) -> Iterator[RunningDatabase]:
    """Start PostgreSQL and fill it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("postgres is missing: apt-get install postgresql")
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
        if as_user:
            shutil.chown(folder, "postgres", "postgres")
        data, log, port = Path(folder, "data"), Path(folder, "log"), free_port()
        secret = Path(folder, "secret")
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        words = ["-D", str(data), "-U", "notary", "-A", "scram-sha-256", "--no-sync"]
        subprocess.run(
            [str(programs[-1] / "initdb"), *words, "--pwfile", str(secret), "-E", "UTF8"],
            stdout=subprocess.DEVNULL,
            cwd=folder,
            check=True,
            **as_user,
        )
        server = [str(programs[-1] / "postgres"), "-D", str(data), "-k", folder, "-F"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*server, "-h", "127.0.0.1", "-p", str(port)],
                stdout=output,
                stderr=output,
                cwd=folder,
                **as_user,
            )
        try:
            url = f"postgresql://notary@127.0.0.1:{port}/postgres"
            secret_url = url.replace("@", f":{PASSWORD}@")

            def answers() -> bool:
                try:
                    psycopg.connect(secret_url, connect_timeout=2).close()
                except psycopg.OperationalError:
                    return False
                return True

            wait_until(answers, process, log)
            with psycopg.connect(secret_url) as connection:
                connection.execute(_POSTGRES_SCHEMA.encode())
                for table, items in rows.tables():
                    for row in items:
                        marks = ", ".join(["%s"] * len(row))
                        # Names are those above.
                        text = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})"  # noqa: S608
                        connection.execute(text.encode(), list(row.values()))
            dump = [str(programs[-1] / "pg_dump"), url]
            yield RunningDatabase(url, "PGPASSWORD", dump, [*dump, "--inserts"])
        finally:
            process.terminate()
            process.wait(timeout=20)


@contextmanager
def mariadb(rows: NotaryRows) -> Iterator[RunningDatabase]:
    """Start MariaDB and fill it."""
    for program in ("mariadbd", "mariadb-install-db", "mysqldump"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            pytest.skip(f"{program} is missing: apt-get install mariadb-server")
    mariadbd = str(shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin"))
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="my", dir="/tmp") as folder:
        data, log, port = Path(folder, "data"), Path(folder, "log"), free_port()
        subprocess.run(
            [
                *("mariadb-install-db", "--no-defaults", f"--datadir={data}", *as_root),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        sock = f"{folder}/sock"
        words = [mariadbd, "--no-defaults", f"--datadir={data}", f"--socket={sock}", *as_root]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*words, f"--port={port}", "--bind-address=127.0.0.1", f"--pid-file={folder}/pid"],
                stdout=output,
                stderr=output,
            )
        try:

            def answers() -> bool:
                with socket.socket(socket.AF_UNIX) as probe:
                    try:
                        probe.connect(sock)
                        return bool(probe.recv(1))
                    except OSError:
                        return False

            wait_until(answers, process, log)
            connection = pymysql.connect(unix_socket=sock, user="root", charset="utf8mb4")
            with connection.cursor() as cursor:
                cursor.execute("CREATE DATABASE notary")
                cursor.execute(
                    f"GRANT ALL ON notary.* TO notary@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'"
                )
                cursor.execute("USE notary")
                cursor.execute("SET time_zone = '+00:00'")
                for statement in _MYSQL_SCHEMA.split(";\n"):
                    if statement.strip():
                        cursor.execute(statement)
                for table, items in rows.tables():
                    for row in items:
                        marks = ", ".join(["%s"] * len(row))
                        cursor.execute(
                            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})",  # noqa: S608  (same)
                            [_mysql_value(value) for value in row.values()],
                        )
            connection.commit()
            connection.close()
            dump = ["mysqldump", "--no-defaults", "-h127.0.0.1", f"-P{port}", "-unotary", "notary"]
            yield RunningDatabase(
                f"mysql://notary@127.0.0.1:{port}/notary",
                "MYSQL_PWD",
                dump,
                [*dump, "--hex-blob"],
            )
        finally:
            process.terminate()
            process.wait(timeout=20)


def _mysql_value(value: object) -> object:
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value
