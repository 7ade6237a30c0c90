"""``gnupg:`` keys that GnuPG's agent holds, also on OpenPGP cards: ECDSA P-256 only.

Not OpenPGP signatures, as securesystemslib has: not all TUF clients read these, and Notary can't.
The agent is asked to sign the plain SHA-256 of what is signed, and the result is an ECDSA signature
like any other. Its Ed25519 and RSA signatures are of other kinds than metadata holds, so such keys
are refused. The agent asks for the key's passphrase or the card's PIN by itself.

Spec: GnuPG manual, "Using the Assuan protocol"; S-expressions in libgcrypt's canonical form.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tabellion.core.notary_keys import PublicKey
from tabellion.errors import KeyStoreError, SignerError
from tabellion.signers.backend import Pin
from tabellion.signers.uris import SignerUri

_TIMEOUT_SECONDS: Final = 120  # a person may have to type
_POINT_BYTES: Final = 65
_KEYGRIP = re.compile(rb"^grp:(?:[^:]*:){8}([0-9A-F]{40}):", re.MULTILINE)
_FINGERPRINT = re.compile(rb"^fpr:(?:[^:]*:){8}([0-9A-F]{40}):", re.MULTILINE)
_POINT = re.compile(rb"\(5:curve10:NIST P-256\)(?:\(5:flags[^()]*\))?\(1:q65:", re.DOTALL)


class GnupgKeys:
    """Keys of GnuPG's agent."""

    def find(self, uri: SignerUri) -> tuple[SignerUri, PublicKey]:
        """Read the public key of a key or subkey."""
        answer = self._ask(uri, [f"READKEY {self._keygrip(uri)}"])
        start = _POINT.search(answer)
        if start is None:
            raise KeyStoreError(
                f"{uri} isn't an ECDSA key on P-256: of GnuPG's keys only these sign metadata",
                hint="make one: gpg --quick-generate-key NAME nistp256 sign",
            )
        point = answer[start.end() : start.end() + _POINT_BYTES]
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        except ValueError as error:
            raise KeyStoreError(f"{uri}: GnuPG's public key can't be read") from error
        return uri, public

    def sign(self, uri: SignerUri, public: PublicKey, payload: bytes) -> bytes:  # noqa: ARG002  (the protocol's)
        """Have the agent sign; it may ask a person."""
        digest = sha256(payload).hexdigest().upper()
        answer = self._ask(
            uri,
            [f"SIGKEY {self._keygrip(uri)}", f"SETHASH --hash=sha256 {digest}", "PKSIGN"],
        )
        return encode_dss_signature(_number(answer, b"r", uri), _number(answer, b"s", uri))

    def _keygrip(self, uri: SignerUri) -> str:
        """Give the agent's name of the key that has the fingerprint."""
        command = ["gpg", "--batch", "--with-colons", "--with-keygrip", "--list-keys", uri.path]
        listed = _run(uri, command)
        grips = _KEYGRIP.findall(listed)
        prints = _FINGERPRINT.findall(listed)
        if len(grips) == len(prints):
            for fingerprint, grip in zip(prints, grips, strict=True):
                if fingerprint.decode() == uri.path:
                    return str(grip.decode())
        raise KeyStoreError(
            f"{uri}: GnuPG has no such key", hint="gpg --list-secret-keys shows fingerprints"
        )

    def _ask(self, uri: SignerUri, commands: Sequence[str]) -> bytes:
        """Give the data that the agent answers with."""
        lines = _run(uri, ["gpg-connect-agent", *commands, "/bye"]).split(b"\n")
        for line in lines:
            if line.startswith(b"ERR "):
                reason = line.decode("utf-8", "replace").split(" ", 2)[-1]
                raise SignerError(f"{uri}: GnuPG's agent doesn't sign: {reason[:200]}")
        data = b"".join(line.removeprefix(b"D ") for line in lines if line.startswith(b"D "))
        return unquote_to_bytes(data)


def backend(scheme: str, pin: Pin) -> GnupgKeys:  # noqa: ARG001  (as each of them)
    """Give GnuPG's."""
    return GnupgKeys()


def _run(uri: SignerUri, command: Sequence[str]) -> bytes:
    environ = dict(os.environ, LC_ALL="C")
    if uri.option is not None:
        environ["GNUPGHOME"] = uri.option
    try:
        done = subprocess.run(  # noqa: S603  (a URI's parts are checked by their pattern)
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise KeyStoreError(
            f"{command[0]} is missing", hint="install GnuPG: apt-get install gnupg"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SignerError(f"{uri}: {command[0]} didn't answer") from error
    return done.stdout


def _number(answer: bytes, name: bytes, uri: SignerUri) -> int:
    """Read ``(1:rLENGTH:BYTES)`` of a signature."""
    start = re.search(rb"\(1:" + name + rb"([0-9]{1,2}):", answer)
    if b"(5:ecdsa" not in answer or start is None:
        raise SignerError(f"{uri}: GnuPG's agent gave no ECDSA signature")
    length = int(start[1])
    return int.from_bytes(answer[start.end() : start.end() + length], "big")
