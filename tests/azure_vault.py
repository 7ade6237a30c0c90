"""A peer that speaks Azure's Key Vault and its login, written from their public REST reference.

Who asks without a token is told whom to get one from; the login gives one for the right secret.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from cloud_world import Answer, Asked, CloudWorld

HOST: Final = "our-team.vault.azure.net"
LOGIN: Final = "login.microsoftonline.com"
_TENANT: Final = "0c5a2f2e-7c41-4e5d-9a0f-3f3f3f3f3f3f"
_CLIENT: Final = "5d1b2a77-2222-4333-8444-555555555555"
_PATH = re.compile(r"/keys/([A-Za-z0-9-]+)(?:/([0-9a-f]{32})?)?(/sign)?")


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _number(value: int) -> str:
    return _b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


@dataclass
class Version:
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    enabled: bool = True

    @property
    def jwk(self) -> dict[str, str]:
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        point, size = public.public_numbers(), public.key_size // 8
        x, y = (_b64(part.to_bytes(size, "big")) for part in (point.x, point.y))
        return {"kty": "EC", "crv": f"P-{public.key_size}", "x": x, "y": y}


@dataclass
class AzureVault:
    """A vault and the keys that it holds, by name and version; the last is the newest.

    Attributes:
        before: Called before each answer with the call's name; it may wait.
        denied: Operations that the caller may not do.
        spoil: Signs something else than it was asked to.
        astray: URI of the version that it reads, whichever is asked for; none if it does so.
        failures: So many calls fail as if the service were restarting.
    """

    world: CloudWorld
    keys: dict[str, dict[str, Version]] = field(default_factory=dict)
    before: Callable[[str], object] = lambda _: None
    denied: frozenset[str] = frozenset()
    spoil: bool = False
    astray: str = ""
    failures: int = 0
    calls: list[str] = field(default_factory=list)

    scheme: Final = "azurekms"
    kinds: Final = ("P-256",)

    def __post_init__(self) -> None:
        self._secret = secrets.token_urlsafe(24)
        self._token = secrets.token_urlsafe(24)
        self.secrets = [self._secret, self._token]

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AZURE_TENANT_ID": _TENANT,
            "AZURE_CLIENT_ID": _CLIENT,
            "AZURE_CLIENT_SECRET": self._secret,
        }

    nobody: Final = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")

    def make(self, name: str, kind: str = kinds[0]) -> str:
        """Make a key's next version; give its URI."""
        private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
        if kind == "RSA":
            private = rsa.generate_private_key(65537, 2048)
        else:
            private = ec.generate_private_key(ec.SECP384R1() if kind == "P-384" else ec.SECP256R1())
        version = secrets.token_hex(16)
        self.keys.setdefault(name, {})[version] = Version(private)
        return f"azurekms://{HOST}/keys/{name}/{version}"

    rotate = make

    def version(self, uri: str) -> Version:
        _, name, version = uri.rsplit("/", 2)
        return self.keys[name][version]

    def disable(self, uri: str) -> None:
        self.version(uri).enabled = False

    def deny(self, *, reading: bool) -> None:
        self.denied = frozenset({"get"} if reading else {"sign"})

    def login(self, asked: Asked) -> Answer:
        """Answer as the login does."""
        self.before("login")
        path = urlsplit(asked.path).path
        base = f"https://{LOGIN}/{_TENANT}"
        if path == f"/{_TENANT}/v2.0/.well-known/openid-configuration":
            return (
                200,
                {},
                {
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "issuer": f"{base}/v2.0",
                },
            )
        if (asked.method, path) != ("POST", f"/{_TENANT}/oauth2/v2.0/token"):
            return 404, {}, {"error": "invalid_request"}
        self.calls.append("token")
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        if form.get("client_id") != _CLIENT or form.get("client_secret") != self._secret:
            why = f"AADSTS7000215: Invalid client secret provided for app '{_CLIENT}'."
            return 401, {}, {"error": "invalid_client", "error_description": why}
        wanted = ("client_credentials", "https://vault.azure.net/.default")
        if (form.get("grant_type"), form.get("scope", "").split()[0]) != wanted:
            return 400, {}, {"error": "invalid_scope", "error_description": "AADSTS70011"}
        token = {"token_type": "Bearer", "expires_in": 3599, "access_token": self._token}
        return 200, {}, token

    def vault(self, asked: Asked) -> Answer:
        """Answer as the vault does."""
        if asked.headers.get("Authorization") != f"Bearer {self._token}":
            challenge = (
                f'Bearer authorization="https://{LOGIN}/{_TENANT}", '
                'resource="https://vault.azure.net"'
            )
            answer = _fault(401, "Unauthorized", "AKV10000: Request is missing a Bearer token.")
            return 401, {"WWW-Authenticate": challenge}, answer[2]
        address = urlsplit(asked.path)
        if not re.fullmatch(r"api-version=(7\.[0-9]|20[0-9-]+)", address.query):
            return _fault(400, "BadParameter", "api-version must be specified.")
        found = _PATH.fullmatch(address.path)
        if not found:
            return _fault(404, "NotFound", "Not found.")
        name, number, signing = found.groups()
        if asked.method != ("POST" if signing else "GET"):
            return _fault(405, "MethodNotAllowed", "Method not allowed.")
        return self._use(name, number, "sign" if signing else "get", asked.body)

    def _use(self, name: str, number: str | None, operation: str, body: bytes) -> Answer:
        self.calls.append(operation)
        self.before(operation)
        if self.failures:
            self.failures -= 1
            return _fault(503, "ServiceUnavailable", "Try again later.")
        if operation in self.denied:
            why = f"The user does not have keys {operation} permission on key vault."
            return _fault(403, "Forbidden", why, "ForbiddenByPolicy")
        versions = self.keys.get(name, {})
        number = number or next(reversed(versions), "")
        if number not in versions:
            why = f"A key with (name/id) {name}/{number} was not found in this key vault."
            return _fault(404, "KeyNotFound", why)
        if not versions[number].enabled:
            why = f"Operation {operation} is not allowed on a disabled key."
            return _fault(403, "Forbidden", why, "KeyDisabled")
        if self.astray:
            number = self.astray.rpartition("/")[2]
        kid = f"https://{HOST}/keys/{name}/{number}"
        if operation == "sign":
            return self._sign(kid, versions[number], body)
        attributes = {"enabled": True, "created": 1, "updated": 1, "recoveryLevel": "Recoverable"}
        key = {"kid": kid, "key_ops": ["sign", "verify"], **versions[number].jwk}
        return 200, {}, {"key": key, "attributes": attributes}

    def _sign(self, kid: str, version: Version, body: bytes) -> Answer:
        try:
            fields: dict[str, Any] = json.loads(body)
            value: str = fields["value"]
            digest = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
        except (ValueError, KeyError):
            return _fault(400, "BadParameter", "The request body can't be read.")
        if not isinstance(version.private, ec.EllipticCurvePrivateKey):
            return _fault(400, "BadParameter", "Key and signing algorithm are incompatible.")
        if fields.get("alg") != "ES256" or version.private.key_size != 256:
            return _fault(400, "BadParameter", "Key and signing algorithm are incompatible.")
        if len(digest) != 32:
            return _fault(400, "BadParameter", f"Invalid length of 'value': {len(digest)} bytes.")
        if self.spoil:
            digest = digest[::-1]
        pair = decode_dss_signature(version.private.sign(digest, ec.ECDSA(Prehashed(SHA256()))))
        return 200, {}, {"kid": kid, "value": _b64(b"".join(n.to_bytes(32, "big") for n in pair))}


def _fault(status: int, code: str, why: str, inner: str | None = None) -> Answer:
    error: dict[str, Any] = {"code": code, "message": why}
    if inner:
        error["innererror"] = {"code": inner}
    return status, {}, {"error": error}


@contextlib.contextmanager
def azure_vault(world: CloudWorld) -> Iterator[AzureVault]:
    """Run one."""
    peer = AzureVault(world)
    with world.https(LOGIN, peer.login), world.https(HOST, peer.vault):
        yield peer
