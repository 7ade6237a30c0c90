"""A certificate authority made with openssl, and the servers that it vouches for."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@dataclass
class Authority:
    """A CA in a folder.

    Attributes:
        folder: Holds keys and certificates.
        file: The CA's certificate.
    """

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
            "-subj", f"/CN={self.folder.name}", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def server(self, name: str = "localhost", *, days: int = 1) -> ssl.SSLContext:
        """Certify a server for so many days from now; a negative number has expired."""
        certificate, key = self.certify(name, days=days)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context

    def certify(self, name: str, *, days: int = 1) -> tuple[Path, Path]:
        """Do so, of a host name or address; give the files of certificate and key."""
        key, request, certificate = (f"{name}.{days}.{end}" for end in ("key", "csr", "pem"))
        self._openssl("req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", "/CN=server")
        kind = "IP" if name[0].isdigit() else "DNS"
        (self.folder / "names").write_text(f"subjectAltName={kind}:{name}\n")
        self._openssl(
            "x509", "-req", "-in", request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", str(days), "-extfile", "names", "-out", certificate,
        )  # fmt: skip
        return self.folder / certificate, self.folder / key

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)  # noqa: S607
