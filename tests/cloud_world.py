"""Another internet on loopback, where the clouds' names lead to peers of ours.

The clouds' libraries are told of it by the variables that they read anyway: a proxy that all they
ask goes through, and the authority that vouches for the peers. So they reach for the very names
and check TLS as always, and what isn't in this world can't be reached from it.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

from authority import Authority

_CONNECT = re.compile(rb"CONNECT ([A-Za-z0-9.-]+):443 HTTP/1\.[01]\r\n")
Answer: TypeAlias = tuple[int, dict[str, str], Any]
"""Status, headers, and what JSON is made of."""


@dataclass
class Asked:
    """An HTTP request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class CloudWorld:
    """The proxy, and who it leads to.

    Attributes:
        ports: Host name to the port on loopback that it leads to.
        refused: What was asked of nobody here, in the order asked.
    """

    authority: Authority
    proxy: int
    ports: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """Give what leads the clouds' libraries here, and to nowhere else."""
        proxy = f"http://127.0.0.1:{self.proxy}"
        return {
            "HTTPS_PROXY": proxy,
            "https_proxy": proxy,
            "http_proxy": proxy,
            "no_proxy": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": str(self.authority.file),
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self.authority.file),
            # Where a machine in the cloud asks who it is.
            "GCE_METADATA_HOST": "127.0.0.1:9",
            "GCE_METADATA_IP": "127.0.0.1:9",
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9",
        }

    @contextlib.contextmanager
    def https(self, host: str, answer: Callable[[Asked], Answer]) -> Iterator[None]:
        """Let a host answer by HTTPS."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                asked = Asked(self.command, self.path, dict(self.headers.items()), body)
                status, headers, content = answer(asked)
                data = json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _answer  # noqa: N815  (the base class's words)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # who gave up waiting is gone

        with Server(("127.0.0.1", 0), Handler) as server:
            tls = self.authority.server(host)
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.ports[host] = server.server_address[1]
            with _serving(server):
                yield


@contextlib.contextmanager
def cloud_world(folder: Path) -> Iterator[CloudWorld]:
    """Run one, still empty."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = self.rfile.readline(2000)
            while self.rfile.readline(8000).strip():
                pass
            found = _CONNECT.fullmatch(asked)
            port = world.ports.get(found[1].decode()) if found else None
            if port is None:
                world.refused.append(asked.decode("latin-1").strip())
                self.wfile.write(b"HTTP/1.1 502 Nobody\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", port)) as there:
                self.wfile.write(b"HTTP/1.1 200 Go\r\n\r\n")
                back = threading.Thread(target=_pour, args=(there, self.connection), daemon=True)
                back.start()
                _pour(self.connection, there)
                back.join(30)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server, _serving(server):
        world = CloudWorld(Authority(folder / "clouds"), server.server_address[1])
        yield world


@contextlib.contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(30)


def _pour(source: socket.socket, into: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            into.sendall(data)
    with contextlib.suppress(OSError):
        into.shutdown(socket.SHUT_WR)


def certificate(world: CloudWorld, host: str) -> tuple[bytes, bytes]:
    """Give private key and certificate of a host, both PEM."""
    world.authority.server(host)
    folder = world.authority.folder
    return (folder / f"{host}.1.key").read_bytes(), (folder / f"{host}.1.pem").read_bytes()
