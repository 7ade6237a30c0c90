"""``trust_pinning`` as it is written down: Notary's words, read strictly, case kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from issuer import Issuer
from tabellion.core.pinning import TrustPinning
from tabellion.errors import ConfigurationError
from tabellion.verify import load_notary_pinning

ID = "0123456789abcdef" * 4


def written(folder: Path, pinning: object, **others: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"trust_pinning": pinning} | others))
    return path


def bundle(folder: Path, *issuers: Issuer) -> None:
    folder.mkdir(exist_ok=True)
    pem = b"".join(issuer.certificate.public_bytes(Encoding.PEM) for issuer in issuers)
    (folder / "bundle.pem").write_bytes(pem)


def test_notarys_configuration_is_read_with_names_as_they_are_written(tmp_path: Path) -> None:
    one, two = Issuer("one"), Issuer("two")
    bundle(tmp_path / "sub", one, two)
    certs = {"Registry.example/App": [ID, f"sha256:{ID.upper()}"], "Team/*": []}
    section = {"certs": certs, "ca": {"": "sub/bundle.pem"}, "disable_tofu": True}
    found = load_notary_pinning(
        written(tmp_path, section, trust_dir="~/.notary", remote_server={"url": "https://x"})
    )
    assert found == TrustPinning(
        {"Registry.example/App": frozenset({ID}), "Team/*": frozenset()},
        {"": (one.certificate, two.certificate)},
        disable_tofu=True,
    )


def test_a_bundle_is_looked_for_beside_the_file_unless_its_place_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(tmp_path / "sub", Issuer())
    monkeypatch.chdir(tmp_path / "sub")
    with pytest.raises(ConfigurationError, match=r"bundle\.pem"):
        load_notary_pinning(written(tmp_path, {"ca": {"a": "bundle.pem"}}))
    absolute = str(tmp_path / "sub" / "bundle.pem")
    assert load_notary_pinning(written(tmp_path, {"ca": {"a": absolute}})).ca["a"]


def test_nothing_said_pins_nothing_and_leaves_first_use_to_the_caller(tmp_path: Path) -> None:
    assert load_notary_pinning(written(tmp_path, {})) == TrustPinning()


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ([], "section"),
        (None, "section"),
        ({"cert": {}}, r"trust_pinning\.cert isn't known"),
        ({"Certs": {}}, r"trust_pinning\.Certs isn't known"),
        ({"certs": []}, r"trust_pinning\.certs must"),
        ({"certs": {"G": ID}}, "'G': must be a list"),
        ({"certs": {"G": [1]}}, "'G': must be a list"),
        ({"certs": {"G": [ID[1:]]}}, "'G': .*isn't a root key fingerprint"),
        ({"ca": "bundle.pem"}, r"trust_pinning\.ca must"),
        ({"ca": {"G": ["bundle.pem"]}}, "'G': must be the name"),
        ({"ca": {"G": ""}}, "'G': must be the name"),
        ({"ca": {"G": "none.pem"}}, r"'G': bundle '.*none\.pem' can't be read: no such file"),
        ({"ca": {"G": "."}}, "'G': bundle .* can't be read: is a directory"),
        ({"ca": {"G": "config.json"}}, r"'G': bundle '.*config\.json' isn't certificates"),
        ({"disable_tofu": "true"}, "disable_tofu must be true or false"),
        ({"disable_tofu": 1}, "disable_tofu must be true or false"),
    ],
)
def test_a_fault_is_named_with_where_it_is(tmp_path: Path, section: Any, named: str) -> None:
    path = written(tmp_path, section)
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_notary_pinning(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    section = {"certs": {"G": [""]}, "ca": {"H": "none.pem"}, "tofu": True}
    with pytest.raises(ConfigurationError, match=r"(?s)tofu.*'G'.*'H'"):
        load_notary_pinning(written(tmp_path, section))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"trust_pinning": {}, "trust_pinning": {}}',
        b'{"trust_pinning": {"certs": {"G": [], "G": []}}}',
        b'{"trust_pinning": ',
        b"\xff",
        b" " * (4 * 1024 * 1024 + 1),
    ],
)
def test_a_file_that_says_nothing_clear_is_a_fault(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        load_notary_pinning(path)


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.json.*no such file"):
        load_notary_pinning(tmp_path / "none.json")
