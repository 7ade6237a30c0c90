"""A peer that speaks Google's Cloud KMS, written from its public API definition.

Messages are those of Google's own package; what is refused, and by which status, is as its
reference says. It asks each call for a service account's own token, as the library signs it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.cloud import kms

from cloud_world import Answer, Asked, CloudWorld, certificate

HOST: Final = "cloudkms.googleapis.com"
TOKENS: Final = "oauth2.googleapis.com"
RING: Final = "projects/our-project/locations/europe-west1/keyRings/releases"
_ACCOUNT: Final = "signer@our-project.iam.gserviceaccount.com"
_KINDS: Final = kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


assert _crc32c(b"123456789") == 0xE3069283


@dataclass
class Version:
    kind: str
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    enabled: bool = True

    @property
    def pem(self) -> str:
        form = PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(Encoding.PEM, form).decode()

    def sign(self, name: str, digest: bytes) -> bytes:
        hashed = Prehashed(SHA512() if name == "sha512" else SHA256())
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            return self.private.sign(digest, ec.ECDSA(hashed))
        if "PKCS1" in self.kind:
            return self.private.sign(digest, padding.PKCS1v15(), hashed)
        pss = padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)
        return self.private.sign(digest, pss, hashed)


@dataclass
class GoogleKms:
    """The service and the keys it holds, by the full name of a version.

    Attributes:
        credentials: A service account's file, which the library is to find.
        before: Called before each answer with the call's name; it may wait.
        denied: Permissions that the account hasn't.
        spoil: Signs something else than it was asked to.
        astray: URI of the version that it reads, whichever is asked for; none if it does so.
        failures: So many calls fail as if the service were restarting.
    """

    world: CloudWorld
    folder: Path
    versions: dict[str, Version] = field(default_factory=dict)
    before: Callable[[str], object] = lambda _: None
    denied: frozenset[str] = frozenset()
    spoil: bool = False
    astray: str = ""
    failures: int = 0
    calls: list[str] = field(default_factory=list)

    scheme: Final = "gcpkms"
    kinds: Final = ("EC_SIGN_P256_SHA256", "RSA_SIGN_PSS_3072_SHA256")

    def __post_init__(self) -> None:
        self._account = rsa.generate_private_key(65537, 2048)
        key = self._account.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.secrets = [line for line in key.decode().splitlines() if "PRIVATE" not in line]
        self.credentials = self.folder / "account.json"
        self.credentials.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "project_id": "our-project",
                    "private_key_id": "1",
                    "private_key": key.decode(),
                    "client_email": _ACCOUNT,
                    "client_id": "1",
                    "token_uri": f"https://{TOKENS}/token",
                }
            )
        )

    @property
    def environ(self) -> dict[str, str]:
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(self.credentials)}

    nobody: Final = ("GOOGLE_APPLICATION_CREDENTIALS",)

    def make(self, name: str, kind: str = kinds[0]) -> str:
        """Make a key; give its first version's URI."""
        key = f"{RING}/cryptoKeys/{name}/cryptoKeyVersions"
        number = 1 + sum(each.startswith(f"{key}/") for each in self.versions)
        private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
        if kind.startswith("EC_"):
            curve = ec.SECP384R1() if "P384" in kind else ec.SECP256R1()
            private = ec.generate_private_key(curve)
        else:
            private = rsa.generate_private_key(65537, int(kind.split("_")[3]))
        self.versions[f"{key}/{number}"] = Version(kind, private)
        return f"gcpkms:{key}/{number}"

    rotate = make  # a key's next version

    def version(self, uri: str) -> Version:
        return self.versions[uri.partition(":")[2]]

    def disable(self, uri: str) -> None:
        self.version(uri).enabled = False

    def deny(self, *, reading: bool) -> None:
        self.denied = frozenset({"viewPublicKey"} if reading else {"useToSign"})

    def public_key(self, asked: Any, context: grpc.ServicerContext) -> Any:
        self._admit(context, "GetPublicKey", "viewPublicKey")
        version = self._version(context, asked.name)
        if self.astray:
            version, asked.name = self.version(self.astray), self.astray.partition(":")[2]
        pem = version.pem
        found = kms.PublicKey(
            algorithm=_KINDS[version.kind],
            name=asked.name,
            protection_level=kms.ProtectionLevel.HSM,
            public_key_format=asked.public_key_format,
        )
        if asked.public_key_format == kms.PublicKey.PublicKeyFormat.PUBLIC_KEY_FORMAT_UNSPECIFIED:
            found.pem, found.pem_crc32c = pem, _crc32c(pem.encode())
        elif asked.public_key_format == kms.PublicKey.PublicKeyFormat.PEM:
            found.pem, found.pem_crc32c = pem, _crc32c(pem.encode())
            found.public_key = {"data": pem.encode(), "crc32c_checksum": _crc32c(pem.encode())}
        else:
            _refuse(context, "INVALID_ARGUMENT", "public_key_format")
        return found

    def asymmetric_sign(self, asked: Any, context: grpc.ServicerContext) -> Any:
        self._admit(context, "AsymmetricSign", "useToSign")
        version = self._version(context, asked.name)
        wanted = f"sha{version.kind.rpartition('_SHA')[2]}"
        name = kms.Digest.pb(asked.digest).WhichOneof("digest")
        if asked.data or name is None:
            _refuse(context, "INVALID_ARGUMENT", "this algorithm signs a digest")
        digest: bytes = getattr(asked.digest, name)
        if name != wanted or len(digest) != int(wanted[3:]) // 8:
            _refuse(context, "INVALID_ARGUMENT", f"the digest isn't one of {wanted}")
        has_crc = "digest_crc32c" in asked
        if has_crc and asked.digest_crc32c != _crc32c(digest):
            _refuse(context, "INVALID_ARGUMENT", "digest_crc32c doesn't match")
        signature = version.sign(name, digest[::-1] if self.spoil else digest)
        return kms.AsymmetricSignResponse(
            signature=signature,
            signature_crc32c=_crc32c(signature),
            verified_digest_crc32c=has_crc,
            name=asked.name,
            protection_level=kms.ProtectionLevel.HSM,
        )

    def _admit(self, context: grpc.ServicerContext, call: str, permission: str) -> None:
        self.calls.append(call)
        fields = dict(context.invocation_metadata())
        scheme, _, token = str(fields.get("authorization", "")).partition(" ")
        try:
            assert scheme == "Bearer"
            claims = jwt.decode(
                token,
                self._account.public_key(),
                algorithms=["RS256"],
                options={"verify_aud": False, "require": ["exp", "iat", "iss", "sub"]},
            )
            assert claims["iss"] == claims["sub"] == _ACCOUNT
            assert claims.get("aud") == f"https://{HOST}/" or "cloud-platform" in claims["scope"]
        except (AssertionError, KeyError, jwt.InvalidTokenError):
            _refuse(context, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        self.before(call)
        if self.failures:
            self.failures -= 1
            _refuse(context, "UNAVAILABLE", "The service is currently unavailable.")
        if permission in self.denied:
            _refuse(
                context,
                "PERMISSION_DENIED",
                f"Permission 'cloudkms.cryptoKeyVersions.{permission}' denied on resource.",
            )

    def _version(self, context: grpc.ServicerContext, name: str) -> Version:
        version = self.versions.get(name)
        if version is None:
            _refuse(context, "NOT_FOUND", f"CryptoKeyVersion {name} not found.")
        if not version.enabled:
            _refuse(
                context,
                "FAILED_PRECONDITION",
                f"{name} is not enabled, current state is: DISABLED.",
            )
        return version

    def token(self, asked: Asked) -> Answer:
        """Answer who comes with a refresh token, as a person does who logged in."""
        self.calls.append("token")
        assert asked.path == "/token"
        return 400, {}, {"error": "invalid_grant", "error_description": "Token has been revoked."}


def _refuse(context: grpc.ServicerContext, status: str, why: str) -> NoReturn:
    context.abort(grpc.StatusCode[status], why)
    raise AssertionError


@contextlib.contextmanager
def google_kms(world: CloudWorld, folder: Path) -> Iterator[GoogleKms]:
    """Run one."""
    peer = GoogleKms(world, folder)
    asks: dict[str, tuple[Callable[..., Any], Any, Any]] = {
        "GetPublicKey": (peer.public_key, kms.GetPublicKeyRequest, kms.PublicKey),
        "AsymmetricSign": (
            peer.asymmetric_sign,
            kms.AsymmetricSignRequest,
            kms.AsymmetricSignResponse,
        ),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=asked.deserialize, response_serializer=given.serialize
        )
        for name, (answer, asked, given) in asks.items()
    }
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "google.cloud.kms.v1.KeyManagementService", handlers
                )
            ]
        )
        keys = grpc.ssl_server_credentials([certificate(world, HOST)])
        world.ports[HOST] = server.add_secure_port("127.0.0.1:0", keys)
        server.start()
        try:
            with world.https(TOKENS, peer.token):
                yield peer
        finally:
            server.stop(None).wait(30)


def slow(seconds: float) -> Callable[[str], object]:
    """Give what makes each answer late."""
    return lambda _: time.sleep(seconds)
