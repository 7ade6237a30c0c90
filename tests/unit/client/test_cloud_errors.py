from __future__ import annotations

import pytest

from tabellion.errors import SignerError
from tabellion.signers import cloud_errors
from tabellion.signers.uris import parse_signer_uri

AWS = parse_signer_uri("awskms:alias/release")


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, code: str) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}}


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("AccessDeniedException", "let this identity"),
        ("DisabledException", "enable the key's version"),
        ("KMSInvalidStateException", "enable the key's version"),
        ("NotFoundException", "check the key's name"),
        ("UnrecognizedClientException", "log in with aws"),
        ("InvalidSignatureException", "log in with aws"),
        ("ExpiredTokenException", "log in with aws"),
    ],
)
def test_what_aws_refuses_is_told_with_what_to_do(code: str, hint: str) -> None:
    told = cloud_errors.told(AWS, ClientError(code))
    assert told.message == f"awskms:alias/release: An error occurred ({code})"
    assert told.hint.startswith(hint)


def test_what_is_unknown_is_told_on_one_short_line() -> None:
    told = cloud_errors.told(AWS, ValueError("odd\n" * 1000))
    assert len(told.message) < 400
    assert "\n" not in told.message
    assert told.hint == SignerError.default_hint
    assert cloud_errors.told(AWS, ValueError()).message == "awskms:alias/release: ValueError"
