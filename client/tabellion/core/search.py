"""Which role speaks for a target: the depth-first search, free of I/O.

The searches are generators: they yield the role whose file they need, the caller loads it into
the trusted set (or raises: the search then ends, it never goes on to a less trusted role), and
resumes them. Where many paths are looked through, one role that can't be had must not hide what
doesn't depend on it: such a request is optional, and its failure is noted in the trusted set.

Spec: TUF 1.0.34, 5.6.7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeAlias

from tuf.api.metadata import SuccinctRoles, TargetFile, Targets

from tabellion.core.bins import bins_of, is_bin
from tabellion.core.dialect import NOTARY
from tabellion.core.metadata import TrustedMetadata
from tabellion.core.names import Digest
from tabellion.core.notary_search import find_in_tree, find_released, find_signers
from tabellion.core.role_requests import RoleRequest, TargetMatch, is_published, load_role
from tabellion.core.roles import delegated_roles, roles_for_path
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import MetadataTooLargeError

BinChoice: TypeAlias = Callable[[SuccinctRoles], Iterable[str]]


def find_target(
    trusted: TrustedSet, path: str, *, optional: bool = False, released: bool = True
) -> Generator[RoleRequest, None, TargetMatch | None]:
    """Search the roles pre-order for a path; in a Notary GUN in docker's or Notary's order.

    Args:
        trusted: What is trusted of the GUN; needed roles are loaded into it.
        path: Target path.
        optional: Whether a role that can't be had ends the search as "not found" (B41), for
            whoever looks through many paths, instead of with its error.
        released: In a Notary GUN, take docker's word for what is signed: ``targets/releases``, then
            ``targets``, and nobody else; otherwise any role that may sign the path.

    Returns:
        The first match, or None: nobody who may has signed it.
    """
    if trusted.dialect is NOTARY:
        find = find_released if released else find_in_tree
        return (yield from find(trusted, path, optional=optional))
    pending = [RoleRequest("targets", "root", optional)]
    visited: set[str] = set()
    while pending and len(visited) <= trusted.limits.delegations:
        request = pending.pop()
        if request.role in visited:
            continue
        role = yield from load_role(trusted, request)
        if role is None:
            return None
        target = role.signed.targets.get(path)
        if target is not None:
            return TargetMatch(path, target, role, request.delegator)
        visited.add(request.role)
        children: list[RoleRequest] = []
        for name, terminating in roles_for_path(role.signed, path):
            children.append(RoleRequest(name, request.role, optional))
            if terminating:
                pending.clear()
                break
        pending.extend(reversed(children))
    return None


def walk_roles(
    trusted: TrustedSet, *, bins: BinChoice | None = None
) -> Generator[RoleRequest, None, list[TrustedMetadata[Targets]]]:
    """Visit all roles that are reachable, in the snapshot, and usable.

    Breadth first: where two delegators use one name, the one nearer to the root is heard, and
    nobody's own delegations crowd out those beside them. A delegator whose keys don't fit the
    file has no say over who else delegates to it.

    Args:
        trusted: What is trusted of the GUN; the roles are loaded into it.
        bins: Chooses which hash bins to visit; by default all that are published.
    """
    pending = deque([RoleRequest("targets", "root")])
    usable: dict[str, TrustedMetadata[Targets]] = {}
    visits = 0
    while pending:
        request = pending.popleft()
        if request.role in usable or not is_published(trusted, request.role):
            continue
        visits += 1
        if visits > trusted.limits.roles:
            error = MetadataTooLargeError(
                f"more than {trusted.limits.roles} roles are delegated to"
            )
            trusted.note_unusable(request.role, request.delegator, error)
            break
        role = yield from load_role(trusted, request)
        if role is None:
            continue
        usable[request.role] = role
        names = list(_children(trusted, role.signed, bins))
        pending.extend(
            RoleRequest(name, request.role, optional=True, beside=names) for name in names
        )
    return list(usable.values())


def _children(trusted: TrustedSet, targets: Targets, choice: BinChoice | None) -> Iterable[str]:
    bins = bins_of(targets)
    if bins is None:
        return [child.name for child in delegated_roles(targets)]
    if choice is not None:
        return choice(bins)
    # Not by counting: 2^32 bins are delegated in one line, but a snapshot's size is bounded.
    meta = trusted.snapshot.signed.meta if trusted.snapshot is not None else {}
    return [role for name in meta if is_bin(bins, role := name.removesuffix(".json"))]


def find_all(
    trusted: TrustedSet, *, released: bool = True
) -> Generator[RoleRequest, None, list[TargetMatch]]:
    """Resolve every path of every usable role, as ``find_target`` would, sorted by path."""
    roles = yield from walk_roles(trusted)
    found: list[TargetMatch] = []
    for path in sorted({path for role in roles for path in role.signed.targets}):
        match = yield from find_target(trusted, path, optional=True, released=released)
        if match is not None:
            found.append(match)
    return found


def find_digest(
    trusted: TrustedSet, digest: Digest
) -> Generator[RoleRequest, None, TargetMatch | None]:
    """Search for a path that resolves to a digest, itself or as part of a signed index.

    A role may list a digest under a path that another role, asked first, answers otherwise:
    only what a path resolves to counts.

    Raises:
        TabellionError: Nothing resolves to it, and a role that might have couldn't be had.
    """
    roles = yield from walk_roles(trusted)
    paths = {
        path: None
        for role in roles
        for path, target in role.signed.targets.items()
        if names_digest(target, digest)
    }
    for path in paths:
        match = yield from find_target(trusted, path, optional=True)
        if match is not None and names_digest(match.target, digest):
            return match
    for error in trusted.unusable.values():
        raise error
    return None


def signers_of(
    trusted: TrustedSet, match: TargetMatch
) -> Generator[RoleRequest, None, list[TrustedMetadata[Targets]]]:
    """List the roles that vouch for a match; in a Notary GUN the signers beside the release."""
    if trusted.dialect is not NOTARY:
        return [match.role]
    return (yield from find_signers(trusted, match))


def names_digest(target: TargetFile, digest: Digest) -> bool:
    """Tell whether a target is those bytes, or a signed index that lists them."""
    if target.hashes.get(digest.algorithm) == digest.hex:
        return True
    return any(child.get("digest") == str(digest) for child in index_manifests(target))


def index_manifests(target: TargetFile) -> list[dict[str, object]]:
    """List the children of a signed multi-platform index, as its signer recorded them."""
    custom = target.unrecognized_fields.get("custom")
    manifests = custom.get("manifests") if isinstance(custom, dict) else None
    if not isinstance(manifests, list):
        return []
    return [child for child in manifests if isinstance(child, dict)]
