"""A machine in the middle: an https proxy that changes what a trust server answers."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from notary_servers import Certificates, NotaryServer, make_certificates

Change = Callable[[str, bytes], bytes]


def keep(_path: str, body: bytes) -> bytes:
    """Change nothing."""
    return body


def later_version(role: str) -> Change:
    """Give a change that adds a digit to the version of one role's file; it stays well-formed."""

    def change(path: str, body: bytes) -> bytes:
        name = path.rpartition("/_trust/tuf/")[2]
        is_meant = name.lstrip("0123456789.").startswith(f"{role}.")
        return body.replace(b'"version":', b'"version":1') if is_meant else body

    return change


@dataclass
class Tamperer:
    """The running proxy.

    Attributes:
        server: Whom it stands for, under its own address.
        change: From path and body to the body that is passed on; GET answers of 200 only.
        reroute: From the asked path to the path asked of the server behind it.
        changed: The paths whose answers were changed.
    """

    server: NotaryServer
    change: Change = keep
    reroute: Callable[[str], str] = str
    changed: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    tamperer: Tamperer
    behind: NotaryServer

    def do_GET(self) -> None:  # http.server's name
        status, body = self.behind.get(self.tamperer.reroute(self.path))
        passed_on = self.tamperer.change(self.path, body) if status == 200 else body
        if passed_on != body:
            self.tamperer.changed.append(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(passed_on)))
        self.end_headers()
        self.wfile.write(passed_on)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@contextmanager
def tamperer(behind: NotaryServer, folder: Path) -> Iterator[Tamperer]:
    """Run the proxy before a server."""
    certificates: Certificates = make_certificates(folder / "proxy-tls")
    handler = type("Handler", (_Handler,), {"behind": behind})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    url = f"https://127.0.0.1:{proxy.server_port}"
    running = Tamperer(NotaryServer(behind.name, url, certificates.ca, behind.log))
    handler.tamperer = running  # type: ignore[attr-defined]  # made above
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield running
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
