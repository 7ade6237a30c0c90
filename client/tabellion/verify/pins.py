"""Reads ``trust_pinning``: from Notary's configuration, or a section of ours with the same words.

Names of GUNs are taken as they are written; nothing is put in small letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from tabellion.core import strict_json
from tabellion.core.fingerprints import parse_fingerprint
from tabellion.core.notary_keys import CERTIFICATE_FAULTS
from tabellion.core.pinning import TrustPinning
from tabellion.errors import ConfigurationError, VerificationError

SECTION: Final = "trust_pinning"
_MEMBERS: Final = ("certs", "ca", "disable_tofu")
_MAX_BYTES: Final = 4 * 1024 * 1024
_HINT: Final = "see config/client.toml for how trust_pinning is written"


def load_notary_pinning(path: Path) -> TrustPinning:
    """Read the ``trust_pinning`` of a Notary client's ``config.json``.

    Other members are of no interest here. Bundles are looked for beside the file.

    Raises:
        ConfigurationError: The file can't be read or has no ``trust_pinning``, or that is wrong;
            names every fault.
    """
    data = _read(path, "Notary configuration")
    try:
        content = strict_json.parse(data, max_bytes=_MAX_BYTES, what=str(path))
    except VerificationError as error:
        raise ConfigurationError(error.message, hint=_HINT) from error
    if SECTION not in content:
        raise ConfigurationError(
            f"{path} has no {SECTION}",
            hint="take another file, or leave --trust-pinning and trust_pinning_file out",
        )
    return read_pinning(content[SECTION], where=path)


def read_pinning(section: object, *, where: Path) -> TrustPinning:
    """Read a section that was parsed already, and the bundles that it names.

    Args:
        section: ``certs``: GUN or beginning and ``*`` to a list of fingerprints; ``ca``: beginning
            of a GUN to a PEM file; ``disable_tofu``: a boolean. All may be left out.
        where: The file it's from: for error texts, and bundles are relative to it.

    Raises:
        ConfigurationError: Names every fault.
    """
    if not isinstance(section, dict):
        raise ConfigurationError(f"{where}: {SECTION} isn't a section", hint=_HINT)
    faults = [
        f"{SECTION}.{name} isn't known (known: {', '.join(_MEMBERS)})"
        for name in section
        if name not in _MEMBERS
    ]
    certs: dict[str, frozenset[str]] = {}
    ca: dict[str, tuple[x509.Certificate, ...]] = {}
    for name, value in _members(section, "certs", faults):
        try:
            certs[name] = _fingerprints(value)
        except ConfigurationError as error:
            faults.append(f"{SECTION}.certs {name!r}: {error.message}")
    for name, value in _members(section, "ca", faults):
        try:
            ca[name] = _bundle(value, where.parent)
        except ConfigurationError as error:
            faults.append(f"{SECTION}.ca {name!r}: {error.message}")
    disable_tofu = section.get("disable_tofu", False)
    if not isinstance(disable_tofu, bool):
        faults.append(f"{SECTION}.disable_tofu must be true or false")
    if faults:
        raise ConfigurationError("; ".join(f"{where}: {fault}" for fault in faults), hint=_HINT)
    return TrustPinning(certs, ca, disable_tofu=bool(disable_tofu))


def _members(section: dict[str, Any], name: str, faults: list[str]) -> Iterator[tuple[str, object]]:
    value = section.get(name, {})
    if isinstance(value, dict):
        yield from value.items()
    else:
        faults.append(f"{SECTION}.{name} must map names of GUNs")


def _fingerprints(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigurationError("must be a list of fingerprints")
    return frozenset(parse_fingerprint(item) for item in value)


def _bundle(value: object, folder: Path) -> tuple[x509.Certificate, ...]:
    if not isinstance(value, str) or not value:
        raise ConfigurationError("must be the name of a PEM file")
    path = folder / Path(value).expanduser()
    try:
        return tuple(x509.load_pem_x509_certificates(_read(path, "bundle")))
    except CERTIFICATE_FAULTS as error:
        raise ConfigurationError(f"bundle {str(path)!r} isn't certificates in PEM") from error


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        reason = str(error.strerror).lower()
        raise ConfigurationError(
            f"{what} {str(path)!r} can't be read: {reason}", hint=_HINT
        ) from error
    if len(data) > _MAX_BYTES:
        raise ConfigurationError(f"{what} {str(path)!r} has over {_MAX_BYTES} bytes", hint=_HINT)
    return data
