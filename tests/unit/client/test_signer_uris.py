from __future__ import annotations

import sys

import pytest

from tabellion.errors import KeyStoreError
from tabellion.signers.registry import RemoteSigners
from tabellion.signers.uris import FORMS, parse_signer_uri

FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"
GCP = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions"


@pytest.mark.parametrize(
    ("text", "path", "option"),
    [
        ("hsm:", "", None),
        ("hsm:2?label=YubiKey%20PIV%20%231", "2", "YubiKey PIV #1"),
        ("hsm:2?label=YubiKey+PIV", "2", "YubiKey PIV"),
        ("hv:name", "name", None),
        ("hv:name/12?mount=a/b", "name/12", "a/b"),
        (f"gnupg:{FINGERPRINT.lower()}", FINGERPRINT, None),
        (f"gnupg:{FINGERPRINT}?home=/a/b%20c", FINGERPRINT, "/a/b c"),
        ("awskms:alias/release", "alias/release", None),
        ("awskms:arn:aws:kms:eu-west-1:1:key/a-b", "arn:aws:kms:eu-west-1:1:key/a-b", None),
        (f"gcpkms:{GCP}/3", f"{GCP}/3", None),
        ("azurekms://v.vault.azure.net/keys/k/0a", "//v.vault.azure.net/keys/k/0a", None),
    ],
)
def test_well_formed_uris_are_read_and_written_alike(
    text: str, path: str, option: str | None
) -> None:
    uri = parse_signer_uri(text)
    assert (uri.path, uri.option) == (path, option)
    assert parse_signer_uri(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "file2:/key.pem",
        "HSM:2",
        "hsm:two",
        "hsm:-1",
        "hsm:2?label=",
        "hsm:2?pin=1234",
        "hsm:2?label=a&label=b",
        "hsm:2?label=a%0Ab",
        f"hsm:2?label={'a' * 33}",
        "hsm:" + "1" * 41,
        "hv:",
        "hv:name/0",
        "hv:name/01",
        "hv:name/x",
        "hv:../sys/mounts",
        "hv:a/1/2",
        "hv:name?mount=../sys",
        "hv:name?mount=/a",
        "hv:name#1",
        "hv:na me",
        "hv:näme",
        f"gnupg:{FINGERPRINT[1:]}",
        f"gnupg:{FINGERPRINT}?home=relative",
        "gnupg:--homedir=/tmp",
        "awskms:",
        "awskms:key?region=x",
        "gcpkms:projects/p",
        f"gcpkms:{GCP}/latest",
        "azurekms://evil.example/keys/k",
        "azurekms://v.vault.azure.net.evil.example/keys/k",
        "azurekms://user@v.vault.azure.net/keys/k",
        "azurekms://v.vault.azure.net/secrets/k",
    ],
)
def test_what_is_no_signer_uri_is_refused_and_told_how_it_looks(text: str) -> None:
    with pytest.raises(KeyStoreError) as caught:
        parse_signer_uri(text)
    scheme = text.partition(":")[0]
    assert FORMS.get(scheme, ", ".join(FORMS.values())) in caught.value.hint


@pytest.mark.parametrize(
    ("text", "module", "extra"),
    [
        ("hsm:1", "pkcs11", "hsm"),
        ("awskms:alias/a", "boto3", "aws"),
        (f"gcpkms:{GCP}/1", "google.cloud.kms", "gcp"),
        ("azurekms://v.vault.azure.net/keys/k", "azure.keyvault.keys", "azure"),
    ],
)
def test_a_missing_package_is_said_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, text: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(KeyStoreError) as caught:
        RemoteSigners(lambda _: "").find(text)
    assert caught.value.hint == f"pip install '.[{extra}]' in a clone of Tabellion"
