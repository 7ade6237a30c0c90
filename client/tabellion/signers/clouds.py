"""``awskms:``, ``gcpkms:`` and ``azurekms:`` keys, by the clouds' own libraries.

Who we are to the cloud is what its own library finds: variables, files, the machine's identity.
Clients are kept, as making one may ask the cloud who we are. Each call has its bounds, since by
themselves these libraries wait for minutes.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_public_key,
)
from securesystemslib.signer import AWSSigner, AzureSigner, SSlibKey

from tabellion.core.notary_keys import PublicKey
from tabellion.errors import KeyStoreError, SignerError, TabellionError
from tabellion.signers import cloud_errors
from tabellion.signers.backend import Pin, needed
from tabellion.signers.remote_keys import Sign
from tabellion.signers.uris import SignerUri

if TYPE_CHECKING:
    from botocore.client import BaseClient

_Find: TypeAlias = Callable[[SignerUri], tuple[SignerUri, PublicKey]]
_Open: TypeAlias = Callable[[SignerUri, PublicKey], Sign]
_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 10
_TRIES: Final = 2
_BLIP_SECONDS: Final = 3  # for so long a service that can't be reached is tried again
_GRPC_OPTIONS: Final = (  # by itself it may not even try to connect for two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
_GCP_KINDS: Final = (
    "EC_SIGN_P256_SHA256",
    *(f"RSA_SIGN_PSS_{n}_SHA256" for n in (2048, 3072, 4096)),
)

for _name in ("grpc", "google", "azure", "msal", "boto3", "botocore"):
    # What they log beside raising it would get to a person's screen, who configured no logging.
    logging.getLogger(_name).addHandler(logging.NullHandler())


class CloudKeys:
    """Keys of one cloud's key management service."""

    def __init__(self, find: _Find, opened: _Open) -> None:
        self._find = find
        self._opened = opened
        self._signers: dict[tuple[str, bytes], Sign] = {}
        self._lock = threading.Lock()

    def find(self, uri: SignerUri) -> tuple[SignerUri, PublicKey]:
        """Read a public key."""
        try:
            with self._lock:  # making clients isn't safe in several threads; using them is
                return self._find(uri)
        except TabellionError:
            raise
        except Exception as error:  # each library has exceptions of its own
            raise cloud_errors.told(uri, error) from error

    def sign(self, uri: SignerUri, public: PublicKey, payload: bytes) -> bytes:
        """Sign."""
        name = (str(uri), SSlibKey.from_crypto(public).keyid.encode())
        try:
            with self._lock:
                signer = self._signers.get(name)
                if signer is None:
                    signer = self._signers[name] = self._opened(uri, public)
            return signer(payload)
        except TabellionError:
            raise
        except Exception as error:
            raise cloud_errors.told(uri, error) from error


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


def _find_aws(uri: SignerUri) -> tuple[SignerUri, PublicKey]:
    named = _aws_client().get_public_key(KeyId=uri.path)
    # An alias may name another key tomorrow; metadata lists this one.
    exact = SignerUri("awskms", str(named["KeyId"]))
    return exact, cast("PublicKey", load_der_public_key(named["PublicKey"]))


def _open_aws(uri: SignerUri, public: PublicKey) -> Sign:
    client = _aws_client()
    signer = AWSSigner(uri.path, SSlibKey.from_crypto(public))
    signer.client = client  # theirs may wait for minutes
    return lambda payload: bytes.fromhex(signer.sign(payload).signature)


def _gcp_client() -> tuple[Any, Mapping[str, Any]]:
    """Give a client and the bounds of its calls."""
    kms, retry = needed("google.cloud.kms", "gcp"), needed("google.api_core.retry", "gcp")
    again = retry.Retry(
        predicate=cloud_errors.is_google_away, initial=0.1, maximum=1, timeout=_BLIP_SECONDS
    )
    over_grpc = kms.KeyManagementServiceClient.get_transport_class("grpc")

    def channel(host: str, *, options: Sequence[tuple[str, Any]] = (), **fields: object) -> object:
        return over_grpc.create_channel(host, options=[*options, *_GRPC_OPTIONS], **fields)

    client = kms.KeyManagementServiceClient(transport=functools.partial(over_grpc, channel=channel))
    return client, {"retry": again, "timeout": _READ_SECONDS}


def _find_gcp(uri: SignerUri) -> tuple[SignerUri, PublicKey]:
    client, bounds = _gcp_client()
    with client:
        found = client.get_public_key({"name": uri.path}, **bounds)
    kind = getattr(found.algorithm, "name", str(found.algorithm))
    if kind not in _GCP_KINDS:
        raise KeyStoreError(
            f"{uri} is a key of a kind that can't be used ({kind})",
            hint=f"make one of {', '.join(_GCP_KINDS)}",
        )
    if found.name != uri.path:
        raise SignerError(f"{uri}: Google gave the public key of another: {found.name[:200]!r}")
    return uri, cast("PublicKey", load_pem_public_key(found.pem.encode("ascii")))


def _open_gcp(uri: SignerUri, public: PublicKey) -> Sign:  # noqa: ARG001  (as each of them)
    # securesystemslib's has no bounds, and waits a minute for whom it can't reach.
    client, bounds = _gcp_client()

    def sign(payload: bytes) -> bytes:
        asked = {"name": uri.path, "digest": {"sha256": sha256(payload).digest()}}
        return bytes(client.asymmetric_sign(asked, **bounds).signature)

    return sign


def _azure_login() -> tuple[Any, Mapping[str, int]]:
    """Give who we are to Azure, and the bounds of calls there."""
    bounds = {
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
        "retry_total": _TRIES - 1,
    }
    return needed("azure.identity", "azure").DefaultAzureCredential(**bounds), bounds


def _find_azure(uri: SignerUri) -> tuple[SignerUri, PublicKey]:
    # securesystemslib reads the newest version only; a URI may name an older one.
    azure = needed("azure.keyvault.keys", "azure")
    login, bounds = _azure_login()
    vault, _, rest = uri.path.removeprefix("//").partition("/keys/")
    name, _, version = rest.partition("/")
    with login, azure.KeyClient(f"https://{vault}", login, **bounds) as client:
        found = client.get_key(name, version or None)
    if found.key.crv != "P-256":
        raise KeyStoreError(f"{uri} isn't an EC key on P-256", hint="make one in the vault")
    x, y = (int.from_bytes(part, "big") for part in (found.key.x, found.key.y))
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    exact = SignerUri("azurekms", f"//{vault}/keys/{name}/{found.properties.version}")
    if version and exact != uri:
        raise SignerError(f"{uri}: Key Vault gave the public key of another version")
    return exact, public


def _open_azure(uri: SignerUri, public: PublicKey) -> Sign:
    crypto = needed("azure.keyvault.keys.crypto", "azure")
    login, bounds = _azure_login()
    url = f"https:{uri.path}"
    signer = AzureSigner(url, SSlibKey.from_crypto(public))
    signer.crypto_client = crypto.CryptographyClient(url, credential=login, **bounds)
    return lambda payload: bytes.fromhex(signer.sign(payload).signature)
