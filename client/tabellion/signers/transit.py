"""``hv:`` keys in the transit engine of Vault or OpenBao.

``VAULT_ADDR`` says where, ``VAULT_TOKEN``, ``VAULT_TOKEN_FILE`` or ``~/.vault-token`` holds the
token; ``VAULT_NAMESPACE``, ``VAULT_CACERT``, ``VAULT_CAPATH``, ``VAULT_CLIENT_CERT`` and
``VAULT_CLIENT_KEY`` are as for Vault's own command line. They are read anew for each request, so a
token that an agent renews in a file is taken up.

A transit key has versions. A URI with a version is that of one key pair for ever; rotated there,
the key goes on signing here with the version that was noted, as metadata lists just that one.

securesystemslib's signer for the same URIs knows only Ed25519 keys, under one mount.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import ssl
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import urllib3
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tabellion.core.notary_keys import PublicKey
from tabellion.errors import KeyStoreError, SignerError
from tabellion.signers.backend import Pin
from tabellion.signers.uris import SignerUri

_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 10
_MAX_TOKEN_BYTES: Final = 4096
_MAX_ANSWER_BYTES: Final = 1024 * 1024
_DEFAULT_ADDRESS: Final = "https://127.0.0.1:8200"
_TOKEN = re.compile(r"[!-~]+")
_MOUNT: Final = "transit"
_REFUSED: Final = frozenset({401, 403})


class TransitKeys:
    """Keys in Vault or OpenBao."""

    def find(self, uri: SignerUri) -> tuple[SignerUri, PublicKey]:
        """Read the public key of a version, the newest if none is named."""
        name, _, wanted = uri.path.partition("/")
        versions = _ask(uri, "GET", f"keys/{name}").get("keys")
        if not isinstance(versions, dict) or not all(text.isdecimal() for text in versions):
            raise SignerError(f"{uri}: Vault's answer lists no versions")
        version = wanted or max(versions, key=int, default="")
        entry = versions.get(version)
        if not isinstance(entry, dict) or not entry.get("public_key"):
            raise KeyStoreError(
                f"{uri}: Vault has no public key of version {version or 'any'}",
                hint="use a transit key of type ecdsa-p256, ed25519 or rsa-3072, and a version it "
                "still has",
            )
        public = _public(str(entry["public_key"]), uri)
        return SignerUri("hv", f"{name}/{version}", uri.option), public

    def sign(self, uri: SignerUri, public: PublicKey, payload: bytes) -> bytes:
        """Sign with the version that the URI names."""
        name, _, version = uri.path.partition("/")
        if not version:
            raise KeyStoreError(f"{uri} names no version", hint="write hv:NAME/VERSION")
        fields: dict[str, object] = {"key_version": int(version)}
        data = payload
        if not isinstance(public, ed25519.Ed25519PublicKey):
            data = sha256(payload).digest()
            fields |= {"prehashed": True, "hash_algorithm": "sha2-256"}
        if isinstance(public, ec.EllipticCurvePublicKey):
            fields["marshaling_algorithm"] = "asn1"
        if isinstance(public, rsa.RSAPublicKey):
            fields |= {"signature_algorithm": "pss", "salt_length": "hash"}
        fields["input"] = base64.b64encode(data).decode("ascii")
        answer = _ask(uri, "POST", f"sign/{name}", fields)
        try:
            return base64.b64decode(str(answer["signature"]).rpartition(":")[2], validate=True)
        except (KeyError, ValueError) as error:
            raise SignerError(f"{uri}: Vault's answer holds no signature") from error


def backend(scheme: str, pin: Pin) -> TransitKeys:  # noqa: ARG001  (as each of them)
    """Give Vault's."""
    return TransitKeys()


def _ask(
    uri: SignerUri, method: str, path: str, fields: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Give ``data`` of Vault's answer."""
    address = os.environ.get("VAULT_ADDR") or _DEFAULT_ADDRESS
    url = f"{address.rstrip('/')}/v1/{uri.option or _MOUNT}/{path}"
    headers = {"X-Vault-Request": "true", "X-Vault-Token": _token()}
    if namespace := os.environ.get("VAULT_NAMESPACE"):
        headers["X-Vault-Namespace"] = namespace
    try:
        with urllib3.PoolManager(
            ssl_context=_tls() if address.startswith("https:") else None,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            retries=False,
        ) as pool:
            answer = pool.request(  # no redirects: they would take the token along
                method, url, headers=headers, json=fields, redirect=False, preload_content=False
            )
            with contextlib.closing(answer):  # one that is too long isn't read to its end
                body = answer.read(_MAX_ANSWER_BYTES)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise SignerError(
            f"{uri}: Vault can't be reached at {address}", hint="check VAULT_ADDR and VAULT_CACERT"
        ) from error
    return _data(uri, answer.status, body)


def _data(uri: SignerUri, status: int, body: bytes) -> dict[str, Any]:
    if status in _REFUSED:
        raise SignerError(
            f"{uri}: Vault refuses", hint="check VAULT_TOKEN: how long it lives, its policy"
        )
    if status == 404:  # noqa: PLR2004  (HTTP's)
        raise KeyStoreError(
            f"{uri}: Vault has no such key", hint="check its name, the mount and VAULT_NAMESPACE"
        )
    try:
        content = json.loads(body)
        data, faults = content.get("data"), content.get("errors")
    except (ValueError, AttributeError, RecursionError):
        data = faults = None
    if status == 200 and isinstance(data, dict):  # noqa: PLR2004  (HTTP's)
        return data
    reason = " ".join(str(fault) for fault in faults) if isinstance(faults, list) else ""
    raise SignerError(f"{uri}: Vault answered {status} {' '.join(reason.split())[:200]}".rstrip())


def _token() -> str:
    """Give the token, as it is now."""
    hint = "set VAULT_TOKEN or VAULT_TOKEN_FILE, or log in with Vault's command line"
    token, where = os.environ.get("VAULT_TOKEN", ""), "VAULT_TOKEN"
    if not token:
        where = os.environ.get("VAULT_TOKEN_FILE") or "~/.vault-token"
        try:
            with Path(where).expanduser().open("rb") as file:
                token = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, ValueError, RuntimeError) as error:
            raise SignerError(f"no token for Vault: {where} can't be read", hint=hint) from error
    if not _TOKEN.fullmatch(token):  # its text must not get into an error of the HTTP library
        raise SignerError(f"{where} holds no token for Vault", hint=hint)
    return token


def _tls() -> ssl.SSLContext:
    environ = os.environ
    context = ssl.create_default_context(
        cafile=environ.get("VAULT_CACERT") or None, capath=environ.get("VAULT_CAPATH") or None
    )
    if certificate := environ.get("VAULT_CLIENT_CERT"):
        context.load_cert_chain(certificate, environ.get("VAULT_CLIENT_KEY") or None)
    return context


def _public(text: str, uri: SignerUri) -> PublicKey:
    try:
        if not text.startswith("-----BEGIN"):
            raw = base64.b64decode(text, validate=True)
            return ed25519.Ed25519PublicKey.from_public_bytes(raw)
        loaded = load_pem_public_key(text.encode("ascii"))
    except ValueError as error:
        raise KeyStoreError(f"{uri}: Vault's public key can't be read") from error
    if not isinstance(loaded, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise KeyStoreError(f"{uri} is a key of a kind that can't be used", hint="use ecdsa-p256")
    return loaded
