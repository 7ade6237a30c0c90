"""Keys of GnuPG's agent, and ``tabellion key`` with a key that is elsewhere."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from key_places import end_gnupg, gnupg_key, live, told
from tabellion.cli.app import run
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import KeyStoreError, SignerError
from tabellion.publish.enrolment import read_request
from tabellion.signers.registry import RemoteSigners
from tabellion.signers.remote_keys import verify


@pytest.fixture(scope="module")
def gnupg() -> Iterator[Path]:
    # Not in pytest's own folder: the path of the agent's socket can't be that long.
    home = Path(tempfile.mkdtemp(prefix="gnupg-"))
    yield home
    if shutil.which("gpgconf"):
        end_gnupg(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def uri(gnupg: Path) -> str:
    return f"gnupg:{gnupg_key(gnupg, name='first')}?home={gnupg}"


def signers() -> RemoteSigners:
    return RemoteSigners(lambda _: "")


def test_the_agent_signs_in_several_threads_what_any_client_verifies(uri: str) -> None:
    found = signers().probe(uri)
    key = signers().private_key(found.uri, found.public)
    payloads = [bytes(range(count)) for count in range(20)]  # of all bytes that need escapes
    with ThreadPoolExecutor(4) as pool:
        for payload, signature in zip(payloads, pool.map(key.sign_payload, payloads), strict=True):
            verify(found.public, signature, payload)


@pytest.mark.parametrize("kind", ["ed25519", "rsa2048", "nistp384"])
def test_keys_whose_signatures_metadata_can_not_hold_are_refused(gnupg: Path, kind: str) -> None:
    fingerprint = gnupg_key(gnupg, kind, name=kind)
    with pytest.raises(KeyStoreError, match="isn't an ECDSA key on P-256"):
        signers().find(f"gnupg:{fingerprint}?home={gnupg}")


def test_a_key_that_is_not_there_is_told(gnupg: Path) -> None:
    with pytest.raises(KeyStoreError, match="no such key"):
        signers().find(f"gnupg:{'A' * 40}?home={gnupg}")


def test_a_public_key_without_its_private_half_does_not_sign(gnupg: Path) -> None:
    fingerprint = gnupg_key(gnupg, name="taken away")
    address = f"gnupg:{fingerprint}?home={gnupg}"
    found = signers().find(address)
    for file in (gnupg / "private-keys-v1.d").iterdir():
        if file.read_bytes() and file.stem in _grip(gnupg, fingerprint):
            file.unlink()
    end_gnupg(gnupg)
    with pytest.raises(SignerError, match="doesn't sign"):
        signers().private_key(address, found.public).sign_payload(b"data")


def _grip(gnupg: Path, fingerprint: str) -> str:
    listed = ["gpg", "--with-colons", "--with-keygrip", "--list-keys", fingerprint]
    return told(listed, {"GNUPGHOME": str(gnupg)})


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_a_gun_lives_by_keys_of_gnupg(
    server: EmbeddedServer, gun: str, gnupg: Path, tmp_path: Path, dialect: Dialect
) -> None:
    names = ("root", "targets", "signer", "root2", "targets2")
    uris = {
        name: f"gnupg:{gnupg_key(gnupg, name=f'{dialect.name} {name}')}?home={gnupg}"
        for name in names
    }
    await live(server.url, tmp_path, gun, dialect, uris)


def test_the_command_line_notes_lists_and_exports_a_key_that_is_elsewhere(
    uri: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = ["--home", str(tmp_path / "home")]
    monkeypatch.delenv("TABELLION_SIGNER_PASSPHRASE", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))

    def tabellion(*words: str) -> tuple[int, str, str]:
        status = run([*words, *home])
        written = capsys.readouterr()
        return status, written.out, written.err

    status, keyid, said = tabellion("key", "add", uri, "--name", "alice")
    assert status == 0, said
    assert f"signer key (ecdsa) at {uri}" in said
    assert "fingerprint " in said
    (note,) = (tmp_path / "home" / "keys").iterdir()
    assert note.suffix == ".json"
    assert note.stat().st_mode & 0o777 == 0o600
    before = note.read_bytes()

    status, listed, _ = tabellion("key", "list")
    assert uri in listed
    status, listed, _ = tabellion("key", "list", "--json")
    assert [(key["keyid"], key["uri"]) for key in json.loads(listed)] == [(keyid.strip(), uri)]
    status, pem, _ = tabellion("key", "export", "alice")
    assert (status, pem[:26]) == (0, "-----BEGIN PUBLIC KEY-----")

    status, asked, said = tabellion("signer", "request", "registry.example/app", "alice")
    assert status == 0, said
    request = read_request(asked.encode(), what="the answer")
    assert [key.keyid for key in request.keys] == [keyid.strip()]

    for words in (
        ("key", "export", "alice", "--private"),
        ("key", "export", "alice", "--docker"),
        ("key", "export", "alice", "--notary", str(tmp_path / "notary")),
        ("key", "passwd", "alice"),
        ("key", "add", uri),
        ("key", "add", "hv:no/such/uri"),
    ):
        status, answer, said = tabellion(*words)
        assert (status, answer) == (2, ""), said
        assert "error: " in said
    assert {path.name for path in tmp_path.iterdir()} == {"home"}
    assert [file.read_bytes() for file in (tmp_path / "home" / "keys").iterdir()] == [before]

    note.write_text(note.read_text().replace("gnupg:", "tpm:"))
    status, _, said = tabellion("key", "list")
    assert status == 2
    assert "damaged" in said
