"""Signing a proposal on a machine without a network: a file in, a file out. All of it blocks.

What it changes is told against the root that this machine trusts: the cached one, or one that its
owner hands over by name. A courier can't bring both the proposal and what it's compared with,
unless the owner says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tuf.api.metadata import Root

from tabellion.core.dialect import dialect_of
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.names import parse_gun
from tabellion.core.publication import CurrentSet, UploadedFile
from tabellion.core.succession import verify_next_root
from tabellion.errors import TabellionError, UntrustedRootError, UsageError
from tabellion.publish import partial
from tabellion.publish.cosigning import sign_proposal, verify_untouched
from tabellion.publish.examining import Examined, Show, worded
from tabellion.publish.signing import KeyRing
from tabellion.verify.cache import MetadataCache
from tabellion.verify.trust_store import TrustStore


def sign_file(
    file: Path, ring: KeyRing, *, home: Path, root: bytes | None, out: Path, show: Show
) -> Examined:
    """Add the signatures of keys here; gives the proposal as it was written.

    Args:
        file: The proposal.
        ring: The keys here.
        home: Folder with the cache of trusted roots.
        root: Root that the owner of this machine trusts; None for the cached one.
        out: Where to write it; may be ``file``.
        show: Told in words what it changes, before anything is signed; raises to refuse.

    Raises:
        UsageError: It was made for another root than the one trusted here.
        MalformedMetadataError: It was changed after somebody signed it.
        UntrustedRootError: ``root`` doesn't follow the cached one.
        KeyStoreError: No key here is one of those that are missing.
    """
    seen = examine_file(file, ring, home=home, root=root)
    show(seen.words)
    signed = sign_proposal(seen.proposal, seen.current, ring, knows_all=False)
    partial.write(out, signed.gun, signed.upload)
    return Examined(signed, seen.current, seen.words)


def examine_file(file: Path, ring: KeyRing, *, home: Path, root: bytes | None) -> Examined:
    """Read a proposal and say what it changes; raises as ``sign_file`` does."""
    held = partial.read(file)
    current = _current(home, held.gun, held.files, root)
    seen = worded(held.gun, held.files, current, ring)
    odd = [role for role in seen.proposal.files if role not in {"root", "targets"}]
    if odd:
        raise UsageError(
            f"{file} is about role {odd[0][:80]}, whose keys this machine can't know",
            hint="sign it where the server can be reached: tabellion cosign FILE",
        )
    verify_untouched(seen.proposal, current, knows_all=False)
    return seen


def _current(
    home: Path, gun: str, files: Sequence[UploadedFile], given: bytes | None
) -> CurrentSet | None:
    """Give what is known here of the state that the files follow; None if they found the GUN."""
    cache = MetadataCache.of(home, gun)
    pin = TrustStore(home).pin(parse_gun(gun))
    data = _trusted(cache.load("root") or (pin.root if pin is not None else None), given, gun)
    if data is None and pin is None:
        first = next((item.data for item in files if item.role == "root"), None)
        if first is not None and _root(first).version == 1:
            return None
    if data is None:
        raise UsageError(
            f"no root of {gun} is trusted on this machine",
            hint="give the one that is trusted today: --root FILE",
        )
    dialect = dialect_of(data)
    current: dict[str, UnverifiedMetadata[Any]] = {"root": _root(data)}
    cached = cache.load("targets")
    proposed = next((item.data for item in files if item.role == "targets"), None)
    if cached is not None and proposed is not None:
        limit = Limits().targets_bytes
        old = dialect.parse("targets", cached, max_bytes=limit)
        if dialect.parse("targets", proposed, max_bytes=limit).version == old.version + 1:
            current["targets"] = old  # an older one isn't what it changes: then all of it is told
    return CurrentSet(current, dialect)


def _trusted(cached: bytes | None, given: bytes | None, gun: str) -> bytes | None:
    """Choose the newer of the cached root and one that leads on from it."""
    if cached is None or given is None:
        return given or cached
    old, new = _root(cached), _root(given)
    if new.version < old.version or given == cached:
        return cached
    try:
        dialect = dialect_of(cached)
        verify_next_root(old.signed, new, dialect=dialect, gun=gun)
    except TabellionError as error:
        raise UntrustedRootError(
            f"the root given doesn't follow the root version {old.version} trusted here",
            hint=f"it has to be version {old.version + 1}, signed by that one's keys",
        ) from error
    return given


def _root(data: bytes) -> UnverifiedMetadata[Root]:
    parsed = dialect_of(data).parse("root", data, max_bytes=Limits().root_bytes)
    return cast("UnverifiedMetadata[Root]", parsed)
