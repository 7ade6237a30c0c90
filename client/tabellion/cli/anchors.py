"""``tabellion anchors``: the entries of an anchor collection, signed like any target."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, trust_client, work
from tabellion.cli.context import Options, Settings, common_options, settle, trust_options
from tabellion.cli.publishing import no_publish_option, role_option, tell
from tabellion.cli.trusted import entry_json, entry_words
from tabellion.core.names import Gun, parse_gun
from tabellion.errors import (
    ConfigurationError,
    MalformedMetadataError,
    NotSignedError,
    UsageError,
)

if TYPE_CHECKING:
    from tabellion.core.anchors import Anchor
    from tabellion.core.gun_patterns import GunPattern
    from tabellion.core.role_requests import TargetMatch
    from tabellion.publish.outcome import Published

_FINGERPRINT = re.compile(r"(?:sha256:)?[0-9a-fA-F]{64}")
_DAYS = re.compile(r"([0-9]{1,5})d")
_GUN_OPTION = click.option(
    "--gun", metavar="NAME", required=True, help="The collection: a GUN made with tabellion init."
)


@click.group()
def command() -> None:
    """Say which root keys a GUN may have, for all who trust this collection of anchors.

    \b
    Examples:
      tabellion init --gun registry.example/anchors --root-out anchors-root.json
      tabellion anchors set --gun registry.example/anchors 'registry.example/team/*' root.json
      tabellion anchors list --gun registry.example/anchors
      tabellion anchors revoke --gun registry.example/anchors registry.example/team/old
    """  # noqa: D301  # \b is click's mark


@command.command("set")
@click.argument("pattern")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@_GUN_OPTION
@click.option("--threshold", type=click.IntRange(1), help="Signatures by different ones of them.")
@click.option("--expires", metavar="DATE", help="2027-11-27, with a time, or 365d from now.")
@click.option("--comment", default="", metavar="TEXT", help="Signed beside it, for people.")
@role_option
@no_publish_option
@trust_options
@common_options
def set_(  # noqa: PLR0917  # click passes by keyword
    pattern: str,
    keys: tuple[str, ...],
    gun: str,
    threshold: int | None,
    expires: str | None,
    comment: str,
    role: str | None,
    staged: bool,  # noqa: FBT001  # click passes by keyword
) -> None:
    """Allow GUNs that match PATTERN the root keys KEY.

    PATTERN is a GUN, or a beginning of GUNs and /* (one more part) or /** (one or more); of
    several that match the most specific speaks alone. KEY is a fingerprint, a public key file, or
    a root file: all its root keys, with its threshold.

    \b
    Examples:
      tabellion anchors set --gun registry.example/anchors registry.example/team/app root.json
      tabellion anchors set --gun registry.example/anchors 'registry.example/**' 3f1c... \\
        --expires 365d
    """  # noqa: D301  # \b is click's mark
    from tabellion.core.anchors import Anchor  # noqa: PLC0415  # not needed for help

    settings, made_for = settle(), _pattern(pattern)
    prints, needed = _keys(keys, threshold)
    try:
        made = Anchor(made_for, prints, needed, _moment(expires), comment)
    except MalformedMetadataError as error:
        raise UsageError(error.message, hint="see: tabellion anchors set --help") from error
    _publish(settings, parse_gun(gun), made, role=role, staged=staged)


@command.command("revoke")
@click.argument("pattern")
@_GUN_OPTION
@role_option
@no_publish_option
@trust_options
@common_options
def revoke(pattern: str, gun: str, role: str | None, staged: bool) -> None:  # noqa: FBT001
    """Let no root of GUNs that match PATTERN pass any more, whatever less specific entries say.

    Who reads the collection refuses them: the command line at once, a program that stays within a
    minute, and whoever is kept from the new collection when the old one expires.

    \b
    Examples:
      tabellion anchors revoke --gun registry.example/anchors registry.example/team/app
    """  # noqa: D301  # \b is click's mark
    from tabellion.core.anchors import Anchor  # noqa: PLC0415  # not needed for help

    made = Anchor(_pattern(pattern), is_revoked=True)
    _publish(settle(), parse_gun(gun), made, role=role, staged=staged)


@command.command("remove")
@click.argument("pattern")
@_GUN_OPTION
@role_option
@no_publish_option
@trust_options
@common_options
def remove(pattern: str, gun: str, role: str | None, staged: bool) -> None:  # noqa: FBT001
    """Take the entry for PATTERN away: a less specific one speaks then, or the GUNs are refused.

    \b
    Examples:
      tabellion anchors remove --gun registry.example/anchors 'registry.example/team/*'
    """  # noqa: D301  # \b is click's mark
    settings, wanted, collection = settle(), _pattern(pattern), parse_gun(gun)

    async def withdraw() -> Published:
        async with publisher(settings) as author:
            try:
                return await author.revoke(collection, wanted.path, role=role, publish=not staged)
            except NotSignedError as error:
                by = "" if role is None else f" by {role[:80]}"
                raise NotSignedError(
                    f"{collection} has no entry for {wanted}{by}",
                    hint=f"see: tabellion anchors list --gun {collection}",
                ) from error

    published = work(withdraw(), f"removing {wanted}")
    tell(published, f"{wanted} has no entry", collection, about={"pattern": str(wanted)})


@command.command("list")
@_GUN_OPTION
@trust_options
@common_options
def list_(gun: str) -> None:
    """List the entries of a collection, verified.

    \b
    Examples:
      tabellion anchors list --gun registry.example/anchors
    """  # noqa: D301  # \b is click's mark
    settings, collection = settle(), parse_gun(gun)
    entries = [_read(match) for match in work(_matches(settings, collection))]
    if Options.of().json:
        output.answer_json([_as_json(*entry) for entry in entries])
        return
    if not entries:
        output.say(f"{collection} has no entry")
    rows = [
        (
            match.path if anchor is None else anchor.pattern,
            fault if anchor is None else entry_words(anchor),
            match.role.role,
            "" if anchor is None else anchor.comment,
        )
        for match, anchor, fault in entries
    ]
    output.table(("PATTERN", "ALLOWS", "SIGNED BY", "COMMENT"), rows)


def _publish(settings: Settings, gun: Gun, made: Anchor, *, role: str | None, staged: bool) -> None:
    from tabellion.core.anchors import MEMBER  # noqa: PLC0415  # not needed for help
    from tabellion.core.names import Digest  # noqa: PLC0415  # same

    data = made.to_bytes()

    async def sign() -> Published:
        async with publisher(settings) as author:
            return await author.sign(
                gun,
                made.pattern.path,
                Digest.of(data),
                len(data),
                custom={MEMBER: made.content()},
                role=role,
                publish=not staged,
            )

    published = work(sign(), f"signing {made.pattern}")
    if made.pattern.wild:
        _warn_of_more_specific(settings, gun, made.pattern)
    tell(published, f"{made.pattern}: {entry_words(made)}", gun, about=entry_json(made))


def _warn_of_more_specific(settings: Settings, gun: Gun, pattern: GunPattern) -> None:
    """Tell which entries go on speaking for some of the GUNs that a pattern covers."""
    others = [anchor for _, anchor, _ in map(_read, work(_matches(settings, gun)))]
    narrower = [
        str(other.pattern)
        for other in others
        if other is not None and pattern.gives_way_to(other.pattern)
    ]
    if narrower:
        output.warn(f"more specific entries speak for theirs: {' '.join(narrower)[:500]}")


async def _matches(settings: Settings, gun: Gun) -> Sequence[TargetMatch]:
    async with trust_client(settings) as trust:
        listing = await trust.targets(gun)
    for error in listing.left_out:
        output.warn(f"left out: {error.message}")
    return listing.targets


def _read(match: TargetMatch) -> tuple[TargetMatch, Anchor | None, str]:
    from tabellion.core.anchors import Anchor  # noqa: PLC0415  # not needed for help

    try:
        return match, Anchor.of_target(match.path, match.target), ""
    except MalformedMetadataError as error:
        return match, None, error.message


def _as_json(match: TargetMatch, anchor: Anchor | None, fault: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("pattern", "root_keys", "threshold", "expires", "comment", "revoked"))
    content = nothing if anchor is None else entry_json(anchor)
    return {**content, "target": match.path, "role": match.role.role, "fault": fault or None}


def _pattern(text: str) -> GunPattern:
    from tabellion.core.gun_patterns import GunPattern  # noqa: PLC0415  # not needed for help

    return GunPattern.parse(text)


def _keys(words: Sequence[str], threshold: int | None) -> tuple[frozenset[str], int]:
    """Give the fingerprints that are meant, and the threshold."""
    found: set[str] = set()
    said: list[int] = []
    for word in words:
        keys, needed = _key(word)
        found |= keys
        said.append(needed)
    if threshold is not None:
        return frozenset(found), threshold
    if len(said) == 1:
        return frozenset(found), said[0]
    raise UsageError(
        f"{len(found)} keys are given, and not how many have to sign",
        hint="give --threshold; fewer than the roots' own lets a thief of that many keys through",
    )


def _key(word: str) -> tuple[frozenset[str], int]:
    from tabellion.core.anchors import keys_of_root  # noqa: PLC0415  # not needed for help
    from tabellion.core.fingerprints import parse_fingerprint  # noqa: PLC0415  # same
    from tabellion.publish.public_keys import fingerprint_of, load_public_key  # noqa: PLC0415

    if _FINGERPRINT.fullmatch(word):
        return frozenset({parse_fingerprint(word)}), 1
    try:
        data = Path(word).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{word[:80]!r} is no fingerprint, nor a file that can be read: "
            f"{str(error.strerror).lower()}",
            hint="give the 64 hex digits that tabellion init printed, or a root or key file",
        ) from None
    if b'"signed"' in data:
        return keys_of_root(data)
    return frozenset({fingerprint_of(load_public_key(data, what=f"key file {word}"))}), 1


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    days = _DAYS.fullmatch(text)
    try:
        at = now + timedelta(days=int(days[1])) if days else datetime.fromisoformat(text)
        at = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        at = now
    if at <= now:
        raise UsageError(
            f"--expires {text[:40]!r} isn't a moment to come", hint="write 2027-11-27, or 365d"
        )
    return at
