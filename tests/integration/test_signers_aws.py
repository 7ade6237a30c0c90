"""Keys in AWS KMS, by moto's server: another's notion of AWS, not AWS itself.

It needs the extra ``test-cloud``: with boto3 installed, whatever imports securesystemslib loads it,
which would slow each program that the other tests start.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from key_places import live
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import KeyStoreError, SignerError
from tabellion.signers.registry import RemoteSigners

boto3: Any = pytest.importorskip("boto3", reason="pip install '.[test-cloud]'")
moto_server: Any = pytest.importorskip("moto.server", reason="pip install '.[test-cloud]'")


@pytest.fixture(scope="module")
def kms() -> Iterator[Any]:
    from moto.kms.utils import ECDSAPrivateKey  # noqa: PLC0415  (only where it's installed)

    def sign(self: Any, message: bytes, signing_algorithm: str) -> bytes:
        # moto knows no MessageType=DIGEST and would hash the digest again.
        assert signing_algorithm == "ECDSA_SHA_256"
        return bytes(self.private_key.sign(message, ec.ECDSA(Prehashed(SHA256()))))

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ECDSAPrivateKey, "sign", sign)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "for-tests")
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield boto3.client("kms")
    server.stop()


def make(kms: Any, alias: str, spec: str = "ECC_NIST_P256") -> str:
    """Make a key; give its ARN."""
    made = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec=spec)["KeyMetadata"]
    kms.create_alias(AliasName=f"alias/{alias}", TargetKeyId=made["KeyId"])
    return str(made["Arn"])


def signers() -> RemoteSigners:
    return RemoteSigners(lambda _: "")


def test_an_alias_is_noted_as_the_key_that_it_names_now(kms: Any) -> None:
    arn = make(kms, "release")
    found = signers().probe("awskms:alias/release")
    assert arn.endswith(found.uri.removeprefix("awskms:"))  # AWS gives all of it, moto the id
    other = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]
    kms.update_alias(AliasName="alias/release", TargetKeyId=other["KeyId"])
    assert signers().probe(found.uri) == found
    assert signers().probe("awskms:alias/release").public != found.public


@pytest.mark.usefixtures("kms")
def test_a_key_that_is_not_there_is_told() -> None:
    with pytest.raises(SignerError, match="alias/nobody") as caught:
        signers().find("awskms:alias/nobody")
    assert "check the key's name" in caught.value.hint


def test_nobody_is_told_how_to_log_in(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = make(kms, "nobody-is-logged-in")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps what it found
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(SignerError) as caught:
        signers().find(f"awskms:{arn}")
    assert "log in with aws" in caught.value.hint


def test_who_can_not_be_reached_is_told(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"awskms:{make(kms, 'away')}"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(SignerError) as caught:
            signers().find(uri)
    assert "check the network" in caught.value.hint


def test_keys_that_clients_do_not_read_are_refused(kms: Any, tmp_path: Path) -> None:
    from tabellion.publish.keystore import KeyStore  # noqa: PLC0415  (beside what is skipped)

    make(kms, "p384", "ECC_NIST_P384")
    found = signers().find("awskms:alias/p384")
    with pytest.raises(KeyStoreError, match="isn't read by all clients"):
        KeyStore(tmp_path).refer(found.key, found.uri, "root")


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_a_gun_lives_by_keys_in_aws(
    server: EmbeddedServer, gun: str, kms: Any, tmp_path: Path, dialect: Dialect
) -> None:
    names = ("root", "targets", "signer", "root2", "targets2")
    uris = {name: f"awskms:{make(kms, f'{dialect.name}-{name}')}" for name in names}
    await live(server.url, tmp_path, gun, dialect, uris)
