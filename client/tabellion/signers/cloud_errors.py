"""What the clouds' libraries say when they refuse, put so that one knows what to do next.

They are told by the names of their classes and their codes: only the one that is used is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from tabellion.errors import SignerError
from tabellion.signers.uris import SignerUri

_MAX_REASON: Final = 300
_LOGIN: Final[Mapping[str, str]] = {
    "awskms": "log in with aws, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gcpkms": "log in with gcloud auth application-default login, or set "
    "GOOGLE_APPLICATION_CREDENTIALS",
    "azurekms": "log in with az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and "
    "AZURE_CLIENT_SECRET",
}
_DENIED: Final = "let this identity read the public key and sign with it"
_UNUSABLE: Final = "enable the key's version there, or add another and rotate to it"
_MISSING: Final = "check the key's name and version, and who you are to the cloud"
_AWAY: Final = "check the network and the proxy's variables, then try again"
_NOT_PLUGGED: Final = re.compile(r"[Gg]etting metadata from plugin failed")
"""What gRPC makes of an error of Google's login."""
_LOGIN_AWAY: Final = re.compile(
    r"Max retries exceeded|[Tt]imed out|[Pp]roxy|[Ff]ailed to (?:establish|resolve)"
)
"""What tells that a login wasn't refused but out of reach: both come in the same classes."""
_BY_NAME: Final[Mapping[str, str]] = {
    # google.api_core
    "Forbidden": _DENIED,
    "PermissionDenied": _DENIED,
    "FailedPrecondition": _UNUSABLE,
    "NotFound": _MISSING,
    "ServiceUnavailable": _AWAY,
    "DeadlineExceeded": _AWAY,
    "RetryError": _AWAY,
    # azure.core
    "ResourceNotFoundError": _MISSING,
    "ServiceRequestError": _AWAY,
    "ServiceRequestTimeoutError": _AWAY,
    "ServiceResponseError": _AWAY,
    "ServiceResponseTimeoutError": _AWAY,
    # botocore
    "EndpointConnectionError": _AWAY,
    "ConnectTimeoutError": _AWAY,
    "ReadTimeoutError": _AWAY,
    "ConnectionClosedError": _AWAY,
}
_NO_LOGIN: Final = frozenset(
    {
        *("DefaultCredentialsError", "RefreshError", "TransportError", "Unauthenticated"),
        *("ClientAuthenticationError", "CredentialUnavailableError"),
        *("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"),
    }
)
_NO_LOGIN_CODES: Final = frozenset(
    {
        *("UnrecognizedClientException", "InvalidSignatureException", "InvalidClientTokenId"),
        *("ExpiredTokenException", "ExpiredToken", "IncompleteSignature"),
    }
)
"""AWS's."""
_BY_CODE: Final[Mapping[str, str]] = {
    "KeyDisabled": _UNUSABLE,  # Key Vault, within Forbidden
    "Forbidden": _DENIED,
    "AccessDeniedException": _DENIED,
    "DisabledException": _UNUSABLE,
    "KMSInvalidStateException": _UNUSABLE,
    "NotFoundException": _MISSING,
}


def is_google_away(error: BaseException) -> bool:
    """Tell whether a service can't be reached now, but who we are isn't what is wrong."""
    return type(error).__name__ == "ServiceUnavailable" and not _NOT_PLUGGED.search(str(error))


def told(uri: SignerUri, error: Exception) -> SignerError:
    """Give our error for one of a cloud's library."""
    if type(error).__name__ == "RetryError" and isinstance(last := error.__cause__, Exception):
        error = last  # says what it was that was tried again
    reason = " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__
    return SignerError(f"{uri}: {reason}", hint=_hint(uri.scheme, error))


def _hint(scheme: str, error: Exception) -> str:
    """Give what to do, nothing if it's unknown."""
    names = [kind.__name__ for kind in type(error).__mro__]
    if _NO_LOGIN.intersection(names) or _NOT_PLUGGED.search(str(error)):
        return _AWAY if _LOGIN_AWAY.search(str(error)) else _LOGIN[scheme]
    for code in _codes(error):
        if code in _NO_LOGIN_CODES:
            return _LOGIN[scheme]
        if code in _BY_CODE:
            return _BY_CODE[code]
    return next((_BY_NAME[name] for name in names if name in _BY_NAME), "")


def _codes(error: Exception) -> Iterator[str]:
    """Give the codes that a service's answer carries, the innermost first."""
    inner = getattr(error, "error", None)  # azure.core's ODataV4Format
    said = getattr(inner, "innererror", None)
    if isinstance(said, Mapping):
        yield str(said.get("code"))
    yield str(getattr(inner, "code", None))
    response = getattr(error, "response", None)  # botocore's
    if isinstance(response, Mapping) and isinstance(response.get("Error"), Mapping):
        yield str(response["Error"].get("Code"))
