"""What the publishing verbs have in common: options, and how an outcome is told."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tabellion.cli import output
from tabellion.cli.context import Options

if TYPE_CHECKING:
    from tabellion.publish.outcome import Published
    from tabellion.publish.still_trusted import StillTrusted

_SHOWN = 8
_BIN = re.compile(r"bin[0-9]+-[0-9a-f]+")

F = TypeVar("F", bound=Callable[..., Any])

no_publish_option = click.option(
    "--no-publish",
    "staged",
    is_flag=True,
    help="Only stage it; `tabellion publish` publishes.",
)
role_option = click.option(
    "--role", metavar="ROLE", help="Sign as this role; by default the one whose key is here."
)


def tell(
    published: Published, what: str, gun: str, *, about: Mapping[str, Any] | None = None
) -> None:
    """Tell what became of a change; the JSON answer holds the same, and what it's about."""
    for target, role in published.shadowed.items():
        if target not in published.signed_as:
            output.warn(
                f"{target} is still signed by {role}, and verifiers take that: {role} withdraws "
                "it, or the holder of the targets key removes the signer"
            )
            continue
        output.warn(
            f"{target} is signed by {role} too, which is asked before "
            f"{published.signed_as[target]}: verifiers see what {role} signed"
        )
    if published.gone_too:
        output.warn(f"nobody asks these any more, either: {', '.join(published.gone_too)}")
    _tell_lost(published)
    _tell_others(published, gun)
    if not published.is_checked:
        output.warn("the server can't be reached: whether it fits is seen when it's published")
    _tell_ending(published, gun)
    if Options.of().json:
        output.answer_json({**(about or {}), **as_json(published)})
        return
    if published.is_staged:
        output.say(f"{what}: staged, not published")
        output.hint(f"publish it: tabellion publish {gun}")
    elif published.incomplete is not None or published.pending:
        _tell_incomplete(published, what, gun)
    elif not published.versions:
        output.say(f"{what}: nothing had to change")
    else:
        versions = _versions(published.versions)
        again = f", at attempt {published.attempts}" if published.attempts > 1 else ""
        output.say(f"{what}: published ({versions}{again})")


def _tell_ending(published: Published, gun: str) -> None:
    if published.overruled:
        output.warn(
            f"the server showed less than was seen here ({published.overruled}): this root makes "
            "all readers forget that; look at what is signed now: "
            f"tabellion list {gun}"
        )
    if published.ending is not None:
        from tabellion.core.expiry import remedy  # noqa: PLC0415  # not needed for help

        ending = published.ending
        is_only = "" if ending.level == "expired" else "is valid only "
        output.warn(
            f"{ending.name} of {gun} {is_only}{output.until(ending.expires_at)}: "
            f"{remedy(ending, gun)}"
        )


def _versions(versions: Mapping[str, int]) -> str:
    """Name what was published; of hash bins, when they are many, only how many."""
    bins = [role for role in versions if _BIN.fullmatch(role)]
    named = versions.keys() - bins if len(versions) > _SHOWN else versions.keys()
    told = [f"{role} version {number}" for role, number in versions.items() if role in named]
    more = [f"{len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    if len(named) < len(versions):
        more.append(f"{len(bins):,} bins")
    return ", ".join([*told[:_SHOWN], *more])


def _tell_incomplete(published: Published, what: str, gun: str) -> None:
    lacks = [f"{role}: {count} more" for role, count in published.missing.items()]
    others = f", and {len(lacks) - _SHOWN} more files" if len(lacks) > _SHOWN else ""
    missing = ", ".join(lacks[:_SHOWN]) + others
    file = published.incomplete
    if not missing and file is not None:
        output.say(f"{what}: enough have signed; nothing published")
        output.hint(f"publish it: tabellion root publish {file}")
    else:
        output.say(f"{what}: signed, but signatures are missing ({missing}); nothing published")
        ways = [f"tabellion cosign {gun if published.pending else file}"]
        # Of a conversion nobody is named, and it's signed only where both of its forms are known.
        if file is not None and published.awaited and "snapshot" not in published.missing:
            ways.append(f"away from the network: tabellion root sign {file}")
        _tell_awaited(published)
        output.hint(f"the next signer runs: {', or '.join(ways)}")
    if published.not_kept:
        output.warn(f"the server doesn't keep it: {published.not_kept}")
    output.answer(str(file) if file is not None else published.pending)


def _tell_awaited(published: Published) -> None:
    """Name who may still sign; roles of the same people, as hash bins are, in one line."""
    roles_of: defaultdict[tuple[int, tuple[str, ...]], list[str]] = defaultdict(list)
    for role, people in published.awaited.items():
        roles_of[published.missing.get(role, 0), tuple(people)].append(role)
    for (count, by), roles in roles_of.items():
        output.say(f"{_some(roles)}: {count} more of {_some(by)}")


def _some(people: Sequence[str]) -> str:
    more = f" and {len(people) - _SHOWN} more" if len(people) > _SHOWN else ""
    return ", ".join(people[:_SHOWN]) + more


def _tell_others(published: Published, gun: str) -> None:
    """Tell of proposals that stand in each other's way."""
    if published.rivals:
        short = ", ".join(number[:16] for number in published.rivals)
        wait = "waits" if len(published.rivals) == 1 else "wait"
        output.warn(
            f"{short} {wait} for signatures with the same version: only one can be published"
        )
        output.hint(
            f"see it: tabellion pending show {gun} {published.rivals[0][:16]}; withdraw one, or "
            "have one signed and make the other anew"
        )
    for number in published.outdated:
        output.warn(
            f"proposal {number[:16]}, which waited for signatures, can't be published any more: "
            "make it anew"
        )


def _tell_lost(published: Published) -> None:
    """Tell what else follows from a change of signers."""
    gone = [target for target, role in published.lost.items() if not role]
    if gone:
        output.warn(f"not signed any more: {' '.join(gone)}")
        output.hint("sign them as the owner, or let another signer sign them, if they should be")
    for target, role in published.lost.items():
        if role:
            output.warn(f"{target} is now what {role} signed, which is something else")
    warn_still_trusted(published.still_trusted, published.gun)
    for role in published.silent:
        output.warn(
            f"{role} signed with another key before, and is heard when it signs again: with "
            "tabellion; docker and notary can't go on from there, they need a signer of a new name"
        )


def warn_still_trusted(roles: Sequence[StillTrusted], gun: str) -> None:
    """Tell where a signer's key has a say still."""
    for each in roles:
        output.warn(f"that signer's key is a key of {each.role}, too, and stays trusted there")
        output.hint(f"if it was stolen: {each.remedy(gun)}")


def as_json(published: Published) -> dict[str, Any]:
    """Give an outcome."""
    if published.is_staged:
        state = "staged"
    else:
        is_whole = published.incomplete is None and not published.pending
        state = "published" if is_whole else "incomplete"
    return {
        "gun": published.gun,
        "state": state,
        "checked": published.is_checked,
        "versions": dict(published.versions),
        "attempts": published.attempts,
        "incomplete": str(published.incomplete) if published.incomplete else None,
        "pending": published.pending or None,
        "missing": dict(published.missing),
        "awaited": {role: list(people) for role, people in published.awaited.items()},
        "lost": dict(published.lost),
        "silent": list(published.silent),
        "shadowed": dict(published.shadowed),
        "still_trusted": {each.role: each.keyid for each in published.still_trusted},
        "gone_too": list(published.gone_too),
        "own_bins": published.own_bins,
        "rivals": list(published.rivals),
        "outdated": list(published.outdated),
    }
