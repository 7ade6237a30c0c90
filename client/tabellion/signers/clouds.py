"""``awskms:``, ``gcpkms:`` and ``azurekms:`` keys, by securesystemslib's signers.

Who we are to the cloud is what its own library finds: variables, files, the machine's identity.
Clients are kept, as making one may ask the cloud who we are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import (
    AWSSigner,
    AzureSigner,
    GCPSigner,
    Signer,
    SSlibKey,
)

from tabellion.core.notary_keys import PublicKey
from tabellion.errors import KeyStoreError
from tabellion.signers.backend import Pin, needed
from tabellion.signers.uris import SignerUri

if TYPE_CHECKING:
    from botocore.client import BaseClient

_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 10
_TRIES: Final = 2
_AZURE_BOUNDS: Final[Mapping[str, int]] = {
    "connection_timeout": _CONNECT_SECONDS,
    "read_timeout": _READ_SECONDS,
    "retry_total": _TRIES - 1,
}


class CloudKeys:
    """Keys of one cloud's key management service."""

    def __init__(
        self,
        find: Callable[[SignerUri], tuple[SignerUri, SSlibKey]],
        opened: Callable[[SignerUri, SSlibKey], Signer],
    ) -> None:
        self._find = find
        self._opened = opened
        self._signers: dict[tuple[str, bytes], Signer] = {}
        self._lock = threading.Lock()

    def find(self, uri: SignerUri) -> tuple[SignerUri, PublicKey]:
        """Read a public key."""
        with self._lock:  # making clients isn't safe in several threads; using them is
            exact, key = self._find(uri)
        return exact, cast("PublicKey", load_pem_public_key(key.keyval["public"].encode()))

    def sign(self, uri: SignerUri, public: PublicKey, payload: bytes) -> bytes:
        """Sign."""
        key = SSlibKey.from_crypto(public)
        name = (str(uri), key.keyid.encode())
        with self._lock:
            signer = self._signers.get(name)
            if signer is None:
                signer = self._signers[name] = self._opened(uri, key)
        return bytes.fromhex(signer.sign(payload).signature)


def backend(scheme: str, pin: Pin) -> CloudKeys:  # noqa: ARG001  (as each of them)
    """Give the keys of one cloud.

    AWS's go by id, ARN or alias, and an alias is noted as the key that it names now; Google's name
    one version; Azure's name one, or are noted as the newest.
    """
    return {
        "awskms": CloudKeys(_find_aws, _open_aws),
        "gcpkms": CloudKeys(_find_gcp, _open_gcp),
        "azurekms": CloudKeys(_find_azure, _open_azure),
    }[scheme]


def _aws_client() -> BaseClient:
    boto3, config = needed("boto3", "aws"), needed("botocore.config", "aws")
    bounds = config.Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"total_max_attempts": _TRIES},
    )
    return boto3.client("kms", config=bounds)


def _find_aws(uri: SignerUri) -> tuple[SignerUri, SSlibKey]:
    named = _aws_client().get_public_key(KeyId=uri.path)
    # An alias may name another key tomorrow; metadata lists this one.
    arn = str(named["KeyId"])
    _, key = AWSSigner.import_(arn)
    return SignerUri("awskms", arn), key


def _open_aws(uri: SignerUri, key: SSlibKey) -> Signer:
    client = _aws_client()
    signer = AWSSigner(uri.path, key)
    signer.client = client  # theirs may wait for minutes
    return signer


def _find_gcp(uri: SignerUri) -> tuple[SignerUri, SSlibKey]:
    needed("google.cloud.kms", "gcp")
    _, key = GCPSigner.import_(uri.path)
    return uri, key


def _open_gcp(uri: SignerUri, key: SSlibKey) -> Signer:
    needed("google.cloud.kms", "gcp")
    return GCPSigner(uri.path, key)


def _find_azure(uri: SignerUri) -> tuple[SignerUri, SSlibKey]:
    # securesystemslib reads the newest version only; a URI may name an older one.
    azure, identity = needed("azure.keyvault.keys", "azure"), needed("azure.identity", "azure")
    vault, _, rest = uri.path.removeprefix("//").partition("/keys/")
    name, _, version = rest.partition("/")
    client = azure.KeyClient(
        vault_url=f"https://{vault}", credential=identity.DefaultAzureCredential(), **_AZURE_BOUNDS
    )
    found = client.get_key(name, version or None)
    if found.key.crv != "P-256":
        raise KeyStoreError(f"{uri} isn't an EC key on P-256", hint="make one in the vault")
    x, y = (int.from_bytes(part, "big") for part in (found.key.x, found.key.y))
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    exact = SignerUri("azurekms", f"//{vault}/keys/{name}/{found.properties.version}")
    return exact, SSlibKey.from_crypto(public)


def _open_azure(uri: SignerUri, key: SSlibKey) -> Signer:
    crypto = needed("azure.keyvault.keys.crypto", "azure")
    identity = needed("azure.identity", "azure")
    url = f"https:{uri.path}"
    signer = AzureSigner(url, key)
    signer.crypto_client = crypto.CryptographyClient(
        url, credential=identity.DefaultAzureCredential(), **_AZURE_BOUNDS
    )
    return signer
