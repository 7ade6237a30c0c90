"""A signer's request is believed only as far as its keys signed it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, Targets

from forge import NOW, target
from tabellion.core.dialect import TUF
from tabellion.core.names import Gun
from tabellion.errors import InvalidNameError, KeyStoreError
from tabellion.publish.enrolment import SignerRequest, is_request, read_request

ALICE, BOB = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa()
EXPIRES_AT = NOW + timedelta(days=9)
MADE = SignerRequest.make(Gun("r.example/app"), "alice", [ALICE], expires_at=EXPIRES_AT)


def changed(**members: Any) -> bytes:
    return json.dumps(json.loads(MADE.to_bytes()) | members).encode()


def file_of(signed: Targets, *signers: CryptoSigner) -> str:
    return TUF.sign(signed, signers or (ALICE,)).decode()


def test_a_request_reads_as_it_was_made() -> None:
    held = read_request(MADE.to_bytes(), what="it")
    assert (held.gun, held.role, held.file) == (MADE.gun, MADE.role, MADE.file)
    assert [key.keyid for key in held.keys] == [ALICE.public_key.keyid]
    assert is_request(MADE.to_bytes())
    assert not is_request(b"-----BEGIN PUBLIC KEY-----")


def test_a_second_holder_signs_the_same_file() -> None:
    both = read_request(MADE.signed_too([BOB]).to_bytes(), what="it")
    assert [key.keyid for key in both.keys] == [ALICE.public_key.keyid, BOB.public_key.keyid]
    again = both.signed_too([BOB])
    assert again.keys == both.keys


@pytest.mark.parametrize(
    "content",
    [
        changed(keys=[]),
        changed(keys=[{"keyid": BOB.public_key.keyid, **BOB.public_key.to_dict()}]),
        changed(
            keys=[
                {"keyid": signer.public_key.keyid, **signer.public_key.to_dict()}
                for signer in (ALICE, BOB)
            ]
        ),
        changed(role="targets"),
        changed(role="../x"),
        changed(gun=""),
        changed(file="{}"),
        changed(file=5),
        changed(file=file_of(Targets(version=2, expires=EXPIRES_AT))),
        changed(file=file_of(Targets(expires=EXPIRES_AT, targets={"a": target(b"a", "a")}))),
        changed(file=file_of(Targets(expires=EXPIRES_AT, delegations=Delegations({}, {})))),
        changed(file=file_of(Targets(expires=EXPIRES_AT), BOB)),
    ],
)
def test_what_its_keys_did_not_sign_as_empty_is_no_request(content: bytes) -> None:
    with pytest.raises(KeyStoreError) as caught:
        read_request(content, what="it")
    assert caught.value.message.startswith("it ")
    assert caught.value.hint


@given(st.data())
def test_changed_bytes_are_refused_or_say_the_same(data: st.DataObject) -> None:
    whole = bytearray(MADE.to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        held = read_request(bytes(whole), what="it")
    except KeyStoreError:
        return
    assert [key.keyid for key in held.keys] == [ALICE.public_key.keyid]
    parsed = TUF.parse(held.role, held.file, max_bytes=9999)
    assert parsed.signed_bytes == TUF.parse("alice", MADE.file, max_bytes=9999).signed_bytes


def test_a_request_for_a_top_level_role_is_not_made() -> None:
    with pytest.raises(InvalidNameError):
        SignerRequest.make(MADE.gun, "root", [ALICE], expires_at=EXPIRES_AT)
