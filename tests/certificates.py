"""Certificates of a CA made by openssl for one test."""

from __future__ import annotations

import subprocess
from pathlib import Path

from integration.engines import need

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A CA; ``certificate`` is its own."""

    def __init__(self, folder: Path, name: str) -> None:
        need("openssl")
        self._folder = folder
        self._name = name
        self.certificate = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        words = ["-subj", f"/CN={name}", "-days", "9", "-keyout", self._key]
        _openssl("req", "-x509", *_EC, *words, "-out", self.certificate)

    def issue(
        self, subject: str, *, alternative: str | None = None, is_expired: bool = False
    ) -> tuple[Path, Path]:
        """Certify a new key; give the files of the certificate and the key.

        Args:
            subject: The common name.
            alternative: As openssl writes it: ``IP:127.0.0.1``, ``DNS:db.example``.
            is_expired: It ended some days ago.
        """
        base = self._folder / f"{self._name}-{subject}-{'old' if is_expired else 'new'}"
        certificate, key, request = (base.with_suffix(f".{end}") for end in ("crt", "key", "csr"))
        _openssl("req", "-new", *_EC, "-subj", f"/CN={subject}", "-keyout", key, "-out", request)
        extensions = base.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={alternative}\n" if alternative else "")
        (self._folder / "index").write_text("")
        config = self._folder / "ca.cnf"
        config.write_text(
            f"[ca]\ndefault_ca = one\n[one]\ndatabase = {self._folder / 'index'}\n"
            f"new_certs_dir = {self._folder}\nrand_serial = yes\ndefault_md = sha256\n"
            "policy = any\n[any]\ncommonName = supplied\n"
        )
        dates = ["-startdate", "20200101000000Z"]
        dates += ["-enddate", "20200201000000Z" if is_expired else "20991231235959Z"]
        words = ["-batch", "-notext", "-config", config, "-extfile", extensions, *dates]
        signer = ["-cert", self.certificate, "-keyfile", self._key]
        _openssl("ca", *words, *signer, "-in", request, "-out", certificate)
        return certificate, key


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)  # noqa: S607  (wherever it is)
    assert done.returncode == 0, done.stderr
