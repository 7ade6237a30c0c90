"""Every error the client library can raise.

::

    TabellionError                    base: message, hint, stable code, exit status
    ├── UsageError                    the request or the configuration is wrong   (exit 2)
    │   ├── InvalidNameError          a GUN, reference, digest, role or path is malformed
    │   ├── ConfigurationError        a configuration file or variable is wrong
    │   ├── KeyStoreError             a signing key is missing, unreadable or unfit
    │   └── PassphraseError           a passphrase is missing or wrong
    ├── VerificationError             what was found must not be trusted           (exit 1)
    │   ├── MalformedMetadataError    not well-formed metadata of that role
    │   ├── MetadataTooLargeError     above the limit; it wasn't parsed
    │   ├── ThresholdError            too few valid signatures by distinct keys
    │   ├── RollbackError             a version went back, or skipped
    │   ├── ExpiredMetadataError      past its expiry
    │   ├── MixAndMatchError          a file doesn't fit the snapshot or timestamp
    │   ├── UntrustedRootError        no trusted root to start from, or not the pinned one
    │   ├── UnknownGunError           the server holds nothing for this GUN
    │   ├── UnknownImageError         the registry holds no such image
    │   ├── NotSignedError            nobody who may has signed this
    │   ├── NotDelegatedError         you may not publish this as that role          (exit 2)
    │   └── DigestMismatchError       the bytes aren't the signed ones
    ├── TransportError                no usable answer came                        (exit 3)
    │   ├── UnreachableError          no connection, TLS failure, time-out
    │   ├── NotFoundError             404 or 410
    │   ├── AccessDeniedError         401 or 403: credentials are configuration      (exit 2)
    │   ├── ServerAnswerError         any other answer that can't be used
    │   ├── TransferError             slow, truncated, over-long or mis-encoded body
    │   └── RegistryError             the registry's answer can't be used
    ├── PublicationError              the server refused a publication             (exit 3)
    │   ├── ConflictError             somebody published first; carries the versions
    │   ├── RefusedPublicationError   a rule is broken; carries the rule's name   (exit 2)
    │   └── NotaryRefusalError        the same in Notary's words
    ├── CacheError                    the local cache can't be read or written     (exit 3)
    ├── SignerError                   what holds a key, a token or KMS, doesn't sign (exit 3)
    └── EngineError                   docker, podman or nerdctl can't be used      (exit 3)

``VerificationError`` says "do not run this", ``TransportError`` says "could not find out":
a caller that treats both as "no" fails closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar


class TabellionError(Exception):
    """Base of all errors of this library.

    Attributes:
        message: What was found and where, one line.
        hint: What to do next, one line; may be empty.
        code: Stable kebab-case name.
        exit_status: What the command line exits with.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 3
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint


class UsageError(TabellionError):
    """The request or the configuration is wrong."""

    code = "usage"
    exit_status = 2


class InvalidNameError(UsageError):
    """A GUN, image reference, digest, role name or target path is malformed."""

    code = "invalid-name"


class ConfigurationError(UsageError):
    """A configuration file or an environment variable is wrong."""

    code = "configuration"


class KeyStoreError(UsageError):
    """A signing key is missing, unreadable or unfit for its role."""

    code = "key-store"
    default_hint = "see which keys are here with: tabellion key list"


class PassphraseError(UsageError):
    """A passphrase is missing or wrong."""

    code = "passphrase"


class VerificationError(TabellionError):
    """What was found must not be trusted."""

    code = "verification"
    exit_status = 1


class MalformedMetadataError(VerificationError):
    """The bytes aren't well-formed metadata of that role."""

    code = "malformed-metadata"
    default_hint = "the server or something on the way altered the file; ask its operator"


class MetadataTooLargeError(VerificationError):
    """The bytes are above the limit and weren't parsed."""

    code = "metadata-too-large"
    default_hint = "no honest file is this long; ask the server's operator"


class ThresholdError(VerificationError):
    """Too few valid signatures by distinct keys.

    Attributes:
        role: Role whose keys had to sign.
        needed: The role's threshold.
        signed_by: Key ids whose signatures hold.
    """

    code = "threshold"
    default_hint = "the wrong key signed, or the file was altered; do not use it"
    _AFTER_A_ROOT: ClassVar[str] = (
        "the wrong key signed, or the file was altered: do not use it; if its owner founded the "
        "GUN anew, get its root by another way than the server: tabellion trust replace GUN "
        "--root FILE"
    )

    def __init__(
        self, message: str, *, role: str, needed: int, signed_by: tuple[str, ...], hint: str = ""
    ) -> None:
        is_first = role == "timestamp"  # what a reader sees first of another GUN of that name
        super().__init__(message, hint=hint or (self._AFTER_A_ROOT if is_first else ""))
        self.role = role
        self.needed = needed
        self.signed_by = signed_by


class RollbackError(VerificationError):
    """A version went back or skipped: an old view is being shown.

    Attributes:
        role: Role whose version is wrong.
        found: Version found.
        expected: Lowest (or only) version acceptable.
    """

    code = "rollback"
    default_hint = "you are being shown an old state; ask the operator before trusting anything"

    def __init__(
        self, message: str, *, role: str, found: int, expected: int, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.role = role
        self.found = found
        self.expected = expected


class ExpiredMetadataError(VerificationError):
    """Metadata is past its expiry: the view may be frozen.

    Attributes:
        role: Role that expired.
        expired_at: When, UTC.
    """

    code = "expired-metadata"
    default_hint = (
        "the server is frozen or nobody renews the role; check this clock, then its operator"
    )

    def __init__(self, message: str, *, role: str, expired_at: datetime, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.role = role
        self.expired_at = expired_at


class MixAndMatchError(VerificationError):
    """A file doesn't have the version, length or hash that its snapshot or timestamp names."""

    code = "mix-and-match"
    default_hint = "files of different releases are being mixed; retry once, then ask the operator"


class UntrustedRootError(VerificationError):
    """No trusted root to start from, or the one offered isn't the pinned one."""

    code = "untrusted-root"
    default_hint = (
        "get the root file or its key fingerprint from the publisher, not from the server"
    )


class UnknownGunError(VerificationError):
    """The server holds nothing for this GUN."""

    code = "unknown-gun"
    default_hint = "check the name; nothing under it is signed here"


class UnknownImageError(VerificationError):
    """The registry holds no such image."""

    code = "unknown-image"
    default_hint = "check name and tag; push the image first"


class NotSignedError(VerificationError):
    """Nobody who may has signed this target or digest."""

    code = "not-signed"
    default_hint = "ask the publisher to sign it: tabellion sign IMAGE"


class NotDelegatedError(VerificationError):
    """What is to be published isn't delegated to the role that should sign it."""

    code = "not-delegated"
    exit_status = 2  # nothing was found that must not be used


class DigestMismatchError(VerificationError):
    """Bytes or a digest differ from what was signed."""

    code = "digest-mismatch"
    default_hint = "the image was changed after it was signed; pull the signed digest instead"


class TransportError(TabellionError):
    """No usable answer came."""

    code = "transport"


class UnreachableError(TransportError):
    """No connection, a TLS failure, or a time-out."""

    code = "unreachable"
    default_hint = "check the address, the network and the CA file"


class NotFoundError(TransportError):
    """The server answered 404 or 410.

    Attributes:
        problem: Stable code of the trust server's own word for it; "" if it gave none.
    """

    code = "not-found"
    default_hint = "check the server's address and the name; retry if something is being published"

    def __init__(self, message: str, *, problem: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problem = problem


class AccessDeniedError(TransportError):
    """The server answered 401 or 403."""

    code = "access-denied"
    exit_status = 2
    default_hint = (
        "for a trust server set TABELLION_TOKEN, or NOTARY_AUTH or docker login where it has a "
        "token service; for a registry docker login"
    )


class ServerAnswerError(TransportError):
    """The server's answer can't be used.

    Attributes:
        status: HTTP status.
    """

    code = "server-answer"
    default_hint = "check that the address is a trust server's; its operator finds more in the log"

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class TransferError(TransportError):
    """The body was too slow, cut short, over-long or mis-encoded."""

    code = "transfer"
    default_hint = "retry; if it stays, something on the way alters the traffic"


class RegistryError(TransportError):
    """The registry's answer can't be used."""

    code = "registry"
    default_hint = "check the image's name and that the registry is well"


class PublicationError(TabellionError):
    """The server refused a publication; nothing changed."""

    code = "publication"


class ConflictError(PublicationError):
    """Somebody published first.

    Attributes:
        versions: Role name to current version, as the server holds them.
    """

    code = "version-conflict"
    default_hint = "fetch the current metadata, apply the change again, publish again"

    def __init__(self, message: str, *, versions: Mapping[str, int], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.versions = dict(versions)


class RefusedPublicationError(PublicationError):
    """A publication breaks a rule.

    Attributes:
        rule: Stable kebab-case name of the rule.
        role: The file that breaks it, or None if it isn't about one file.
        keyid: The key that breaks it, or None.
    """

    code = "publication-refused"
    exit_status = 2  # nothing is unknown: what is published has to change

    def __init__(
        self,
        message: str,
        *,
        rule: str,
        role: str | None = None,
        keyid: str | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
        self.role = role
        self.keyid = keyid


class NotaryRefusalError(PublicationError):
    """A publication breaks a rule of Notary's, told by the names that its clients know.

    Attributes:
        code_name: Notary's error code, such as ``INVALID_UPDATE``.
        name: ``ErrBadRoot``, ``ErrBadTargets``, ... beside ``INVALID_UPDATE``; None for no detail.
        told: Text for those clients; the message, unless they know another one.
    """

    code = "notary-refusal"

    def __init__(
        self,
        message: str,
        *,
        code_name: str = "INVALID_UPDATE",
        name: str | None = None,
        told: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.code_name = code_name
        self.name = name
        self.told = told or message


class CacheError(TabellionError):
    """The local cache can't be read or written."""

    code = "cache"
    default_hint = "check free space and permissions of the Tabellion home folder"


class SignerError(TabellionError):
    """What holds a key, a token or KMS, can't be reached or doesn't sign; nothing was signed."""

    code = "signer"
    default_hint = "check that it runs and that you may use the key, then try again"


class EngineError(TabellionError):
    """The container engine can't be started or used."""

    code = "engine"
    default_hint = "check that the engine is installed and running"
