"""A GUN's targets roles as they would be after a publication: is each signed, and found?

Spec: TUF 1.0.34, 4.5 and 5.6.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tuf.api.metadata import Root, Targets

from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.roles import delegated_roles, role_keys, roles_asked, verify_threshold
from tabellion.errors import RefusedPublicationError, ThresholdError


@dataclass(frozen=True)
class TargetsTree:
    """What would be served.

    Attributes:
        root: The root in force afterwards.
        new: Targets roles of the publication, by name.
        current: Files served now, by role; those in ``new`` replace theirs.
        visits: Roles that a client's search visits at most.
    """

    root: UnverifiedMetadata[Root]
    new: Mapping[str, UnverifiedMetadata[Targets]]
    current: Mapping[str, UnverifiedMetadata[Any]]
    visits: int

    def verify(self) -> None:
        """Refuse what some client would have to refuse, or would never find.

        Raises:
            RefusedPublicationError: A role has no delegator, a role that stays isn't signed by
                its new keys, or a target lies outside its role's paths or behind a silent role.
            ThresholdError: A new file isn't signed by its role's keys.
        """
        self._verify_names()
        reached = self._verify_signatures()
        for role in self.new:
            if role not in reached:
                raise RefusedPublicationError(
                    f"nothing delegates to role {role[:80]!r}",
                    rule="unknown-role",
                    role=role,
                    hint="the holder of the targets key adds it: tabellion signer add GUN NAME",
                )
        # A changed search may come to a silent role before one that has published.
        rearranged = any(self._is_rearranged(item) for item in self.new.values())
        for role in (reached if rearranged else reached.intersection(self.new)) - {"targets"}:
            self._verify_paths(role)

    def _role(self, role: str) -> UnverifiedMetadata[Targets] | None:
        return self.new.get(role) or self.current.get(role)

    def _signed(self, role: str) -> Targets | None:
        item = self._role(role)
        return item.signed if item is not None else None

    def _is_rearranged(self, item: UnverifiedMetadata[Targets]) -> bool:
        """Tell whether searches may go another way through a delegator than before."""
        if item.signed.delegations is None:
            return False
        held = self.current.get(item.role)
        if held is None or held.signed.delegations != item.signed.delegations:
            return True
        # What it answered for itself is now looked for below it.
        return not held.signed.targets.keys() <= item.signed.targets.keys()

    def _verify_names(self) -> None:
        """Refuse a new delegation to a name that another role delegates to.

        Both delegators' keys would have to sign its file: whoever comes second would silence a
        role that isn't theirs.
        """
        delegators: dict[str, set[str]] = {}
        for by in {**self.current, **self.new}:
            item = self._role(by)
            if item is not None and isinstance(item.signed, Targets):
                for child in delegated_roles(item.signed):
                    delegators.setdefault(child.name, set()).add(by)
        for by, item in self.new.items():
            held = self.current.get(by)
            known = {child.name for child in delegated_roles(held.signed)} if held else set()
            for child in delegated_roles(item.signed):
                others = delegators[child.name] - {by}
                if others and child.name not in known:
                    raise RefusedPublicationError(
                        f"{by} delegates to {child.name}, as {min(others)} does",
                        rule="role-delegated-twice",
                        role=by,
                        hint="choose another name for the role",
                    )

    def _verify_signatures(self) -> set[str]:
        """Verify every reachable role against every delegator that leads to it.

        So that a change of keys never leaves a file behind that readers must refuse.
        """
        reached: set[str] = set()
        pending: list[tuple[str, UnverifiedMetadata[Any]]] = [("targets", self.root)]
        while pending:
            role, delegator = pending.pop()
            item = self._role(role)
            if item is None:
                continue
            self._verify_delegate(item, delegator)
            if role in reached:
                continue
            reached.add(role)
            pending.extend((child.name, item) for child in delegated_roles(item.signed))
        return reached

    def _verify_delegate(
        self, item: UnverifiedMetadata[Targets], delegator: UnverifiedMetadata[Any]
    ) -> None:
        try:
            verify_signed_by(item, delegator, item.role)
        except ThresholdError as error:
            if item.role in self.new:
                raise
            raise RefusedPublicationError(
                f"{item.role} version {item.version}, which stays, isn't signed by its new keys",
                rule="orphaned-role",
                role=item.role,
                hint=f"publish {item.role} re-signed by the new keys in the same publication",
            ) from error

    def _verify_paths(self, role: str) -> None:
        """Refuse a target that no delegation to its role covers: no client would find it (A15)."""
        item = self._role(role)
        for path in item.signed.targets if item is not None else ():
            blocking = self._search_block(role, path)
            if blocking is None:
                continue
            if blocking == "" and role not in self.new:
                continue  # the delegator narrowed the paths of what stays: that is its right
            if blocking == "":
                raise RefusedPublicationError(
                    f"{role} isn't delegated the target path {path[:80]!r}",
                    rule="path-not-delegated",
                    role=role,
                    hint="the delegation's paths decide what a role may sign",
                )
            raise RefusedPublicationError(
                f"{path[:80]!r} of {role} would never be found: {blocking}, asked before it, has "
                "published nothing yet",
                rule="unreachable-target",
                role=role,
                hint=f"the signer of {blocking} publishes once, or the targets key's holder lists "
                f"{blocking} behind {role}",
            )

    def _search_block(self, role: str, path: str) -> str | None:
        """Walk as a client does: None if ``role`` is reached, a blocking role, or ''."""
        for visits, name in enumerate(roles_asked(path, self._signed)):
            if visits > self.visits:
                break
            if name == role:
                return None
            signed = self._signed(name)
            if signed is None:
                return name
            if path in signed.targets:
                return None  # an earlier role answers for it: lawful, that is what order is for
        return ""


def verify_signed_by(
    item: UnverifiedMetadata[Any], delegator: UnverifiedMetadata[Any], role: str
) -> None:
    """Count a file's signatures by the keys that a delegator lists for a role.

    Raises:
        ThresholdError: Too few.
    """
    keys, entry = role_keys(cast("Root | Targets", delegator.signed), role)
    verify_threshold(item, role, keys, entry.keyids, entry.threshold)
