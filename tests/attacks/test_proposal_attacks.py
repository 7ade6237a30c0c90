"""A courier or a server brings a proposal that nobody should sign, or publish."""

from __future__ import annotations

from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Targets

import publisher_process
from forge import NOW, Forge
from tabellion.core.dialect import TUF
from tabellion.core.fingerprints import root_key_fingerprints
from tabellion.core.names import parse_gun
from tabellion.core.publication import UploadedFile
from tabellion.errors import UsageError
from tabellion.publish import partial
from tabellion.publish.keystore import KeyStore
from tabellion.publish.offline import sign_file
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.signing import KeyRing
from tabellion.verify.trust_store import StoredPin, TrustStore

GUN = parse_gun("registry.example/team/app")


@pytest.mark.parametrize("by", ["root", "key"])
def test_nobody_founds_a_gun_again_that_is_pinned_on_a_machine_without_a_network(
    tmp_path: Path, by: str
) -> None:
    keys = KeyStore(tmp_path)
    secret = publisher_process.PASSPHRASES["TABELLION_ROOT_PASSPHRASE"]
    own = keys.generate("root", passphrase=secret)
    forge = Forge()
    forge.root.add_key(own.key, "root")
    forge.release()
    root, key = forge.files["root"], root_key_fingerprints(forge.root)[0]
    pin = StoredPin(GUN, root, None, NOW) if by == "root" else StoredPin(GUN, None, key, NOW)
    TrustStore(tmp_path).save_pin(pin, how="add")
    bad = Root.from_dict(forge.root.to_dict())
    bad.add_key(CryptoSigner.generate_ed25519().public_key, "root")
    file = tmp_path / "founding.json"
    upload = [
        UploadedFile("root", TUF.sign(bad, [])),
        UploadedFile("targets", TUF.sign(Targets(), [])),
    ]
    partial.write(file, GUN, upload)
    before, told = file.read_bytes(), list[str]()
    ring = KeyRing(keys, Passphrases(environ=publisher_process.PASSPHRASES))
    with pytest.raises(UsageError, match=r"follow version 1, the newest that this|no root of"):
        sign_file(file, ring, home=tmp_path, root=None, out=file, show=told.extend)
    assert told == []
    assert file.read_bytes() == before
