"""The real notary and docker programs use the keys we wrote, and we the keys they made."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from integration.engines import free_port, need, plain_environment, started, wait_until
from tabellion.publish.key_notes import KeyInfo
from tabellion.publish.keystore import KeyStore
from tabellion.publish.notary_folder import NotaryKeyFolder, read_key_file
from tabellion.publish.notary_pem import canonical_id_of, write_key
from tabellion.publish.notary_transfer import KeyTransfer
from tabellion.publish.passphrases import Passphrases, variable_of
from tabellion.publish.private_keys import KEY_TYPES, KeyType, make_private_key

GUN = "registry.example/team/app"
SECRETS = {
    "NOTARY_ROOT_PASSPHRASE": "their-root-secret",
    "NOTARY_TARGETS_PASSPHRASE": "their-targets-secret",
    "NOTARY_SNAPSHOT_PASSPHRASE": "their-snapshot-secret",
    "NOTARY_DELEGATION_PASSPHRASE": "their-signer-secret",
    "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": "their-root-secret",
    "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "their-signer-secret",
}
OURS = {
    "TABELLION_ROOT_PASSPHRASE": "our-root-secret",
    "TABELLION_TARGETS_PASSPHRASE": "our-targets-secret",
    "TABELLION_SIGNER_PASSPHRASE": "our-signer-secret",
}


class Person:
    """Somebody with our store, a folder of Notary's and one of docker's."""

    def __init__(self, folder: Path, secrets: Mapping[str, str] = SECRETS) -> None:
        self.folder = folder
        self.secrets = secrets
        self.store = KeyStore(folder / "home")
        environ = {**secrets, **OURS}
        self.transfer = KeyTransfer(self.store, Passphrases(environ=environ), environ=environ)
        self.notary_keys = NotaryKeyFolder(folder / "notary")
        self.docker_keys = NotaryKeyFolder(folder / "docker" / "trust")

    def run(self, *words: str) -> str:
        env = {**plain_environment(self.folder), **self.secrets}
        env |= {"DOCKER_CONFIG": str(self.folder / "docker")}
        done = subprocess.run(
            ["/usr/bin/env", *words],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def notary(self, *words: str, folder: NotaryKeyFolder | None = None) -> str:
        need("notary")
        return self.run("notary", "-d", str((folder or self.notary_keys).folder), *words)

    def listed(self, folder: NotaryKeyFolder | None = None) -> dict[str, list[str]]:
        """Give canonical id to role, and GUN if there's one, as notary key list shows them."""
        rows = [line.split() for line in self.notary("key", "list", folder=folder).splitlines()]
        return {row[-2]: row[:-2] for row in rows if len(row) > 2 and len(row[-2]) == 64}

    def make(self, role: str, keytype: KeyType = "ecdsa", **more: str) -> KeyInfo:
        secret = OURS[variable_of(role)]
        return self.store.generate(role, passphrase=secret, keytype=keytype, **more)


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


@pytest.fixture
def notary_server(tmp_path: Path) -> Iterator[str]:
    need("notary-server")
    address = f"127.0.0.1:{free_port()}"
    config = tmp_path / "notary-server.json"
    config.write_text(
        json.dumps(
            {
                "server": {"http_addr": address},
                "trust_service": {"type": "local"},
                "storage": {"backend": "memory"},
                "logging": {"level": "error"},
            }
        )
    )

    def answers() -> bool:
        try:
            urlopen(f"http://{address}/v2/", timeout=2).close()  # loopback
        except HTTPError:
            return True
        except URLError:
            return False
        return True

    log = tmp_path / "notary-server.log"
    with started(["notary-server", "-config", str(config)], log) as process:
        wait_until(answers, process, log)
        yield f"http://{address}"


@pytest.mark.parametrize("keytype", KEY_TYPES)
def test_notary_lists_exports_and_imports_what_we_wrote(person: Person, keytype: KeyType) -> None:
    need("notary")
    alice = person.make("signer", keytype, name="alice")
    person.transfer.give(alice, person.notary_keys, "notary")
    assert person.listed() == {alice.canonical_id: ["alice"]}
    person.notary("key", "export", "-o", "exported.pem")
    other = NotaryKeyFolder(person.folder / "other")
    person.notary("key", "import", "exported.pem", folder=other)
    assert person.listed(other) == {alice.canonical_id: ["alice"]}
    back = Person(person.folder / "back")
    exported = read_key_file(person.folder / "exported.pem")
    (key,) = back.transfer.take(exported)
    assert (key.info.keyid, key.info.name) == (alice.keyid, "alice")


def test_notary_shows_the_gun_of_a_targets_key_we_wrote(person: Person) -> None:
    need("notary")
    info = person.make("targets")
    person.transfer.give(info, person.notary_keys, "notary", gun=GUN)
    assert person.listed() == {info.canonical_id: ["targets", GUN]}


@pytest.mark.parametrize("keytype", ["ecdsa", "rsa"])
def test_notary_signs_with_the_root_and_signer_keys_we_wrote(
    person: Person, notary_server: str, keytype: KeyType
) -> None:
    need("notary")
    root, alice = person.make("root"), person.make("signer", keytype, name="alice")
    for info in (root, alice):
        person.transfer.give(info, person.notary_keys, "notary")
    (person.folder / "alice.pub").write_bytes(person.store.export("alice"))
    words = ("-s", notary_server)
    assert root.canonical_id in person.notary(*words, "init", "-p", GUN)
    added = ("add", "-p", GUN, "targets/alice", "alice.pub", "--all-paths")
    person.notary(*words, "delegation", *added)
    (person.folder / "file").write_text("content")
    person.notary(*words, "add", "-p", "-r", "targets/alice", GUN, "1.0", "file")
    assert "targets/alice" in person.notary(*words, "list", GUN)


@pytest.mark.parametrize("keytype", KEY_TYPES)
def test_notary_signs_with_the_targets_key_we_wrote(
    tmp_path: Path, notary_server: str, keytype: KeyType
) -> None:
    need("notary")
    # key rotate -k takes another role's variable for the file's passphrase
    person = Person(tmp_path, dict.fromkeys(SECRETS, "their-secret"))
    info = person.make("targets", keytype, gun=GUN)
    path = person.transfer.give(info, person.notary_keys, "notary")
    words = ("-s", notary_server)
    person.notary(*words, "init", "-p", GUN)
    person.notary(*words, "key", "rotate", GUN, "targets", "-k", str(path))
    (person.folder / "file").write_text("content")
    person.notary(*words, "add", "-p", GUN, "1.0", "file")
    assert "1.0" in person.notary(*words, "list", GUN)
    assert person.listed()[info.canonical_id] == ["targets", GUN]


@pytest.mark.parametrize("keytype", KEY_TYPES)
def test_docker_loads_what_we_wrote(person: Person, keytype: KeyType) -> None:
    need("docker", "notary")
    private = make_private_key(keytype)
    canonical_id = canonical_id_of(private)
    bare = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    sealed = write_key(private, "their-signer-secret", role="alice", canonical_id=canonical_id)
    forms = {"sealed": sealed} | ({"bare": bare} if keytype != "ed25519" else {})
    for name, pem in forms.items():
        shutil.rmtree(person.docker_keys.folder, ignore_errors=True)
        path = person.folder / f"{name}.pem"
        path.touch(0o600)
        path.write_bytes(pem)
        person.run("docker", "trust", "key", "load", "--name", "alice", str(path))
        assert person.listed(person.docker_keys) == {canonical_id: ["alice"]}
        back = Person(person.folder / name)
        (key,) = back.transfer.take(person.docker_keys.keys())
        assert (key.info.canonical_id, key.info.name) == (canonical_id, "alice")


def test_what_we_put_into_dockers_folder_is_a_signers_key_there(person: Person) -> None:
    need("notary")
    alice = person.make("signer", name="alice")
    person.transfer.give(alice, person.docker_keys, "docker")
    assert person.listed(person.docker_keys) == {alice.canonical_id: ["alice"]}


def test_keys_that_notary_made_are_taken_and_sign(person: Person) -> None:
    need("notary")
    person.notary("key", "generate", "ecdsa", "-r", "root")
    person.notary("key", "generate", "ecdsa", "-r", "alice")
    done = person.transfer.take(person.notary_keys.keys())
    assert {key.info.canonical_id for key in done} == set(person.listed())
    assert {(key.info.role, key.info.name) for key in done} == {("root", ""), ("signer", "alice")}
    signer = person.store.signer("alice", "our-signer-secret")
    person.store.find("alice").key.verify_signature(signer.sign(b"data"), b"data")


def test_files_that_notary_generates_and_exports_are_taken(person: Person) -> None:
    need("notary")
    person.notary("key", "generate", "ecdsa", "-r", "alice", "-o", "out")
    person.notary("key", "generate", "ecdsa", "-r", "bob")
    person.notary("key", "export", "-o", "exported.pem")
    names = [
        key.info.name
        for file in ("out-key.pem", "exported.pem")
        for key in person.transfer.take(read_key_file(person.folder / file))
    ]
    assert names == ["alice", "bob"]


def test_key_that_docker_made_is_taken_and_signs(person: Person) -> None:
    need("docker")
    person.run("docker", "trust", "key", "generate", "carol")
    (key,) = person.transfer.take(person.docker_keys.keys())
    assert (key.info.role, key.info.name) == ("signer", "carol")
    (file,) = person.docker_keys.private.iterdir()
    assert file.stem == key.info.canonical_id
    signer = person.store.signer("carol", "our-signer-secret")
    key.info.key.verify_signature(signer.sign(b"data"), b"data")
