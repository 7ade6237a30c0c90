"""Signing a proposal on a machine without a network: a file in, a file out. All of it blocks.

What it changes is told against the root that this machine trusts: the cached one, or one that its
owner hands over by name. A courier can't bring both the proposal and what it's compared with,
unless the owner says so. What lies between that root and what the file is built on, newer roots and
the files that delegate, comes with the file, and is verified from the trusted root on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from tuf.api.metadata import Root

from tabellion.core.dialect import Dialect, dialect_of
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.names import parse_gun
from tabellion.core.proposal import Proposal
from tabellion.core.publication import CurrentSet
from tabellion.core.succession import verify_next_root
from tabellion.errors import (
    TabellionError,
    UntrustedRootError,
    UsageError,
    VerificationError,
)
from tabellion.publish import partial
from tabellion.publish.base_files import verify_base_files
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
        UsageError: It was made for another root than the one trusted here, doesn't bring the
            file that delegates to a role, or enough have signed.
        MalformedMetadataError: It was changed after somebody signed it.
        UntrustedRootError: ``root`` doesn't follow the cached one, or doesn't lead to what the
            proposal is built on.
        KeyStoreError: No key here is one of those that are missing.
    """
    held = partial.read(file)
    seen = _examine(held, file, ring, home=home, root=root)
    show(seen.words)
    signed = sign_proposal(seen.proposal, seen.current, ring, knows_all=False)
    if signed.upload == seen.proposal.upload:
        version = seen.current.files["root"].version if seen.current is not None else 1
        raise UsageError(
            f"nothing was signed: by root version {version}, the newest that this machine knows, "
            "enough have signed",
            hint=f"publish it: tabellion root publish {file}; or if the root changed since, give "
            "the newer one: --root FILE",
        )
    partial.write(out, signed.gun, signed.upload, base=held.base, roots=held.roots)
    return Examined(signed, seen.current, seen.words)


def examine_file(file: Path, ring: KeyRing, *, home: Path, root: bytes | None) -> Examined:
    """Read a proposal and say what it changes; raises as ``sign_file`` does."""
    return _examine(partial.read(file), file, ring, home=home, root=root)


def _examine(
    held: partial.Partial, file: Path, ring: KeyRing, *, home: Path, root: bytes | None
) -> Examined:
    current = _current(home, held, root)
    seen = worded(held.gun, held.files, current, ring)
    led_to = {standing.role for standing in seen.proposal.standings(current)}
    odd = sorted(seen.proposal.files.keys() - led_to)
    if odd:
        raise UsageError(
            f"{file} doesn't bring the file that delegates to role {odd[0][:80]}",
            hint="have it made anew, or sign it where the server can be reached: "
            "tabellion cosign FILE",
        )
    verify_untouched(seen.proposal, current, knows_all=False)
    return seen


def _current(home: Path, held: partial.Partial, given: bytes | None) -> CurrentSet | None:
    """Give what is known here of the state that the files follow; None if they found the GUN."""
    cache = MetadataCache.of(home, held.gun)
    pin = TrustStore(home).pin(parse_gun(held.gun))
    known_root = cache.load("root") or (pin.root if pin is not None else None)
    data = _followed(_trusted(known_root, given, held), held)
    if data is None and pin is None:
        first = next((item.data for item in held.files if item.role == "root"), None)
        if first is not None and _root(first).version == 1:
            return None
    if data is None:
        raise UsageError(
            f"no root of {held.gun} is trusted on this machine",
            hint="give the one that is trusted today: --root FILE",
        )
    root, dialect = _root(data), dialect_of(data)
    proposed = Proposal.parse(held.gun, dialect, held.files).files
    brought = verify_base_files(root, held.base, dialect, proposed=proposed)
    known = _cached_targets(cache.load("targets"), dialect)
    targets = brought.get("targets")
    if known is not None and targets is not None and targets.version < known.version:
        raise UsageError(
            f"the file is built on targets version {targets.version}, and version {known.version} "
            "was seen here",
            hint="have it made anew on what is current",
        )
    if known is not None and targets is None:
        # As old as any: if it isn't what the file changes, then all of that is told.
        follows = "targets" not in proposed or proposed["targets"].version == known.version + 1
        brought |= {"targets": known} if follows else {}
    return CurrentSet({"root": root, **brought}, dialect)


def _cached_targets(data: bytes | None, dialect: Dialect) -> UnverifiedMetadata[Any] | None:
    if data is None:
        return None
    try:
        return dialect.parse("targets", data, max_bytes=Limits().targets_bytes)
    except VerificationError:  # from before a conversion
        return None


def _trusted(cached: bytes | None, given: bytes | None, held: partial.Partial) -> bytes | None:
    """Choose the newer of the cached root and one that leads on from it."""
    if cached is None or given is None:
        return given or cached
    new = _root(given)
    if new.version < _root(cached).version or given == cached:
        return cached
    before = _followed(cached, held, before=new.version) or cached
    if _root(before).version == new.version - 1 and _leads(before, given, held.gun):
        return given
    version = _root(before).version
    raise UntrustedRootError(
        f"the root given doesn't follow the root version {version} trusted here",
        hint=f"it has to be version {version + 1}, signed by that one's keys",
    )


def _followed(
    trusted: bytes | None, held: partial.Partial, *, before: int | None = None
) -> bytes | None:
    """Give the newest root that a trusted one leads to by those that the file brings.

    Raises:
        UntrustedRootError: One that would come next isn't signed by the keys of the one before.
    """
    if trusted is None:
        return None
    brought = {_root(data).version: data for data in held.roots}
    while (version := _root(trusted).version + 1) in brought and version != before:
        if not _leads(trusted, brought[version], held.gun):
            raise UntrustedRootError(
                f"the file brings root version {version}, and the root version {version - 1} "
                "trusted here doesn't lead to it",
                hint="nothing was signed; ask who made the file",
            )
        trusted = brought[version]
    return trusted


def _leads(old: bytes, new: bytes, gun: str) -> bool:
    """Tell whether a root is signed by the keys of the one before, and by its own."""
    try:
        dialect = dialect_of(old)
        verify_next_root(_root(old).signed, _root(new), dialect=dialect, gun=gun)
    except TabellionError:
        return False
    return True


def _root(data: bytes) -> UnverifiedMetadata[Root]:
    parsed = dialect_of(data).parse("root", data, max_bytes=Limits().root_bytes)
    return cast("UnverifiedMetadata[Root]", parsed)
