"""Keys on PKCS#11 tokens, by SoftHSM."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from key_places import PIN, SOFTHSM, live, refer, soft_token
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import KeyStoreError, PassphraseError, SignerError
from tabellion.signers.registry import RemoteSigners
from tabellion.signers.remote_keys import verify

SPY = Path("/usr/lib/x86_64-linux-gnu/pkcs11-spy.so")
ASK_TWICE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from tabellion.errors import PassphraseError
from tabellion.signers.registry import RemoteSigners
def sign(number):
    try:
        signers.private_key(found.uri, found.public).sign_payload(b"data")
    except PassphraseError as error:
        return error.message
signers = RemoteSigners(lambda label: "999999")
found = signers.find("hsm:1")
with ThreadPoolExecutor(4) as pool:
    said = set(pool.map(sign, range(8)))
signers = RemoteSigners(lambda label: "888888")
said.add(sign(0))
print(said)
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    ids = {1: "EC:prime256v1", 2: "EC:prime256v1", 3: "EC:prime256v1", 4: "rsa:2048"}
    ids |= {5: "EC:edwards25519", 6: "EC:secp384r1", 7: "EC:prime256v1", 8: "EC:prime256v1"}
    environ = soft_token(tmp_path_factory.mktemp("token"), "tests", ids)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        yield environ


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("number", [1, 4, 5])
def test_four_threads_sign_at_once_on_one_token(number: int) -> None:
    asked: list[str] = []

    def pin(label: str) -> str:
        asked.append(label)
        return PIN

    signers = RemoteSigners(pin)
    found = signers.find(f"hsm:{number}?label=tests")
    key = signers.private_key(found.uri, found.public)
    payloads = [f"payload {count}".encode() for count in range(40)]
    with ThreadPoolExecutor(4) as pool:
        signatures = list(pool.map(key.sign_payload, payloads))
    for payload, signature in zip(payloads, signatures, strict=True):
        verify(found.public, signature, payload)
    assert len(asked) <= 1  # a token's login is the process's


@pytest.mark.usefixtures("token")
def test_the_only_token_needs_no_name_and_is_noted_by_its_name() -> None:
    signers = RemoteSigners(lambda _: PIN)
    assert signers.find("hsm:").uri == "hsm:2?label=tests"
    assert signers.find("hsm:").public == signers.find("hsm:2?label=tests").public


def test_a_wrong_pin_is_tried_once(token: dict[str, str], tmp_path: Path) -> None:
    if not SPY.exists():
        pytest.skip(f"{SPY} is missing: apt-get install opensc-pkcs11")
    spied = {"PYKCS11LIB": str(SPY), "PKCS11SPY": str(SOFTHSM)}
    log = {"PKCS11SPY_OUTPUT": str(tmp_path / "log")}
    done = subprocess.run(
        [sys.executable, "-c", ASK_TWICE],
        env=os.environ | token | spied | log,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "it isn't tried again" in done.stdout, done.stderr
    assert "None" not in done.stdout
    calls = re.findall(r"C_Login$", (tmp_path / "log").read_text(), re.MULTILINE)
    assert len(calls) == 1


@pytest.mark.usefixtures("token")
def test_what_a_token_does_not_hold_is_told() -> None:
    signers = RemoteSigners(lambda _: PIN)
    with pytest.raises(KeyStoreError, match="holds no key with the id 9"):
        signers.find("hsm:9?label=tests")
    with pytest.raises(SignerError, match="no token is there called 'others'"):
        signers.find("hsm:1?label=others")


# What the library's search finds gone at its end, it can only warn of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("token")
def test_a_token_whose_login_is_gone_is_logged_in_to_again_with_the_pin_that_was_right() -> None:
    from tabellion.signers import hsm  # noqa: PLC0415  (needs the module's own state)

    asked: list[str] = []

    def pin(label: str) -> str:
        asked.append(label)
        return PIN

    signers = RemoteSigners(pin)
    found = signers.find("hsm:1?label=tests")
    key = signers.private_key(found.uri, found.public)
    key.sign_payload(b"1")
    before = len(asked)
    session = hsm._tokens[str(SOFTHSM), "tests"].session
    assert session is not None
    session.close()  # as a card that was pulled out and put back
    key.sign_payload(b"2")
    assert len(asked) == before


@pytest.mark.usefixtures("token")
def test_no_pin_is_said_with_the_variable_that_holds_it() -> None:
    from tabellion.publish.passphrases import Passphrases  # noqa: PLC0415  (beside the state above)

    with pytest.raises(PassphraseError, match="no PIN for a token") as caught:
        Passphrases(environ={}).pin("tests")
    assert "TABELLION_PIN" in caught.value.hint


def test_a_missing_module_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    signers = RemoteSigners(lambda _: PIN)
    monkeypatch.setenv("PYKCS11LIB", "/nowhere/module.so")
    with pytest.raises(SignerError, match=r"/nowhere/module\.so can't be used"):
        signers.find("hsm:1")
    monkeypatch.delenv("PYKCS11LIB")
    with pytest.raises(KeyStoreError, match="PYKCS11LIB isn't set"):
        signers.find("hsm:1")


@pytest.mark.usefixtures("token")
def test_a_key_that_clients_do_not_read_is_refused_and_not_noted(tmp_path: Path) -> None:
    person = Person("http://127.0.0.1:1", tmp_path)
    with pytest.raises(KeyStoreError, match="of a kind that can't be used"):
        refer(person, "hsm:6?label=tests", "root", "odd")
    assert person.keys.list() == []


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_a_gun_lives_by_keys_on_a_token(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    uris = {"root": "hsm:1", "targets": "hsm:2", "signer": "hsm:3", "root2": "hsm:7"}
    uris["targets2"] = "hsm:8"
    await live(server.url, tmp_path, gun, dialect, uris)
