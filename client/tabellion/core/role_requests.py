"""What a search asks for while it runs, and what it finds."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from tuf.api.metadata import TargetFile, Targets

from tabellion.core.metadata import TrustedMetadata
from tabellion.core.trusted_set import TrustedSet


@dataclass(frozen=True, slots=True)
class RoleRequest:
    """A role that the search needs, and the delegator that led to it.

    Attributes:
        role: Name of the role.
        delegator: The role that led to it.
        optional: If its file can't be had or trusted, ``TrustedSet.note_unusable`` is enough.
        beside: Roles that are asked for in this order, this one among them: whoever fetches may
            fetch a few at once.
    """

    role: str
    delegator: str
    optional: bool = False
    beside: Sequence[str] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class TargetMatch:
    """Who signed what under a path.

    Attributes:
        path: Target path.
        target: Length, hashes and custom.
        role: The role that signed it.
        delegated_by: The role that delegated to it, ``root`` for top-level targets.
    """

    path: str
    target: TargetFile
    role: TrustedMetadata[Targets]
    delegated_by: str


def is_published(trusted: TrustedSet, role: str) -> bool:
    """Tell whether the snapshot lists a role."""
    return trusted.snapshot is not None and f"{role}.json" in trusted.snapshot.signed.meta


def load_role(
    trusted: TrustedSet, request: RoleRequest
) -> Generator[RoleRequest, None, TrustedMetadata[Targets] | None]:
    """Ask for a role unless it's there; None if it's optional and can't be had."""
    edge = request.delegator, request.role
    if trusted.role(request.role, request.delegator) is None and not (
        request.optional and edge in trusted.unusable
    ):
        yield request
    role = trusted.role(request.role, request.delegator)
    if role is None and not (request.optional and edge in trusted.unusable):
        raise RuntimeError(f"role {request.role} wasn't loaded before the search went on")
    return role
