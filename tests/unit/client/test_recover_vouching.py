"""Vouching for what a stolen key signed: for the bytes that were looked at, and no others."""

from __future__ import annotations

import pytest
from tuf.api.metadata import TargetFile

from tabellion.cli.recover import _verify_vouched, _vouched
from tabellion.core.notary_search import RELEASES
from tabellion.errors import UsageError
from tabellion.publish.changes import SignTarget
from tabellion.publish.stolen import Doubt, take_over, verify_settled

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


def with_custom(content: bytes, custom: dict[str, object]) -> TargetFile:
    made = TargetFile.from_data("1.3", content, ["sha256"])
    made.unrecognized_fields["custom"] = custom
    return made


EVIL = {"manifests": [{"platform": "linux/amd64", "digest": f"sha256:{'e' * 64}"}]}
GOOD = {"manifests": [{"platform": "linux/amd64", "digest": f"sha256:{'0' * 64}"}]}


def signed_anew(doubt: Doubt, vouched: list[str]) -> list[tuple[str, dict[str, object]]]:
    """Give digest and custom of what the owner would sign."""
    changes = take_over("alice", [doubt], vouched)
    return [
        (item.digest.hex, dict(item.custom)) for item in changes if isinstance(item, SignTarget)
    ]


def test_what_a_thief_says_beside_bytes_that_are_vouched_for_is_not_signed() -> None:
    now, before = with_custom(b"looked at", EVIL), with_custom(b"looked at", GOOD)
    digest = NOW.hashes["sha256"]
    for doubt in (Doubt("1.3", "added", None, now), Doubt("1.3", "changed", before, now)):
        assert signed_anew(doubt, ["1.3"]) == [(digest, {})]
    # What was said of them before the theft stays, whether vouched for or not.
    older = with_custom(b"older", GOOD)
    kept = Doubt("1.3", "changed", older, before)
    assert signed_anew(kept, ["1.3"]) == [(digest, GOOD)]
    assert signed_anew(Doubt("1.3", "kept", before, before), ["1.3"]) == [(digest, GOOD)]
    assert signed_anew(Doubt("1.3", "changed", before, now), []) == [(digest, GOOD)]


def test_a_release_whose_custom_changed_since_it_was_looked_at_is_not_signed() -> None:
    before = with_custom(b"looked at", GOOD)
    doubts = [Doubt("1.3", "kept", before, before, RELEASES)]
    verify_settled({"1.3": before}, doubts, [])
    with pytest.raises(UsageError, match="signed again"):
        verify_settled({"1.3": with_custom(b"looked at", EVIL)}, doubts, [])
