"""What a Notary GUN becomes in TUF: payloads to be signed, and what to tell of them.

What docker took for signed stays the answer to every name, and nobody may say more than before:

* ``targets/releases`` was asked before ``targets``; TUF asks ``targets`` first. So ``targets``
  leaves out what ``releases`` answers, and ``releases`` comes first among the delegations.
* Under docker's rule no other role's word was ever an answer. One goes on only if its keys could
  have released the same names; of what it lists, only what is released as well.
* Beginnings of names become patterns. A pattern has a fixed number of parts between slashes, so
  there's one for each number of parts up to that of the longest name that the role lists.

Spec: notary-v1 sections 9 and 11; TUF 1.0.34, 4.5 and 5.6.7.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Role, Root, TargetFile, Targets

from tabellion.core.conversion import plain_key, plain_root_keys, tuf_name
from tabellion.core.dialect import TUF
from tabellion.core.notary_search import RELEASES
from tabellion.core.roles import (
    KNOWN_SCHEMES,
    check_path_pattern,
    check_role_name,
    check_target_path,
    delegated_roles,
    key_material,
    role_keys,
)
from tabellion.errors import InvalidNameError, MalformedMetadataError, UsageError
from tabellion.publish.state import Current


@dataclass(frozen=True)
class ConvertedRole:
    """A targets role as it goes on.

    Attributes:
        was: Its name in Notary.
        name: Its name in TUF.
        delegator: Who delegates to it, by its name in TUF.
        keys: Its keys, by their ids in TUF.
        threshold: How many of them sign.
        patterns: What it may sign; empty for ``targets``.
        payload: What it says, under its next version; whoever signs it gives it an expiry.
    """

    was: str
    name: str
    delegator: str
    keys: Mapping[str, Key]
    threshold: int
    patterns: tuple[str, ...]
    payload: Targets


@dataclass
class ConversionPlan:
    """All that is to be signed, and what is left behind.

    Attributes:
        gun: The Notary GUN.
        root_keys: Keys of the root role, by their ids in TUF.
        root_threshold: How many of them sign.
        roles: Targets roles by their names in TUF, delegators first.
        left_out: Delegated role, by its name in Notary, to why it doesn't go on.
        unsaid: (role in Notary, target) of what a role says no longer, as it was no answer.
        moved: (role in Notary, target) of what ``targets`` says in the role's place.
    """

    gun: str
    root_keys: Mapping[str, Key]
    root_threshold: int
    roles: dict[str, ConvertedRole] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unsaid: list[tuple[str, str]] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)

    def root(self, online: Mapping[str, Key]) -> Root:
        """Give the root, with version 1, that names the server's ``online`` keys beside these.

        Raises:
            UsageError: The server offers a key of somebody who signs releases.
        """
        targets = self.roles["targets"]
        given = {
            "root": (self.root_threshold, self.root_keys.values()),
            "targets": (targets.threshold, targets.keys.values()),
            **{role: (1, [key]) for role, key in online.items()},
        }
        people = [*self.root_keys.values()]
        people += [key for role in self.roles.values() for key in role.keys.values()]
        material = {key_material(key) for key in people}
        for role, key in online.items():
            if key_material(key) in material:
                raise UsageError(
                    f"the server offers {key.keyid[:12]} as its own {role} key, which is a key "
                    f"of {self.gun}'s people",
                    hint="ask its operator; nothing was signed",
                )
        root = Root(roles={role: Role([], number) for role, (number, _) in given.items()}, keys={})
        for role, (_, keys) in given.items():
            for each in keys:
                root.add_key(each, role)
        return root


def plan_conversion(current: Current, *, vouch: Collection[str] = ()) -> ConversionPlan:
    """Plan what a Notary GUN becomes.

    Args:
        current: Its verified state.
        vouch: Delegated roles whose word the owner gives instead, by either name.

    Raises:
        UsageError: A role, key, target or path can't be had in TUF, or there's no such role.
    """
    root_keys = plain_root_keys(current.root, current.gun)
    _check_keys("root", root_keys, current.root.roles["root"].threshold)
    plan = ConversionPlan(current.gun, root_keys, current.root.roles["root"].threshold)
    vouched = {_notary_name(name, current) for name in vouch}
    answers = released_answers(current)
    owner = current.roles["targets"].signed
    payload = Targets(version=current.version_of("targets") + 1, expires=current.root.expires)
    own = {path: target for path, (target, role) in answers.items() if role == "targets"}
    payload.targets = dict(_kept(plan, "targets", owner, own))
    for role in vouched:
        said = current.roles[role].signed.targets if role in current.roles else {}
        for path, (target, by) in answers.items():
            if by == role:
                payload.targets[path] = copy.deepcopy(target)
                plan.moved.append((role, path))
        plan.left_out[role] = "you vouch for what it says; it can be added again as a signer"
        plan.unsaid += [(role, path) for path in said if answers.get(path, ("", ""))[1] != role]
    keys, entry = _plain_keys("targets", *role_keys(current.root, "targets"))
    plan.roles["targets"] = ConvertedRole(
        "targets", "targets", "root", keys, entry.threshold, (), payload
    )
    _check_targets("targets", payload)
    _plan_delegations(plan, current, "targets", vouched, answers)
    return plan


def released_answers(current: Current) -> dict[str, tuple[TargetFile, str]]:
    """Give docker's answer to every name: the target, and the role that says it."""
    owner = current.roles["targets"].signed
    found = {path: (target, "targets") for path, target in owner.targets.items()}
    for child in delegated_roles(owner):
        if child.name == RELEASES and RELEASES in current.roles:
            said = current.roles[RELEASES].signed.targets
            found |= {
                path: (target, RELEASES)
                for path, target in said.items()
                if child.is_delegated_path(path)
            }
    return found


def patterns_for(paths: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """Give patterns for beginnings of names, for no more parts than the longest of ``names`` has.

    Raises:
        InvalidNameError: A beginning can't be written so that every client reads it alike.
    """
    found: dict[str, None] = {}
    for path in paths:
        if "*" in path or "?" in path:
            raise InvalidNameError(f"the path {path[:80]!r} would be read as a pattern")
        parts = max((name.count("/") for name in names), default=0) - path.count("/")
        for more in range(max(parts, 0) + 1):
            pattern = f"{path}*" + "/*" * more
            check_path_pattern(pattern)
            found[pattern] = None
    return tuple(found)


def _plan_delegations(
    plan: ConversionPlan,
    current: Current,
    parent: str,
    vouched: Collection[str],
    answers: Mapping[str, tuple[TargetFile, str]],
) -> None:
    """Take over what a role delegates to, and what that delegates to in turn."""
    file = current.roles.get(parent)
    children = delegated_roles(file.signed) if file is not None else []
    taken: list[ConvertedRole] = []
    for child in sorted(children, key=lambda role: role.name != RELEASES):
        reason = _reason_to_leave(current, child)
        if child.name in vouched or reason:
            plan.left_out.setdefault(child.name, reason)
            _leave_below(plan, current, child.name)
            continue
        taken.append(_converted(plan, current, child, parent, answers))
    if not taken:
        return
    delegations = Delegations({}, {})
    assert delegations.roles is not None  # noqa: S101  (just made; for the type checker)
    for role in taken:
        plan.roles[role.name] = role
        delegations.keys.update(role.keys)
        delegations.roles[role.name] = TUF.delegated_role(
            role.name, list(role.keys), role.threshold, paths=role.patterns
        )
    plan.roles[tuf_name(parent)].payload.delegations = delegations
    for role in taken:
        _plan_delegations(plan, current, role.was, vouched, answers)


def _leave_below(plan: ConversionPlan, current: Current, role: str) -> None:
    for child in delegated_roles(current.roles[role].signed) if role in current.roles else ():
        plan.left_out[child.name] = f"{role}, which delegates to it, doesn't go on"
        _leave_below(plan, current, child.name)


def _converted(
    plan: ConversionPlan,
    current: Current,
    child: DelegatedRole,
    parent: str,
    answers: Mapping[str, tuple[TargetFile, str]],
) -> ConvertedRole:
    name = tuf_name(child.name)
    hint = f"its word can be given by you: --vouch {name}"
    file = current.roles.get(child.name)
    signed = file.signed if file is not None else Targets()
    allowed = {
        path: target
        for path, (target, role) in answers.items()
        if child.is_delegated_path(path) and (child.name != RELEASES or role == RELEASES)
    }
    version = file.version + 1 if file is not None else 1
    payload = Targets(version=version, expires=current.root.expires)
    payload.targets = dict(_kept(plan, child.name, signed, allowed))
    _check_targets(child.name, payload)
    delegator = current.roles[parent].signed
    keys, entry = _plain_keys(child.name, *role_keys(delegator, child.name))
    try:
        check_role_name(name)
        patterns = patterns_for(child.paths or [], payload.targets)
    except InvalidNameError as error:
        raise UsageError(f"{child.name} can't go on in TUF: {error.message}", hint=hint) from error
    return ConvertedRole(
        child.name, name, tuf_name(parent), keys, entry.threshold, patterns, payload
    )


def _kept(
    plan: ConversionPlan, role: str, signed: Targets, allowed: Mapping[str, TargetFile]
) -> Iterator[tuple[str, TargetFile]]:
    """Give what a role goes on saying, and note what it doesn't."""
    for path, target in signed.targets.items():
        answer = allowed.get(path)
        same = answer is not None and (answer.hashes, answer.length) == (
            target.hashes,
            target.length,
        )
        if same:
            yield path, copy.deepcopy(target)
        else:
            plan.unsaid.append((role, path))


def _reason_to_leave(current: Current, child: DelegatedRole) -> str:
    """Say why a role can't go on without saying more than before; empty if it can."""
    if not child.paths:
        return "it may sign nothing"
    owner = current.roles["targets"].signed
    delegator = current.roles[child.name.rpartition("/")[0]].signed
    theirs = _materials(*role_keys(delegator, child.name))
    if len(theirs) < child.threshold:
        return f"it needs {child.threshold} keys and has {len(theirs)}: nobody can sign it"
    speakers = [(role_keys(current.root, "targets"), [""])]
    speakers += [
        (role_keys(owner, RELEASES), role.paths or [])
        for role in delegated_roles(owner)
        if role.name == RELEASES
    ]
    for (keys, entry), paths in speakers:
        others = len(theirs - _materials(keys, entry))
        if child.threshold - others >= entry.threshold and all(
            path.startswith(tuple(paths)) for path in child.paths
        ):
            return ""
    return (
        "what it alone signed was no answer to docker, but would be one in TUF; if it may "
        "release, add it as a signer"
    )


def _materials(keys: Mapping[str, Key], entry: Role) -> set[bytes]:
    return {key_material(keys[keyid]) for keyid in entry.keyids if keyid in keys}


def _plain_keys(role: str, keys: Mapping[str, Key], entry: Role) -> tuple[dict[str, Key], Role]:
    try:
        plain = [plain_key(keys[keyid]) for keyid in entry.keyids]
    except MalformedMetadataError as error:
        raise UsageError(f"{role}: {error.message}", hint=_hint_for(role)) from error
    found = {key.keyid: key for key in plain}
    _check_keys(role, found, entry.threshold)
    return found, entry


def _check_keys(role: str, keys: Mapping[str, Key], threshold: int) -> None:
    for key in keys.values():
        if (key.keytype, key.scheme) not in KNOWN_SCHEMES:
            raise UsageError(
                f"key {key.keyid[:12]} of {role} is of the kind {key.scheme[:30]}, which not all "
                "TUF clients read",
                hint=_hint_for(role),
            )
    if len(keys) < threshold:
        raise UsageError(
            f"{role} needs {threshold} keys and has {len(keys)} that are usable",
            hint=_hint_for(role),
        )


def _hint_for(role: str) -> str:
    if role in {"root", "targets"}:
        return f"give it another key first: tabellion rotate GUN {role}"
    return f"its word can be given by you: --vouch {tuf_name(role)}"


def _check_targets(role: str, payload: Targets) -> None:
    hint = "revoke it or sign it anew, then convert"
    for path, target in payload.targets.items():
        try:
            check_target_path(path)
        except InvalidNameError as error:
            raise UsageError(f"{role}: {error.message}", hint=hint) from error
        custom = target.unrecognized_fields.get("custom", {})
        if "sha256" not in target.hashes or not isinstance(custom, dict):
            what = "no sha256" if "sha256" not in target.hashes else "a custom that is no object"
            raise UsageError(f"{role} gives {path[:80]!r} {what}, as TUF demands", hint=hint)


def _notary_name(name: str, current: Current) -> str:
    role = name if name.startswith("targets/") else f"targets/{name}"
    if role not in current.delegators:
        known = ", ".join(tuf_name(each) for each in current.delegators if each != "targets")
        raise UsageError(
            f"{current.gun} has no delegated role {name[:80]!r}", hint=f"it has: {known or 'none'}"
        )
    return role
