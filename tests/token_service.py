"""A token service as docker's registries have it, on loopback, with a throw-away authority.

``TokenService.make(folder)`` makes the authority and writes its bundle; ``token(...)`` signs
whatever a test wants said; ``serving()`` answers ``/token`` over HTTP.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

SERVICE, ISSUER = "trust.example", "auth.example"
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass
class TokenService:
    """Signs tokens; knows users and what each may do.

    Attributes:
        users: Name to password.
        grants: Name ("" for anybody) to actions on every repository.
        asked: The scopes of each request, with the user's name.
    """

    root_key: PrivateKey
    root: x509.Certificate
    key: PrivateKey
    certificate: x509.Certificate
    bundle: Path
    users: dict[str, str] = field(default_factory=lambda: {"dave": "secret"})
    grants: dict[str, set[str]] = field(default_factory=lambda: {"dave": {"pull", "push", "*"}})
    catalog_for: set[str] = field(default_factory=lambda: {"dave"})
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    life_seconds: int = 300
    realm: str = "http://127.0.0.1:1/token"

    @classmethod
    def make(cls, folder: Path) -> TokenService:
        root_key = ec.generate_private_key(ec.SECP256R1())
        key = ec.generate_private_key(ec.SECP256R1())
        root = certify("token root", root_key, None, root_key, is_ca=True)
        certificate = certify("token signer", key, root, root_key)
        bundle = folder / "auth.pem"
        bundle.write_bytes(root.public_bytes(serialization.Encoding.PEM))
        return cls(root_key, root, key, certificate, bundle)

    def settings(self) -> dict[str, str]:
        """Give what a server's ``[auth]`` section holds."""
        return {
            "type": "token",
            "realm": self.realm,
            "service": SERVICE,
            "issuer": ISSUER,
            "root_cert_bundle": str(self.bundle),
        }

    def token(
        self,
        *access: Mapping[str, Any],
        header: Mapping[str, Any] | None = None,
        key: PrivateKey | None = None,
        algorithm: str = "ES256",
        **claims: Any,
    ) -> str:
        """Sign a token; a claim of None is left out."""
        now = int(time.time())
        said = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": "dave",
            "exp": now + self.life_seconds,
            "nbf": now - 5,
            "iat": now,
            "jti": "1",
            "access": list(access),
        } | claims
        return jwt.encode(
            {name: value for name, value in said.items() if value is not None},
            key or self.key,
            algorithm=algorithm,
            headers=dict({"x5c": [x5c(self.certificate)]} if header is None else header),
        )

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Answer token requests; gives the realm."""
        app = web.Application()
        app.router.add_get("/token", self._get)
        app.router.add_post("/token", self._post)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.realm = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
            yield self.realm
        finally:
            await runner.cleanup()

    async def _get(self, request: web.Request) -> web.Response:
        user = ""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            user, _, password = base64.b64decode(given).decode().partition(":")
            if self.users.get(user) != password:
                return web.json_response({"details": "wrong password"}, status=401)
        return self._answer(user, request.query.getall("scope", []))

    async def _post(self, request: web.Request) -> web.Response:
        form = await request.post()
        user = self.refresh_tokens.get(str(form.get("refresh_token")))
        if form.get("grant_type") != "refresh_token" or user is None:
            return web.json_response({"error": "invalid_grant"}, status=401)
        return self._answer(user, [str(item) for item in form.getall("scope", [])])

    def _answer(self, user: str, scopes: Sequence[str]) -> web.Response:
        access = []
        for scope in " ".join(scopes).split():
            self.asked.append((user, scope))
            kind, _, rest = scope.partition(":")
            name, _, wanted = rest.rpartition(":")
            may = self.grants.get(user, set())
            actions = [action for action in wanted.split(",") if action in may]
            if kind == "registry":
                actions = ["*"] if user in self.catalog_for else []
            access.append({"type": kind, "name": name, "actions": actions})
        token = self.token(*access, sub=user)
        return web.json_response(
            {"token": token, "access_token": token, "expires_in": self.life_seconds}
        )


def certify(
    name: str,
    key: PrivateKey,
    issuer: x509.Certificate | None,
    signer: PrivateKey,
    *,
    is_ca: bool = False,
    days: int = 30,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=60))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if is_ca:
        usage = dict.fromkeys(
            [
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ],
            False,
        )
        builder = builder.add_extension(
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
    return builder.sign(signer, hashes.SHA256())


def x5c(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()


def kid(key: PrivateKey) -> str:
    """Give libtrust's fingerprint, written apart from the product's."""
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[at : at + 4] for at in range(0, 48, 4))


def grant(name: str, *actions: str, kind: str = "repository") -> dict[str, Any]:
    return {"type": kind, "name": name, "actions": list(actions)}
