"""A GUN's targets roles as they would be after a publication: is each signed, and found?

Spec: TUF 1.0.34, 4.5 and 5.6.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tuf.api.metadata import Root, SuccinctRoles, TargetFile, Targets

from tabellion.core.bins import bins_of, is_bin
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.roles import delegated_roles, role_keys, roles_asked, verify_threshold
from tabellion.errors import ConflictError, RefusedPublicationError, ThresholdError


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
                its new keys, a target lies outside its role's paths or behind a silent role, or a
                bin is missing or delegates further.
            ThresholdError: A new file isn't signed by its role's keys.
            ConflictError: Bins were published to, or replaced, since they were read.
        """
        self._verify_bins()
        self._verify_names()
        reached = self._verify_signatures()
        for role in self.new:
            if role not in reached:
                if role in self.current and bins_of(self._signed("targets")) is not None:
                    raise ConflictError(
                        f"{role} was a bin, until others took its place", versions={}
                    )
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

    def _verify_bins(self) -> None:
        """Refuse bins that a search would end in without an answer, or go on from."""
        bins = bins_of(self._signed("targets"))
        if bins is None:
            return
        for role, item in self.new.items():
            if is_bin(bins, role) and item.signed.delegations is not None:
                raise RefusedPublicationError(
                    f"{role} is a bin, and delegates further",
                    rule="bin-delegates",
                    role=role,
                    hint="a bin only lists targets",
                )
        if "targets" not in self.new:
            return
        self._verify_moved(bins)
        for name in bins.get_roles():
            if name not in self.new and name not in self.current:
                raise RefusedPublicationError(
                    f"targets delegates to {bins.number_of_bins} bins, but {name} isn't there",
                    rule="missing-bin",
                    role=name,
                    hint="publish all bins with the targets that delegate to them, empty ones too",
                )

    def _verify_moved(self, bins: SuccinctRoles) -> None:
        """Refuse other bins that don't hold the very targets which the old ones hold now.

        Nothing else tells that a bin was published to after somebody read it to fill the new ones.
        """
        held = self.current.get("targets")
        old = bins_of(held.signed) if held is not None else None
        if held is None or old is None or set(old.get_roles()) == set(bins.get_roles()):
            return
        before = {**self._listed(self.current, old), **held.signed.targets}
        after = {**self._listed(self.new, bins), **self.new["targets"].signed.targets}
        if before != after:
            raise ConflictError(
                "the new bins don't hold the targets that the old ones hold now",
                versions={"targets": held.version},
            )

    @staticmethod
    def _listed(
        files: Mapping[str, UnverifiedMetadata[Any]], bins: SuccinctRoles
    ) -> dict[str, TargetFile]:
        found: dict[str, TargetFile] = {}
        for name in bins.get_roles():
            if name in files:
                found |= files[name].signed.targets
        return found

    def _verify_names(self) -> None:
        """Refuse a new delegation to a name that another role delegates to.

        Both delegators' keys would have to sign its file: whoever comes second would silence a
        role that isn't theirs.
        """
        if bins_of(self._signed("targets")) is not None:
            return  # nobody else delegates then
        delegators: dict[str, set[str]] = {}
        for by in {*self.current, *self.new}:
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
            pending.extend((child, item) for child in self._children_to_verify(item))
        return reached

    def _children_to_verify(self, item: UnverifiedMetadata[Targets]) -> Iterable[str]:
        bins = bins_of(item.signed)
        if bins is None:
            return [child.name for child in delegated_roles(item.signed)]
        held = self.current.get(item.role)
        if held is not None and held.signed.delegations == item.signed.delegations:
            # Bins that stay were verified against the very same keys when they came: to read
            # thousands of them again for each publication is what bins are there to avoid.
            return [role for role in self.new if is_bin(bins, role)]
        return bins.get_roles()

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
