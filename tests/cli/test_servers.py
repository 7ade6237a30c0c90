"""Servers that are the wrong ones, or down, or behind a proxy: told in plain words, exit 3."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tabellion.cli.embedded import EmbeddedServer

IMAGE = "servers.example/app:1.0"
VERIFY = ("verify", "--trust-on-first-use", IMAGE)


class Web(ThreadingHTTPServer):
    """Answers everything alike, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.body = status, body
        self.lines: list[str] = []
        self.headers: list[dict[str, str]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Web)
        self.server.lines.append(self.requestline)
        self.server.headers.append(dict(self.headers))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_CONNECT = do_GET  # noqa: N815  # the library looks for this name

    def log_message(self, *_: object) -> None:
        pass


class Forwarder(BaseHTTPRequestHandler):
    """A proxy that finds every host at ``target``."""

    target = ""
    hosts: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.hosts.append(f"{self.command} {address.netloc}")
        connection = HTTPConnection(self.target)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: self.headers.get(name, "") for name in ("Content-Type", "Accept")}
        place = address._replace(scheme="", netloc="").geturl()
        connection.request(self.command, place, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815  # the library looks for this name

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web(status: int, body: bytes = b"", tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    with Web(status, body) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def run(
    home: Path, server: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("TABELLION_") and not key.lower().endswith("_proxy")
    }
    own = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "TABELLION_HOME": str(home / "home")}
    return subprocess.run(
        [sys.executable, "-m", "tabellion.cli", "--server", server, *arguments],
        env={**kept, **own, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def refused(
    home: Path, server: str, *arguments: str, status: int = 3, **variables: str
) -> tuple[str, str]:
    """See an error of two lines that changes nothing; give message and hint."""
    done = run(home, server, *arguments, **variables)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert not (home / "home").exists() or not list((home / "home").rglob("*.json"))
    error, hint = done.stderr.splitlines()
    for leak in ("Errno", "0x", "Cannot connect", "_ssl.c", "[", "<"):
        assert leak not in done.stderr
    return error.removeprefix("tabellion: error: "), hint.removeprefix("hint: ")


def write_certificate(folder: Path, address: str = "127.0.0.1", hours: int = 1) -> ssl.SSLContext:
    """Write cert.pem and key.pem; give the context of a server that shows them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(hours=hours))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@pytest.mark.parametrize(
    ("status", "body"), [(404, b"<h1>Not found</h1>"), (404, b""), (200, b"\n<!doctype html>")]
)
@pytest.mark.parametrize("verb", ["verify", "list", "history"])
def test_a_web_server_is_said_to_be_no_trust_server(
    tmp_path: Path, status: int, body: bytes, verb: str
) -> None:
    arguments = ["servers.example/app"] if verb == "list" else [IMAGE]
    if verb != "history":
        arguments.append("--trust-on-first-use")
    with web(status, body) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert refused(tmp_path, url, verb, *arguments) == (
            f"{url} doesn't answer as a trust server",
            "check --server or TABELLION_SERVER, and the name",
        )


def test_a_closed_port_is_said_to_refuse(tmp_path: Path) -> None:
    message, _ = refused(tmp_path, "http://127.0.0.1:1", *VERIFY)
    assert message == "can't reach http://127.0.0.1:1: connection refused"


def test_a_host_that_is_none_is_said_so(tmp_path: Path) -> None:
    message, _ = refused(tmp_path, "http://no-such-host.invalid", *VERIFY)
    assert message in {
        "can't reach http://no-such-host.invalid: no such host",
        "can't reach http://no-such-host.invalid: its name can't be looked up now",
    }


@pytest.mark.parametrize(
    ("address", "hours", "ca", "told"),
    [
        ("127.0.0.1", 1, "", ("isn't trusted: it vouches for itself", "--ca FILE")),
        ("127.0.0.9", 1, "cert.pem", ("is for another address", "operator")),
        ("127.0.0.1", -1, "cert.pem", ("is expired", "operator")),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said(
    tmp_path: Path, address: str, hours: int, ca: str, told: tuple[str, str]
) -> None:
    context = write_certificate(tmp_path, address, hours)
    trusted = {"TABELLION_CA": str(tmp_path / ca)} if ca else {}
    with web(404, tls=context) as server:
        url = f"https://127.0.0.1:{server.port}"
        message, hint = refused(tmp_path, url, *VERIFY, **trusted)
        assert message == f"can't reach {url}: its certificate {told[0]}"
        assert told[1] in hint
        assert server.lines == []


def test_tls_asked_of_a_plain_server_is_said(tmp_path: Path) -> None:
    with web(404) as server:
        message, _ = refused(
            tmp_path,
            f"https://127.0.0.1:{server.port}",
            *VERIFY,
        )
    assert "http address" in message


def test_publishing_over_tls_trusts_the_given_ca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_certificate(tmp_path)
    monkeypatch.setenv("TABELLION_SERVER__TLS__CERTIFICATE", str(tmp_path / "cert.pem"))
    monkeypatch.setenv("TABELLION_SERVER__TLS__KEY", str(tmp_path / "key.pem"))
    secrets = {f"TABELLION_{role}_PASSPHRASE": "secret-word" for role in ("ROOT", "TARGETS")}
    (tmp_path / "server").mkdir()
    with EmbeddedServer(tmp_path / "server") as server:
        assert server.url.startswith("https://")
        done = run(
            tmp_path,
            server.url,
            "init",
            "servers.example/app",
            **secrets,
            TABELLION_CA=str(tmp_path / "cert.pem"),
        )
    assert done.returncode == 0, done.stderr


# Proxies.

NETRC = "default login somebody password netrc-secret\n"


def test_a_server_elsewhere_is_asked_through_the_proxy_without_netrc(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(NETRC)
    (tmp_path / ".netrc").chmod(0o600)
    with web(404) as proxy:
        variables = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}
        refused(tmp_path, "http://trust.invalid", *VERIFY, **variables)
        assert proxy.lines[0].startswith("GET http://trust.invalid/v2/")
        names = {name.lower() for headers in proxy.headers for name in headers}
        assert not names & {"authorization", "proxy-authorization"}


def test_publishing_and_verifying_work_through_a_proxy(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    secrets = {f"TABELLION_{role}_PASSPHRASE": "secret-word" for role in ("ROOT", "TARGETS")}
    digest = "sha256:" + "1" * 64
    with (
        EmbeddedServer(tmp_path / "server") as server,
        ThreadingHTTPServer(("127.0.0.1", 0), Forwarder) as proxy,
    ):
        Forwarder.target = server.url.removeprefix("http://")
        threading.Thread(target=proxy.serve_forever, args=(0.05,)).start()
        try:
            variables = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.server_address[1]}", **secrets}
            for arguments in (
                ["init", "servers.example/app"],
                ["sign", IMAGE, "--digest", digest, "--length", "3"],
                ["verify", IMAGE],
            ):
                done = run(tmp_path, "http://trust.invalid", *arguments, **variables)
                assert done.returncode == 0, done.stderr
            assert done.stdout == f"{digest}\n"
            unknown = run(
                tmp_path, "http://trust.invalid", "history", "servers.example/other", **variables
            )
            assert unknown.returncode == 1
        finally:
            proxy.shutdown()
    assert set(Forwarder.hosts) == {"GET trust.invalid", "POST trust.invalid"}


def test_a_password_of_the_proxy_goes_to_the_proxy(tmp_path: Path) -> None:
    with web(404) as proxy:
        variables = {"http_proxy": f"http://me:word@127.0.0.1:{proxy.port}"}
        refused(tmp_path, "http://trust.invalid", *VERIFY, **variables)
        assert proxy.headers[0]["Proxy-Authorization"] == "Basic bWU6d29yZA=="
        assert "Authorization" not in proxy.headers[0]


def test_https_is_asked_by_a_tunnel_and_a_refusing_proxy_is_blamed(tmp_path: Path) -> None:
    with web(403) as proxy:
        variables = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        message, hint = refused(tmp_path, "https://trust.invalid", *VERIFY, **variables)
        assert proxy.lines[0].startswith("CONNECT trust.invalid:443 ")
    assert message == "can't reach https://trust.invalid: its proxy answered 403"
    assert "HTTPS_PROXY" in hint


def test_a_proxy_that_is_down_is_blamed(tmp_path: Path) -> None:
    message, _ = refused(
        tmp_path,
        "http://trust.invalid",
        *VERIFY,
        ALL_PROXY="127.0.0.1:1",
    )
    assert message == "can't reach http://trust.invalid: its proxy 127.0.0.1:1 doesn't answer"


def test_what_is_no_proxy_is_a_fault_of_the_environment_and_its_password_is_kept(
    tmp_path: Path,
) -> None:
    message, hint = refused(
        tmp_path,
        "http://trust.invalid",
        *VERIFY,
        status=2,
        HTTP_PROXY="socks5://me:word@proxy.invalid",
    )
    assert "word" not in message + hint
    assert "HTTP_PROXY" in hint


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_never_asked_through_a_proxy_nor_shown_netrc(tmp_path: Path, host: str) -> None:
    (tmp_path / ".netrc").write_text(NETRC)
    (tmp_path / ".netrc").chmod(0o600)
    with web(404) as proxy, web(404) as server:
        refused(
            tmp_path,
            f"http://{host}:{server.port}",
            *VERIFY,
            HTTP_PROXY=f"http://127.0.0.1:{proxy.port}",
        )
        assert proxy.lines == []
        assert server.lines[0].startswith("GET /v2/")
        assert all("Authorization" not in headers for headers in server.headers)


@pytest.mark.parametrize("named", ["trust.invalid", ".invalid", "trust.invalid:80", "*"])
def test_no_proxy_is_honoured(tmp_path: Path, named: str) -> None:
    with web(404) as proxy:
        message, _ = refused(
            tmp_path,
            "http://trust.invalid",
            *VERIFY,
            HTTP_PROXY=f"http://127.0.0.1:{proxy.port}",
            NO_PROXY=named,
        )
        assert proxy.lines == []
    assert "can't reach http://trust.invalid" in message


# What was given.


@pytest.mark.parametrize("option", ["root", "ca"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"junk\n", ""),
        (b"\x89PNG\xff\x00", ""),
        (b"", ""),
        (b'{"signed": {}, "signatures": []}', ""),
        (None, "is a folder"),
    ],
)
@pytest.mark.parametrize("server", ["https://127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_given_file_that_is_something_else_is_blamed_by_its_path(
    tmp_path: Path, option: str, content: bytes | None, reason: str, server: str
) -> None:
    given = tmp_path / "given"
    if content is None:
        given.mkdir()
    else:
        given.write_bytes(content)
    message, hint = refused(tmp_path, server, "verify", f"--{option}", str(given), IMAGE, status=2)
    assert repr(str(given)) in message
    assert reason in message
    assert hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("option", ["root", "ca"])
def test_a_given_file_that_cannot_be_read_is_blamed_by_its_path(
    tmp_path: Path, option: str
) -> None:
    given = tmp_path / "given"
    given.write_bytes(b"")
    given.chmod(0)
    message, hint = refused(
        tmp_path, "http://127.0.0.1:1", "verify", f"--{option}", str(given), IMAGE, status=2
    )
    assert message.endswith(f"file {str(given)!r} can't be read: permission denied")
    assert hint


# Hunting a bug.


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (list(VERIFY), 3),
        (["verify", "NO IMAGE"], 2),
        (["verify", "--nonsense"], 2),
        (["--json", "verify", "--root", "nowhere", IMAGE], 2),
    ],
)
def test_a_trace_is_shown_for_every_error_if_asked_for(
    tmp_path: Path, arguments: list[str], status: int
) -> None:
    usual = run(tmp_path, "http://127.0.0.1:1", *arguments)
    traced = run(tmp_path, "http://127.0.0.1:1", *arguments, TABELLION_DEBUG="1")
    assert usual.returncode == traced.returncode == status
    assert "Traceback" not in usual.stderr
    assert traced.stderr.startswith("Traceback (most recent call last):\n") or (
        "\nTraceback (most recent call last):\n" in traced.stderr
    )
    assert traced.stderr.endswith(usual.stderr)
    assert traced.stdout == usual.stdout
