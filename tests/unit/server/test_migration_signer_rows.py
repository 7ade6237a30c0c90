from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from notary_database import ALIAS, PASSPHRASE, VECTORS, wrap
from tabellion.core.notary_keys import NotaryKey
from tabellion.errors import KeyStoreError, PassphraseError
from tabellion_server.migration.signer_rows import SignerRow, unwrap_key

AT = datetime(2026, 11, 24, tzinfo=UTC)


def vector_rows() -> list[SignerRow]:
    return [
        SignerRow(
            *(row["key_id"], row["gun"], row["role"], row["algorithm"], row["passphrase_alias"]),
            *(row["private_jwe"].encode(), AT, row["last_used"] is not None),
        )
        for row in json.loads((VECTORS / "signer-private_keys-rows.json").read_text())
    ]


def row_of(keyid: str, algorithm: str, private: bytes) -> SignerRow:
    return SignerRow(keyid, "a/b", "timestamp", algorithm, ALIAS, private, AT, used=True)


@pytest.mark.parametrize("row", vector_rows(), ids=lambda row: row.keyid[:8])
def test_key_that_notary_signer_wrote_is_unwrapped(row: SignerRow) -> None:
    key, private = unwrap_key(row, PASSPHRASE)
    assert key.keyid == row.keyid
    assert NotaryKey.of(private.public_key()).keyid == row.keyid


def test_ed25519_key_is_unwrapped_and_its_halves_must_agree() -> None:
    made = ed25519.Ed25519PrivateKey.generate()
    public, seed = made.public_key().public_bytes_raw(), made.private_bytes_raw()
    keyid = NotaryKey.of(made.public_key()).keyid
    _, private = unwrap_key(
        row_of(keyid, "ed25519", wrap(public + seed + public, PASSPHRASE)), PASSPHRASE
    )
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    assert private.private_bytes_raw() == seed
    with pytest.raises(KeyStoreError, match="no ed25519 key"):
        unwrap_key(
            row_of(keyid, "ed25519", wrap(public + seed + bytes(32), PASSPHRASE)), PASSPHRASE
        )


def test_wrong_passphrase_is_told_with_the_variable_to_set() -> None:
    with pytest.raises(PassphraseError) as refused:
        unwrap_key(vector_rows()[0], "wrong-secret-1")
    assert "NOTARY_SIGNER_PASSALIAS1" in refused.value.hint
    assert "wrong-secret-1" not in refused.value.message + refused.value.hint


def test_key_under_another_id_is_refused() -> None:
    one, other, _ = vector_rows()
    with pytest.raises(KeyStoreError, match="it holds the key"):
        unwrap_key(replace(one, private=other.private), PASSPHRASE)


@pytest.mark.parametrize("p2c", [0, -1, 1_000_001, 2**40, "8192", True, None, 8192.0])
def test_iterations_out_of_bounds_are_refused_before_any_work(p2c: object) -> None:
    row = row_of("00", "ecdsa", wrap(b"x", PASSPHRASE, p2c=p2c))
    with pytest.raises(KeyStoreError, match="p2c"):
        unwrap_key(row, PASSPHRASE)


def test_altered_header_content_or_tag_is_refused() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    der = private.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    keyid = NotaryKey.of(private.public_key()).keyid
    parts = wrap(der, PASSPHRASE).split(b".")
    for place in (2, 3, 4):
        bad = list(parts)
        flipped = b"B" if bad[place][:1] == b"A" else b"A"
        bad[place] = flipped + bad[place][1:]
        with pytest.raises(KeyStoreError, match="altered"):
            unwrap_key(row_of(keyid, "ecdsa", b".".join(bad)), PASSPHRASE)


@pytest.mark.parametrize(
    "private", [b"", b"a.b.c.d.e", b"....", b"\xff.a.a.a.a", b"W10.a.a.a.a", b"x" * 20_000]
)
def test_what_is_no_jwe_is_refused(private: bytes) -> None:
    with pytest.raises(KeyStoreError, match="damaged"):
        unwrap_key(row_of("00", "ecdsa", private), PASSPHRASE)


def test_row_is_shown_without_its_private_part() -> None:
    assert "eyJ" not in repr(vector_rows()[0])
