"""Which role speaks for a target of a Notary GUN.

Spec: notary-v1 sections 9 (lookup) and 11 (docker's rule).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Final

from tuf.api.metadata import Targets

from tabellion.core.metadata import TrustedMetadata
from tabellion.core.role_requests import RoleRequest, TargetMatch, is_published, load_role
from tabellion.core.roles import delegated_roles
from tabellion.core.trusted_set import TrustedSet

RELEASES: Final = "targets/releases"

Search = Generator[RoleRequest, None, TargetMatch | None]


def find_released(trusted: TrustedSet, path: str, *, optional: bool = False) -> Search:
    """Search as docker does: ``targets/releases``, then ``targets``, and nobody else.

    A release role that never published is passed over; one that can't be had or trusted is an
    error, as the owner's older word must not stand in for it.
    """
    targets = yield from load_role(trusted, RoleRequest("targets", "root", optional))
    if targets is None:
        return None
    for child in delegated_roles(targets.signed):
        if child.name != RELEASES or not child.is_delegated_path(path):
            continue
        if not is_published(trusted, RELEASES):
            continue
        releases = yield from load_role(trusted, RoleRequest(RELEASES, "targets", optional))
        if releases is None:
            return None
        if path in releases.signed.targets:
            return TargetMatch(path, releases.signed.targets[path], releases, "targets")
    target = targets.signed.targets.get(path)
    return None if target is None else TargetMatch(path, target, targets, "root")


def released_by(path: str, targets: Targets) -> Iterator[str]:
    """List the roles that docker asks for a path, in order."""
    for child in delegated_roles(targets):
        if child.name == RELEASES and child.is_delegated_path(path):
            yield RELEASES
    yield "targets"


def find_in_tree(trusted: TrustedSet, path: str, *, optional: bool = False) -> Search:
    """Search as notary does: breadth first from ``targets``, each role within its paths."""
    pending: deque[tuple[RoleRequest, Sequence[str]]] = deque()
    pending.append((RoleRequest("targets", "root", optional), [""]))
    visits = 0
    while pending and visits <= trusted.limits.delegations:
        request, allowed = pending.popleft()
        visits += 1
        role = yield from load_role(trusted, request)
        if role is None:
            return None
        if path in role.signed.targets:
            return TargetMatch(path, role.signed.targets[path], role, request.delegator)
        for child in delegated_roles(role.signed):
            # A path counts only within what the delegator itself may sign.
            paths = [item for item in child.paths or () if item.startswith(tuple(allowed))]
            if path.startswith(tuple(paths)) and is_published(trusted, child.name):
                pending.append((RoleRequest(child.name, request.role, optional), paths))
    return None


def find_signers(
    trusted: TrustedSet, match: TargetMatch
) -> Generator[RoleRequest, None, list[TrustedMetadata[Targets]]]:
    """List who vouches for a match: its role, and each signer that signed the same bytes.

    Those are the roles right below ``targets``, as docker names them; one that can't be had or
    trusted vouches for nothing.
    """
    found = [match.role]
    targets = yield from load_role(trusted, RoleRequest("targets", "root"))
    for child in delegated_roles(targets.signed) if targets is not None else ():
        if child.name == match.role.role or not is_published(trusted, child.name):
            continue
        if not child.is_delegated_path(match.path):
            continue
        signer = yield from load_role(trusted, RoleRequest(child.name, "targets", optional=True))
        said = signer.signed.targets.get(match.path) if signer is not None else None
        if signer is not None and said is not None and said.hashes == match.target.hashes:
            found.append(signer)
    return found
