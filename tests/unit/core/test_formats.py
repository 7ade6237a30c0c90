"""tuf-checklist section A: formats. The number of the rule stands in each test's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Role, SuccinctRoles, TargetFile

from forge import Forge, resign, target
from tabellion.core import strict_json
from tabellion.core.dialect import NOTARY, TUF, dialect_named, dialect_of
from tabellion.core.fitness import verify_root_fit, verify_targets_fit
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.roles import (
    check_path_pattern,
    check_target_path,
    key_material,
    role_keys,
    roles_for_path,
    verify_threshold,
)
from tabellion.errors import (
    ConfigurationError,
    InvalidNameError,
    MalformedMetadataError,
    MetadataTooLargeError,
    RefusedPublicationError,
    ThresholdError,
)

BIG = 5_000_000


def parse(role: str, data: bytes) -> UnverifiedMetadata[Any]:
    return TUF.parse(role, data, max_bytes=BIG)


def changed(forge: Forge, role: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    return resign(forge.files[role], forge.signers[role], change)


def test_a01_a_keyid_stands_at_most_once_in_signatures(forge: Forge) -> None:
    content = json.loads(forge.files["targets"])
    content["signatures"] *= 2
    with pytest.raises(MalformedMetadataError, match="two signatures"):
        parse("targets", json.dumps(content).encode())


@pytest.mark.parametrize("missing", ["signed", "signatures"])
def test_a01_signed_and_signatures_are_needed(forge: Forge, missing: str) -> None:
    content = json.loads(forge.files["targets"])
    del content[missing]
    with pytest.raises(MalformedMetadataError):
        parse("targets", json.dumps(content).encode())


def test_a02_unknown_fields_count_in_signatures(forge: Forge) -> None:
    data = changed(forge, "targets", lambda signed: signed.update(x_note="kept"))
    parsed = parse("targets", data)
    keys, entry = forge.root.keys, forge.root.roles["targets"]
    assert verify_threshold(parsed, "targets", keys, entry.keyids, 1)
    assert b"x_note" in parsed.signed_bytes
    tampered = data.replace(b'"x_note":"kept"', b'"x_note":"lost"')
    with pytest.raises(ThresholdError):
        verify_threshold(parse("targets", tampered), "targets", keys, entry.keyids, 1)


@pytest.mark.parametrize("number", [b"1.5", b"1e3", b"NaN", b"Infinity", b"9" * 30])
def test_a03_only_64_bit_integers_are_numbers(forge: Forge, number: bytes) -> None:
    data = forge.files["targets"].replace(b'"version":1', b'"version":1,"x":' + number)
    with pytest.raises(MalformedMetadataError):
        parse("targets", data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_a03_canonical_form_is_the_one_of_securesystemslib(value: Any) -> None:
    assert strict_json.canonical(value) == encode_canonical(value).encode()


def test_a03_floats_have_no_canonical_form() -> None:
    with pytest.raises(MalformedMetadataError):
        strict_json.canonical({"x": [1.5]})


def test_a04_one_key_under_two_ids_counts_once(forge: Forge) -> None:
    signer = forge.signers["targets"][0]
    key = signer.public_key
    twin = SSlibKey("f" * 64, key.keytype, key.scheme, dict(key.keyval))
    content = json.loads(forge.files["targets"])
    content["signatures"].append({**content["signatures"][0], "keyid": twin.keyid})
    parsed = parse("targets", json.dumps(content).encode())
    keys = {key.keyid: key, twin.keyid: twin}
    with pytest.raises(ThresholdError) as caught:
        verify_threshold(parsed, "targets", keys, list(keys), 2)
    assert len(caught.value.signed_by) == 1


def test_a04_one_key_under_two_ids_is_not_published(forge: Forge) -> None:
    key = forge.signers["targets"][0].public_key
    forge.root.add_key(SSlibKey("f" * 64, key.keytype, key.scheme, dict(key.keyval)), "targets")
    with pytest.raises(RefusedPublicationError) as caught:
        verify_root_fit(forge.root)
    assert (caught.value.rule, caught.value.keyid) == ("duplicate-key", "f" * 64)


@pytest.mark.parametrize("make", ["ed25519", "ecdsa", "rsa"])
def test_a05_the_three_key_types_sign_and_verify(make: str) -> None:
    signer: CryptoSigner = getattr(CryptoSigner, f"generate_{make}")()
    forge = Forge(signers={"targets": [signer]})
    forge.release()
    verify_root_fit(forge.root)
    assert forge.trusted().targets is not None


def test_a05_small_rsa_and_unknown_types_are_not_published(forge: Forge) -> None:
    weak = CryptoSigner.generate_rsa(size=1024)
    forge.root.add_key(weak.public_key, "targets")
    with pytest.raises(RefusedPublicationError) as caught:
        verify_root_fit(forge.root)
    assert caught.value.rule == "weak-key"
    odd = Forge()
    odd.root.add_key(SSlibKey("a" * 64, "ml-dsa", "ml-dsa-44/1", {"public": "x"}), "targets")
    with pytest.raises(RefusedPublicationError) as caught:
        verify_root_fit(odd.root)
    assert caught.value.rule == "key-type"


@pytest.mark.parametrize(
    "expires",
    ["2027-01-01", "2027-01-01T00:00:00", "2027-01-01T00:00:00.5Z", "2027-13-01T00:00:00Z",
     "2027-01-01T00:00:00+00:00", 5, None],
)  # fmt: skip
def test_a06_times_have_one_form(forge: Forge, expires: object) -> None:
    with pytest.raises(MalformedMetadataError):
        parse("targets", changed(forge, "targets", lambda s: s.update(expires=expires)))


@pytest.mark.parametrize("version", [0, -1, True, "7", None])
def test_a07_version_is_an_integer_above_zero(forge: Forge, version: object) -> None:
    with pytest.raises(MalformedMetadataError):
        parse("targets", changed(forge, "targets", lambda s: s.update(version=version)))


@pytest.mark.parametrize("spec_version", ["2.0.0", "1", "1.0.31-rc", "", 7, None])
def test_a08_spec_version_is_one_point_something(forge: Forge, spec_version: object) -> None:
    with pytest.raises(MalformedMetadataError):
        parse("targets", changed(forge, "targets", lambda s: s.update(spec_version=spec_version)))


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_a09_root_names_all_top_level_roles(forge: Forge, role: str) -> None:
    with pytest.raises(MalformedMetadataError):
        parse("root", changed(forge, "root", lambda s: s["roles"].pop(role)))


@pytest.mark.parametrize("threshold", [0, -1, True, "7", None])
def test_a09_threshold_is_one_or_more(forge: Forge, threshold: object) -> None:
    def change(signed: dict[str, Any]) -> None:
        signed["roles"]["targets"]["threshold"] = threshold

    with pytest.raises(MalformedMetadataError):
        parse("root", changed(forge, "root", change))


def test_a10_published_roots_ask_for_consistent_snapshots(forge: Forge) -> None:
    forge.root.consistent_snapshot = False
    with pytest.raises(RefusedPublicationError) as caught:
        verify_root_fit(forge.root)
    assert caught.value.rule == "consistent-snapshot"


def test_a11_snapshot_lists_targets(forge: Forge) -> None:
    with pytest.raises(MalformedMetadataError):
        parse("snapshot", changed(forge, "snapshot", lambda s: s["meta"].clear()))


@pytest.mark.parametrize("field", ["length", "hashes"])
def test_a12_a_target_has_length_and_hashes(forge: Forge, field: str) -> None:
    with pytest.raises(MalformedMetadataError):
        parse("targets", changed(forge, "targets", lambda s: s["targets"]["1.2"].pop(field)))


def test_a12_custom_is_an_object(forge: Forge) -> None:
    with pytest.raises(MalformedMetadataError):
        parse("targets", changed(forge, "targets", lambda s: s["targets"]["1.2"].update(custom=[])))


@pytest.mark.parametrize("path", ["/abs", "a//b", "a/./b", "../a", "a\\b", "", "a\x07", "e\u0301"])
def test_a13_unportable_target_paths_are_not_published(forge: Forge, path: str) -> None:
    with pytest.raises(InvalidNameError):
        check_target_path(path)
    forge.targets.targets[path] = target(b"x")
    with pytest.raises(RefusedPublicationError) as caught:
        verify_targets_fit("targets", forge.targets)
    assert caught.value.rule == "invalid-name"


def test_a14_role_names_are_unique_and_have_paths_or_prefixes(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    forge.release()

    def twice(signed: dict[str, Any]) -> None:
        signed["delegations"]["roles"] *= 2

    def both(signed: dict[str, Any]) -> None:
        signed["delegations"]["roles"][0]["path_hash_prefixes"] = ["ab"]

    for change in (twice, both):
        with pytest.raises(MalformedMetadataError):
            parse("targets", changed(forge, "targets", change))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [("*", "1.2", True), ("*", "a/1.2", False), ("a/*", "a/b", True), ("a/*", "a/b/c", False),
     ("v?", "v1", True), ("v?", "v/", False), ("1.2", "1.2", True), ("1.2", "1x2", False)],
)  # fmt: skip
def test_a16_wildcards_stay_inside_a_segment(pattern: str, path: str, *, expected: bool) -> None:
    role = DelegatedRole("alice", [], 1, terminating=False, paths=[pattern])
    assert role.is_delegated_path(path) is expected


@pytest.mark.parametrize("pattern", ["[ab]", "**", "a{b,c}", "a\\b", "!x", ""])
def test_a16_other_glob_syntax_is_not_published(pattern: str) -> None:
    with pytest.raises(InvalidNameError):
        check_path_pattern(pattern)


def test_a17_path_hash_prefixes_cover_by_sha256_of_the_path(forge: Forge) -> None:
    prefix = TargetFile.from_data("x", b"1.2", ["sha256"]).hashes["sha256"][:4]
    role = DelegatedRole("bin", [], 1, terminating=False, path_hash_prefixes=[prefix])
    assert role.is_delegated_path("1.2")
    assert not role.is_delegated_path("1.3")
    forge.targets.delegations = Delegations({}, {"bin": role})
    with pytest.raises(RefusedPublicationError) as caught:
        verify_targets_fit("targets", forge.targets)
    assert caught.value.rule == "path-hash-prefixes"


def test_a18_timestamp_names_exactly_the_snapshot(forge: Forge) -> None:
    def change(signed: dict[str, Any]) -> None:
        signed["meta"]["targets.json"] = {"version": 1}

    with pytest.raises(MalformedMetadataError):
        parse("timestamp", changed(forge, "timestamp", change))


@pytest.mark.parametrize(
    "data",
    [b'{"signed":{},"signed":{},"signatures":[]}', b"{} x", b"", b"[]", b"nul", b"\xff{}",
     b"{" * 200, b"[" * 100_000, b'{"a":' * 50 + b"1" + b"}" * 50, b'{"a":"\\ud800"}'],
)  # fmt: skip
def test_a19_loose_json_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMetadataError):
        parse("targets", data)


def test_a19_too_large_a_file_is_refused_before_parsing() -> None:
    with pytest.raises(MetadataTooLargeError):
        TUF.parse("timestamp", b"{" * 20_000, max_bytes=16_384)


def test_a_file_of_another_role_is_refused(forge: Forge) -> None:
    for role in ("root", "timestamp", "snapshot"):
        with pytest.raises(MalformedMetadataError, match="_type"):
            parse(role, forge.files["targets"])


def test_dialect_is_told_by_the_root(forge: Forge) -> None:
    assert dialect_of(forge.files["root"]) is TUF
    with pytest.raises(MalformedMetadataError):
        dialect_of(b'{"signed":{"_type":"root"},"signatures":[]}')
    assert dialect_of(b'{"signed":{"_type":"Root"},"signatures":[]}') is NOTARY


def test_an_unknown_dialect_is_refused() -> None:
    assert dialect_named("tuf") is TUF
    with pytest.raises(ConfigurationError, match="other"):
        dialect_named("other")


@pytest.mark.parametrize("data", [b"{}", b'{"signed":[],"signatures":[]}', b'{"signed":{}}'])
def test_what_is_no_signed_file_is_not_signed(forge: Forge, data: bytes) -> None:
    with pytest.raises(MalformedMetadataError):
        TUF.add_signature(data, forge.signers["root"])


@pytest.mark.parametrize("value", [{"x": "\ud800"}, {"x": 1.5, "y": "\n"}, object(), {"x": {1, 2}}])
def test_a03_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(MalformedMetadataError):
        strict_json.canonical(value)


@pytest.mark.parametrize("length", [-1, True, "7"])
def test_a11_a12_a_length_is_a_size(forge: Forge, length: object) -> None:
    def of_meta(signed: dict[str, Any]) -> None:
        signed["meta"]["targets.json"]["length"] = length

    def of_target(signed: dict[str, Any]) -> None:
        signed["targets"]["1.2"]["length"] = length

    for role, change in (("snapshot", of_meta), ("targets", of_target)):
        with pytest.raises(MalformedMetadataError):
            parse(role, changed(forge, role, change))


@pytest.mark.parametrize("version", [0, True, "1", None])
def test_a11_a18_a_named_version_is_above_zero(forge: Forge, version: object) -> None:
    for role, name in (("snapshot", "targets.json"), ("timestamp", "snapshot.json")):

        def change(signed: dict[str, Any], name: str = name) -> None:
            signed["meta"][name]["version"] = version

        with pytest.raises(MalformedMetadataError):
            parse(role, changed(forge, role, change))


@pytest.mark.parametrize("value", ["xyz", "AB", 5, None, ["ab"]])
def test_a12_hashes_are_lower_case_hex(forge: Forge, value: object) -> None:
    def of_meta(signed: dict[str, Any]) -> None:
        signed["meta"]["targets.json"]["hashes"] = {"sha256": value}

    def of_target(signed: dict[str, Any]) -> None:
        signed["targets"]["1.2"]["hashes"] = {"sha256": value}

    for role, change in (("snapshot", of_meta), ("targets", of_target)):
        with pytest.raises(MalformedMetadataError):
            parse(role, changed(forge, role, change))


@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "targets", ""])
def test_a14_no_delegated_role_takes_the_name_of_a_top_level_one(forge: Forge, name: str) -> None:
    """Its file would be kept in that role's place."""
    forge.delegate("alice", ["*"])
    forge.release()

    def change(signed: dict[str, Any]) -> None:
        signed["delegations"]["roles"][0]["name"] = name

    with pytest.raises(MalformedMetadataError):
        parse("targets", changed(forge, "targets", change))


def test_a17_hash_bins_are_named_in_lower_case_hex_within_their_number(forge: Forge) -> None:
    forge.targets.delegations = Delegations({}, None, SuccinctRoles([], 1, 8, "bin"))
    keys, entry = role_keys(forge.targets, "bin-0a")
    assert (keys, entry.threshold) == ({}, 1)
    for name in ("bin-0A", "bin-a", "bin-00a", "bin-+a", "bin", "other-0a"):
        with pytest.raises(MalformedMetadataError, match="delegates"):
            role_keys(forge.targets, name)
    assert roles_for_path(forge.targets, "1.2") == [("bin-77", True)]
    forge.targets.delegations = Delegations({}, None, SuccinctRoles([], 1, 5, "bin"))
    assert role_keys(forge.targets, "bin-1f")
    with pytest.raises(MalformedMetadataError, match="delegates"):
        role_keys(forge.targets, "bin-20")


def test_a_role_without_delegations_covers_nothing(forge: Forge) -> None:
    assert roles_for_path(forge.targets, "1.2") == []
    with pytest.raises(MalformedMetadataError, match="delegates"):
        role_keys(forge.targets, "alice")


@pytest.mark.parametrize(
    ("kind", "public"),
    [("ed25519", None), ("ed25519", 5), ("ed25519", "zz"), ("ed25519", "00"), ("rsa", "no PEM"),
     ("ecdsa", "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n")],
)  # fmt: skip
def test_a05_an_unreadable_key_counts_for_nothing(forge: Forge, kind: str, public: Any) -> None:
    key = SSlibKey("a" * 64, kind, kind, {"public": "00"})
    key.keyval["public"] = public
    with pytest.raises(MalformedMetadataError):
        key_material(key)
    parsed = parse("targets", forge.files["targets"])
    parsed = replace(parsed, signatures={key.keyid: Signature(key.keyid, "00")})
    with pytest.raises(ThresholdError):
        verify_threshold(parsed, "targets", {key.keyid: key}, [key.keyid], 1)


def test_a05_a_faulty_verifier_of_a_key_counts_for_nothing(forge: Forge) -> None:
    class Faulty(SSlibKey):
        def verify_signature(self, signature: Signature, data: bytes) -> None:
            raise ZeroDivisionError(signature, data)

    good = forge.signers["targets"][0].public_key
    key = Faulty(good.keyid, good.keytype, good.scheme, dict(good.keyval))
    parsed = parse("targets", forge.files["targets"])
    with pytest.raises(ThresholdError):
        verify_threshold(parsed, "targets", {key.keyid: key}, [key.keyid], 1)


def test_a09_a_published_root_names_no_other_roles(forge: Forge) -> None:
    forge.root.roles["mirrors"] = Role([], 1)
    with pytest.raises(RefusedPublicationError) as caught:
        verify_root_fit(forge.root)
    assert caught.value.rule == "root-roles"
