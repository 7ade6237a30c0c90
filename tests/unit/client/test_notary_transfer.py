"""Keys in Notary's and docker's folders: taken with role and GUN, given back, nothing lost."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tabellion.errors import InvalidNameError, KeyStoreError, PassphraseError
from tabellion.publish.keystore import KeyStore
from tabellion.publish.notary_folder import (
    NotaryKeyFolder,
    docker_folder,
    notary_folder,
    read_key_file,
)
from tabellion.publish.notary_pem import read_blocks, write_key
from tabellion.publish.notary_transfer import KeyTransfer, Tool, notary_role
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.private_keys import KeyType

VECTORS = Path(__file__).parents[2] / "vectors" / "notary"
NOTARY = {
    "NOTARY_ROOT_PASSPHRASE": "rootpass1",
    "NOTARY_TARGETS_PASSPHRASE": "targetpass1",
    "NOTARY_DELEGATION_PASSPHRASE": "delegpass1",
}
DOCKER = {
    "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": "rootpass1",
    "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "repopass1",
}
SIGNER = {"TABELLION_SIGNER_PASSPHRASE": "our-own-secret"}


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path) -> NotaryKeyFolder:
    return NotaryKeyFolder(tmp_path / "trust")


def unpacked(name: str, where: Path) -> NotaryKeyFolder:
    with tarfile.open(VECTORS / f"{name}.tgz") as archive:
        archive.extractall(where, filter="data")
        return NotaryKeyFolder(where / archive.getnames()[0].split("/")[0])


def transfer(store: KeyStore, environ: Mapping[str, str]) -> KeyTransfer:
    return KeyTransfer(store, Passphrases(environ=environ), environ=environ)


def held(store: KeyStore) -> dict[str, tuple[str, str | None, str]]:
    return {key.canonical_id: (key.role, key.gun, key.name) for key in store.list()}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def private_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_folder_of_the_notary_client_is_taken_whole(store: KeyStore, tmp_path: Path) -> None:
    found = unpacked("notary-trust-dir", tmp_path / "theirs").keys()
    done = transfer(store, NOTARY).take(found)
    assert all(key.is_new for key in done)
    assert held(store) == {
        "c16707d64db80006778f280150ec57655946bcc310976b1859a4f9d8322f2c77": ("root", None, ""),
        "2b2b724c03ea8b77ba2d1254ba8996046c0389d7af249fd23bbd8d9d68e3e758": ("root", None, ""),
        "5b8947f0ff2a4aeb0513daf651aef07155d08a315b54ed747a950f5665dd26e7": (
            "targets",
            "reg.example.com:5000/team/app",
            "",
        ),
        "8f8e53f79d088d1f50c73558ab2d10d9d26619f4ced72a1a7965c9c38f8fb120": (
            "signer",
            None,
            "alice",
        ),
        "4645b110dc185b1b2a514813a17d3f033a285b565227de5119dde4192cb87b2f": ("signer", None, "bob"),
    }
    store.signer("8f8e53f7", "delegpass1").sign(b"data")
    again = transfer(store, NOTARY).take(found)
    assert [key.info for key in again] == [key.info for key in done]
    assert not any(key.is_new for key in again)


def test_folder_of_docker_is_taken_after_notarys(store: KeyStore, tmp_path: Path) -> None:
    transfer(store, NOTARY).take(unpacked("notary-trust-dir", tmp_path / "one").keys())
    done = transfer(store, DOCKER).take(unpacked("docker-trust-dir", tmp_path / "two").keys())
    news = {key.info.canonical_id[:4]: key.is_new for key in done}
    assert news == {
        k: k != "4645" for k in ("59d2", "35fc", "4645", "0075", "b953", "752c", "8903")
    }
    names = sorted(name for _, _, name in held(store).values() if name)
    assert names == ["alice", "alice-35fcc249", "bob", "dave"]  # one name, one key


def test_our_passphrase_protects_what_another_opened(store: KeyStore, tmp_path: Path) -> None:
    transfer(store, NOTARY | SIGNER).take(unpacked("notary-trust-dir", tmp_path / "one").keys())
    store.signer("alice", "our-own-secret")
    store.signer("c16707d6", "rootpass1")
    with pytest.raises(PassphraseError):
        store.signer("alice", "delegpass1")


@pytest.mark.parametrize("spoiled", ["NOTARY_ROOT_PASSPHRASE", "NOTARY_DELEGATION_PASSPHRASE"])
@pytest.mark.parametrize("value", [None, "wrong-one"])
def test_folder_of_which_one_key_stays_shut_changes_nothing(
    store: KeyStore, tmp_path: Path, spoiled: str, value: str | None
) -> None:
    found = unpacked("notary-trust-dir", tmp_path / "one").keys()
    environ = {name: text for name, text in NOTARY.items() if name != spoiled}
    with pytest.raises(PassphraseError) as refused:
        transfer(store, environ | ({spoiled: value} if value else {})).take(found)
    assert spoiled in refused.value.hint
    assert str(tmp_path) in refused.value.message
    assert store.list() == []


def test_short_passphrase_of_theirs_does_not_protect_a_key_here(
    store: KeyStore, folder: NotaryKeyFolder
) -> None:
    folder.write(private_key(), "short", role="alice")
    short = {"NOTARY_DELEGATION_PASSPHRASE": "short"}
    with pytest.raises(PassphraseError, match="5 long"):
        transfer(store, short).take(folder.keys())
    assert store.list() == []
    transfer(store, short | SIGNER).take(folder.keys())
    store.signer("alice", "our-own-secret")


def test_our_passphrase_opens_a_file_too(store: KeyStore, folder: NotaryKeyFolder) -> None:
    folder.write(private_key(), "our-own-secret", role="alice")
    transfer(store, SIGNER).take(folder.keys())
    store.signer("alice", "our-own-secret")


def test_person_is_asked_where_no_variable_opens_the_key(store: KeyStore, tmp_path: Path) -> None:
    asked: list[str] = []

    def prompt(question: str, is_new: bool) -> str:  # noqa: FBT001  # a callback's signature
        assert not is_new
        asked.append(question)
        return "delegpass1"

    environ = {name: text for name, text in NOTARY.items() if "DELEG" not in name}
    secrets = Passphrases(environ=environ, prompt=prompt)
    found = unpacked("notary-trust-dir", tmp_path / "one").keys()
    KeyTransfer(store, secrets, environ=environ).take(found)
    assert len(asked) == 2
    assert "alice" in "".join(asked)
    store.signer("alice", "delegpass1")


@pytest.mark.parametrize("tool", ["notary", "docker"])
@pytest.mark.parametrize("keytype", ["ecdsa", "ed25519", "rsa"])
def test_key_goes_there_and_comes_back(
    store: KeyStore, folder: NotaryKeyFolder, tmp_path: Path, tool: Tool, keytype: KeyType
) -> None:
    info = store.generate("signer", passphrase="our-own-secret", keytype=keytype, name="alice")
    path = transfer(store, SIGNER | NOTARY | DOCKER).give(info, folder, tool)
    assert path == folder.private / f"{info.canonical_id}.key"
    assert path.stat().st_mode & 0o777 == 0o600
    (block,) = read_blocks(path.read_bytes())
    assert dict(block.headers) == {"role": "alice"}
    with pytest.raises(PassphraseError):
        block.open("our-own-secret")
    back = KeyStore(tmp_path / "other")
    (key,) = transfer(back, NOTARY if tool == "notary" else DOCKER).take(folder.keys())
    assert (key.info.keyid, key.info.name) == (info.keyid, "alice")


def test_key_goes_under_its_own_passphrase_if_the_tool_has_none(
    store: KeyStore, folder: NotaryKeyFolder
) -> None:
    info = store.generate("signer", passphrase="our-own-secret", keytype="ecdsa", name="Ä")
    (block,) = read_blocks(transfer(store, SIGNER).give(info, folder, "docker").read_bytes())
    block.open("our-own-secret")
    assert block.role == "delegation"


def test_targets_key_needs_a_gun_there(store: KeyStore, folder: NotaryKeyFolder) -> None:
    environ = {"TABELLION_TARGETS_PASSPHRASE": "our-own-secret"}
    info = store.generate("targets", passphrase="our-own-secret", keytype="ecdsa")
    with pytest.raises(KeyStoreError, match="any GUN"):
        transfer(store, environ).give(info, folder, "notary")
    assert not folder.private.exists()
    path = transfer(store, environ).give(info, folder, "notary", gun="host/a")
    assert dict(read_blocks(path.read_bytes())[0].headers) == {"role": "targets", "gun": "host/a"}


@pytest.mark.parametrize("place", ["{id}.key", "tuf_keys/host/a/{id}_targets.key"])
def test_no_file_there_is_overwritten(store: KeyStore, folder: NotaryKeyFolder, place: str) -> None:
    info = store.generate("signer", passphrase="our-own-secret", keytype="ecdsa")
    there = folder.private / place.format(id=info.canonical_id)
    there.parent.mkdir(parents=True)
    there.write_bytes(b"precious")
    with pytest.raises(KeyStoreError, match="already"):
        transfer(store, SIGNER).give(info, folder, "notary")
    assert everything(folder.folder) == {str(there): b"precious"}


def test_folders_of_before_0_4_tell_role_and_gun_by_the_path(
    store: KeyStore, folder: NotaryKeyFolder
) -> None:
    places = {
        "root_keys/{id}_root.key": ("root", None, ""),
        "tuf_keys/host:5000/team/app/{id}_targets.key": ("targets", "host:5000/team/app", ""),
        "tuf_keys/host/b/{id}_snapshot.key": ("snapshot", "host/b", ""),
        "tuf_keys/host/b/{id}_targets/releases.key": ("signer", None, "releases"),
    }
    expected = {}
    for place, role in places.items():
        private = private_key()
        scratch = NotaryKeyFolder(folder.folder / "scratch")
        canonical_id = scratch.write(private, "some-secret", role="x").stem
        pem = private.private_bytes(
            Encoding.PEM,
            PrivateFormat.TraditionalOpenSSL,
            BestAvailableEncryption(b"old-secret"),
        )
        path = folder.private / place.format(id=canonical_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pem)
        expected[canonical_id] = role
    environ = dict.fromkeys([*NOTARY, "NOTARY_SNAPSHOT_PASSPHRASE"], "old-secret")
    transfer(store, environ).take(folder.keys())
    assert held(store) == expected


def test_key_under_the_id_of_another_is_refused(store: KeyStore, folder: NotaryKeyFolder) -> None:
    path = folder.write(private_key(), "delegpass1", role="alice")
    path.rename(path.with_name("0" * 64 + ".key"))
    with pytest.raises(KeyStoreError, match="000000000000"):
        transfer(store, NOTARY).take(folder.keys())
    assert store.list() == []


def test_unfit_role_gun_or_kind_is_refused(store: KeyStore, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(write_key(private_key(), "targetpass1", role="timestamp"))
    with pytest.raises(KeyStoreError, match="server"):
        transfer(store, NOTARY).take(read_key_file(path))
    path.write_bytes(write_key(private_key(), "targetpass1", role="targets", gun="no gun/../"))
    with pytest.raises(InvalidNameError):
        transfer(store, NOTARY).take(read_key_file(path))
    odd = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(write_key(odd, "delegpass1", role="alice"))
    with pytest.raises(KeyStoreError, match=r"key\.pem"):
        transfer(store, NOTARY).take(read_key_file(path))
    assert store.list() == []


def test_bare_key_takes_options_and_our_passphrase(store: KeyStore, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    pem = private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem)
    with pytest.raises(PassphraseError):
        transfer(store, {}).take(read_key_file(path))
    (key,) = transfer(store, SIGNER).take(read_key_file(path), name="carol")
    assert (key.info.role, key.info.gun, key.info.name) == ("signer", None, "carol")
    store.signer("carol", "our-own-secret")


def test_config_json_names_the_trust_directory(tmp_path: Path) -> None:
    assert notary_folder(tmp_path).folder == tmp_path
    for named, expected in (("", tmp_path), ("sub", tmp_path / "sub"), ("/abs", Path("/abs"))):
        (tmp_path / "config.json").write_text(json.dumps({"trust_dir": named}))
        assert notary_folder(tmp_path).folder == expected
    for bad in ('{"trust_dir": 5}', "nonsense", '{"trust_dir": "a\\u0000b"}', " " * 70_000):
        (tmp_path / "config.json").write_text(bad)
        with pytest.raises(KeyStoreError, match="config"):
            notary_folder(tmp_path)


def test_dockers_folder_is_where_docker_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert docker_folder().folder == tmp_path / "trust"
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert docker_folder().folder == tmp_path / ".docker" / "trust"


def test_absent_folder_has_no_keys(tmp_path: Path) -> None:
    assert NotaryKeyFolder(tmp_path / "absent").keys() == []


def test_role_there_is_the_signers_name_where_both_tools_take_it() -> None:
    assert notary_role("root", "mine") == "root"
    assert notary_role("signer", "alice_2-x") == "alice_2-x"
    for name in ("", "Alice", "root", "targets", "releases", "a/b", "-a", "a\nb"):
        assert notary_role("signer", name) == "delegation"
