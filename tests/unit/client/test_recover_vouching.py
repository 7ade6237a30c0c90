"""Vouching for what a stolen key signed: for the bytes that were looked at, and no others."""

from __future__ import annotations

import pytest
from tuf.api.metadata import TargetFile

from tabellion.cli.recover import _verify_vouched, _vouched
from tabellion.errors import UsageError
from tabellion.publish.stolen import Doubt

NOW = TargetFile.from_data("1.3", b"looked at", ["sha256"])
DIGEST = f"sha256:{NOW.hashes['sha256']}"


@pytest.mark.parametrize("text", ["1.3", "1.3@", "@" + DIGEST, "1.3@latest", "1.3@" + "ab" * 32])
def test_a_target_without_its_digest_is_not_vouched_for(text: str) -> None:
    with pytest.raises(UsageError, match="for which bytes"):
        _vouched(text)


def test_what_was_signed_since_somebody_looked_is_not_vouched_for() -> None:
    assert _vouched(f"1.3@{DIGEST}") == ("1.3", DIGEST)
    doubt = Doubt("1.3", "added", None, NOW)
    _verify_vouched(doubt, {"1.3": DIGEST})
    _verify_vouched(doubt, {"1.4": DIGEST})
    other = TargetFile.from_data("1.3", b"signed meanwhile", ["sha256"])
    for now in (other, None):
        with pytest.raises(UsageError, match="not as what you vouch for"):
            _verify_vouched(Doubt("1.3", "changed", NOW, now), {"1.3": DIGEST})
