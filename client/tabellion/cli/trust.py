"""``tabellion trust``: which roots this home goes by, and why."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click

from tabellion.cli import output
from tabellion.cli.clients import trust_client, work
from tabellion.cli.context import (
    Options,
    Settings,
    common_options,
    offline_option,
    settle,
    trust_options,
)
from tabellion.cli.subject import gun_argument, gun_of, optional_gun_argument
from tabellion.cli.trusted import entry_json, entry_words, root_json, root_lines, rows_of
from tabellion.core.names import Gun, parse_gun
from tabellion.errors import (
    ConfigurationError,
    MalformedMetadataError,
    NotFoundError,
    TransportError,
    UnknownGunError,
    UsageError,
)

if TYPE_CHECKING:
    from tabellion.verify.decisions import Decisions, Replacement, RootInWords
    from tabellion.verify.grounds import Why

_ROOT_OPTION = click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The root file, as its owner handed it out.",
)
_FAR = "not from the server"


@click.group()
def command() -> None:
    """Decide which roots to trust.

    \b
    Examples:
      tabellion trust add registry.example/team/app --root root.json
      tabellion trust add --anchors https://trust.example/registry.example/anchors --root root.json
      tabellion trust show registry.example/team/app
    """  # noqa: D301  # \b is click's mark


@command.command("add")
@optional_gun_argument
@click.option(
    "--anchors", metavar="URL/GUN", help="Trust this anchor collection, for what --for says."
)
@click.option("--for", "patterns", multiple=True, metavar="PATTERN", help="... (everything).")
@_ROOT_OPTION
@click.option("--root-key", metavar="FINGERPRINT", help="Or the fingerprint of a root key.")
@common_options
def add(  # noqa: PLR0917  # click passes by keyword
    name: str | None,
    gun: str | None,
    anchors: str | None,
    patterns: tuple[str, ...],
    root: Path | None,
    root_key: str | None,
) -> None:
    """Pin the root of GUN, by file or by key; or trust a collection of anchors.

    A collection's signers say which root keys each GUN may have. A GUN that it speaks for and has
    no entry of is refused. With --anchors and no URL the collection is on the configured server.
    It's read and verified before it's trusted, if its server can be reached. One trusted already
    keeps its server and --for where they aren't given anew.

    \b
    Examples:
      tabellion trust add registry.example/team/app --root root.json
      tabellion trust add registry.example/team/app --root-key 3f1c...
      tabellion trust add --anchors https://trust.example/registry.example/anchors --root root.json
      tabellion trust add --anchors registry.example/anchors --root root.json \\
        --for 'registry.example/**'
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    if (root is None) == (root_key is None):
        raise UsageError("a root file or a root key is needed", hint="give --root or --root-key")
    if anchors is None:
        if patterns:
            raise UsageError("--for is about a collection", hint="give --anchors URL/GUN too")
        _pin(settings, gun_of(name, gun), root, root_key)
        return
    if name is not None or gun is not None or root is None:
        raise UsageError(
            "a collection is trusted by its root file", hint="give --anchors URL/GUN --root FILE"
        )
    _add_collection(settings, anchors, root, patterns)


@command.command("list")
@common_options
def list_() -> None:
    """List what is pinned, which anchor collections are trusted, and what is kept besides.

    \b
    Examples:
      tabellion trust list
    """  # noqa: D301  # \b is click's mark
    rows = rows_of(settle().home)
    if Options.of().json:
        output.answer_json(rows)
        return
    if not rows:
        output.say("nothing is trusted yet")
    output.table(
        ("GUN", "BY", "ROOT", "KEYS", "SPEAKS FOR", "SERVER"),
        [
            (
                row["gun"],
                row["how"],
                "-" if row["root_version"] is None else f"version {row['root_version']}",
                " ".join(row["root_fingerprints"]),
                " ".join(row["for"]),
                row["server"] or "",
            )
            for row in rows
        ],
    )


@command.command("show")
@gun_argument
@click.option(
    "--root-out", type=click.Path(path_type=Path), metavar="FILE", help="Write the root there."
)
@offline_option
@trust_options
@common_options
def show(name: str | None, gun: str | None, root_out: Path | None) -> None:
    """Verify GUN and show why its root is trusted.

    \b
    Examples:
      tabellion trust show registry.example/team/app
      tabellion trust show registry.example/team/app --root-out root.json
    """  # noqa: D301  # \b is click's mark
    from tabellion.verify.decisions import RootInWords  # noqa: PLC0415  # not needed for help

    settings, wanted = settle(), gun_of(name, gun)
    found = work(_why(settings, wanted), f"reading {wanted}")
    root = RootInWords.of(found.trusted)
    if root_out is not None:
        _write(root_out, found.trusted.root.data)
    if Options.of().json:
        output.answer_json(
            {
                "gun": wanted,
                "pinned": found.pinned,
                "root": root_json(root),
                "anchors": [
                    {"collection": where, **entry_json(anchor)} for where, anchor in found.anchors
                ],
            }
        )
        return
    output.answer(wanted)
    output.answer(f"  trusted by {found.pinned}")
    for line in root_lines(root):
        output.answer(f"  {line}")
    for where, anchor in found.anchors:
        output.answer(f"  anchor {anchor.pattern} of {where}: {entry_words(anchor)}")


@command.command("replace")
@gun_argument
@_ROOT_OPTION
@click.option(
    "--fingerprint",
    metavar="FINGERPRINT",
    help="Of a key that signed the new root, told by its owner: without a terminal it's needed.",
)
@common_options
def replace(name: str | None, gun: str | None, root: Path | None, fingerprint: str | None) -> None:
    """Trust another root of GUN, which the old one doesn't lead to.

    For a GUN whose owner lost root keys and begins anew. Both roots are shown; you are asked, or
    give a fingerprint that the owner told you by another way than the file. What is kept of the
    GUN is forgotten. An anchor collection is named by its GUN.

    \b
    Examples:
      tabellion trust replace registry.example/team/app --root new-root.json
      tabellion trust replace registry.example/team/app --root new-root.json --fingerprint 3f1c...
    """  # noqa: D301  # \b is click's mark
    settings, wanted = settle(), gun_of(name, gun)
    if root is None:
        raise UsageError("the new root file is needed", hint="give --root FILE")
    decisions, data = _decisions(settings), _read(root)
    prepared = decisions.prepare_replacement(wanted, data)
    proof = _proof(prepared, fingerprint)
    work(decisions.replace_root(prepared, proof=proof))
    if Options.of().json:
        output.answer_json(
            {
                "gun": wanted,
                "old": None if prepared.old is None else root_json(prepared.old),
                "new": root_json(prepared.new),
                "proof": proof,
            }
        )
        return
    output.say(f"{wanted} is trusted by root version {prepared.new.version} of {root} now")


@command.command("remove")
@optional_gun_argument
@click.option("--anchors", metavar="GUN", help="Trust this anchor collection no longer.")
@common_options
def remove(name: str | None, gun: str | None, anchors: str | None) -> None:
    """Forget GUN: its pin, and all that is kept of it, rollback memory too.

    The next time it's verified a root has to be given anew. With a collection go all GUNs that were
    first trusted by it.

    \b
    Examples:
      tabellion trust remove registry.example/team/app
      tabellion trust remove --anchors registry.example/anchors
    """  # noqa: D301  # \b is click's mark
    decisions = _decisions(settle())
    forgotten: list[str] = []
    if anchors is not None:
        if name is not None or gun is not None:
            raise UsageError("a GUN and a collection are both given", hint="give one of them")
        wanted = parse_gun(anchors)
        forgotten = [unquote(name) for name in work(decisions.forget_collection(wanted))]
        is_removed = True
    else:
        wanted = gun_of(name, gun)
        is_removed = work(decisions.forget(wanted))
    if Options.of().json:
        output.answer_json({"gun": wanted, "removed": is_removed, "forgotten": forgotten})
        return
    output.say(f"{wanted} is forgotten" if is_removed else f"nothing of {wanted} was trusted")
    for each in forgotten:
        output.say(f"{each}, first trusted by it, is forgotten too")


def _pin(settings: Settings, gun: Gun, root: Path | None, root_key: str | None) -> None:
    decisions = _decisions(settings)
    if root is not None:
        found = decisions.pin_root(gun, _read(root))
        _warn_expired(found)
        what = f"root version {found.version}, keys {', '.join(found.fingerprints)}"
    else:
        what = f"root key {decisions.pin_root_key(gun, str(root_key))}"
    _tell_added(settings, gun, f"{gun} is pinned to {what}")


def _add_collection(settings: Settings, text: str, root: Path, patterns: Sequence[str]) -> None:
    from tabellion.core.gun_patterns import GunPattern  # noqa: PLC0415  # not needed for help
    from tabellion.verify.trust_store import EVERYTHING  # noqa: PLC0415  # same

    said, gun = _collection(text)
    named, data, decisions = (
        tuple(map(GunPattern.parse, patterns)),
        _read(root),
        _decisions(settings),
    )
    decisions.verify_addable(gun, data)
    held = decisions.collection(gun)
    server = said or (held.server if held is not None else settings.server)
    named = named or (held.patterns if held is not None else EVERYTHING)
    holds = _looked_at(settings, server, gun, data)
    found = decisions.add_collection(gun, server, data, named)
    if found.dialect != "tuf":
        output.warn(f"{gun} is a Notary GUN: an anchor collection has to be a tuf one")
    _warn_expired(found)
    words = " ".join(map(str, named))
    if held is not None and held.server != server:
        output.warn(f"{gun} was at {held.server} so far")
    if held is not None and held.patterns != named:
        output.warn(f"{gun} spoke for {' '.join(map(str, held.patterns))} so far")
    what = f"anchors {gun} at {server} speak for {words} from now on"
    _tell_added(settings, gun, what + (f"; {holds}" if holds else ""))


def _looked_at(settings: Settings, server: str, gun: Gun, root: bytes) -> str:
    """Verify a collection before it's trusted, and say what it holds; away, that it wasn't.

    Raises:
        VerificationError: There's none, or it can't be relied upon: all it covers would be refused.
    """
    from tabellion.core.anchors import Anchor  # noqa: PLC0415  # not needed for help
    from tabellion.verify import TrustClient  # noqa: PLC0415  # same

    async def read(home: str) -> tuple[int, int]:
        async with TrustClient(server, home=Path(home), ca=settings.ca, root=root) as trust:
            listing = await trust.targets(gun)
        usable = 0
        for match in listing.targets:
            with contextlib.suppress(MalformedMetadataError):
                usable += bool(Anchor.of_target(match.path, match.target))
        return usable, len(listing.targets) - usable

    try:
        with tempfile.TemporaryDirectory(prefix="tabellion-") as home:  # nothing is kept of it yet
            usable, others = work(read(home), f"reading {gun}")
    except (NotFoundError, UnknownGunError) as error:
        raise UnknownGunError(
            f"{server} holds no anchor collection {gun}",
            hint="nothing was changed; check its address with those who sign it",
        ) from error
    except TransportError as error:
        output.warn(f"the collection wasn't checked: {error.message}")
        return ""
    if others:
        output.warn(f"{others} targets in {gun} are no anchors: see tabellion anchors list")
    return f"it holds {usable} {'entry' if usable == 1 else 'entries'}"


def _collection(text: str) -> tuple[str | None, Gun]:
    """Split an address into server, if there's one, and GUN."""
    if "://" not in text:
        return None, parse_gun(text)
    from tabellion.transport.addresses import server_url_fault  # noqa: PLC0415  # not for help

    fault = server_url_fault(text)
    if fault is not None:
        raise UsageError(fault[0], hint=fault[1])
    parts = urlsplit(text)
    if parts.query or parts.fragment:
        raise UsageError(
            f"{text[:100]!r} isn't a server and a GUN",
            hint="it looks like https://trust.example/registry.example/anchors",
        )
    return f"{parts.scheme}://{parts.netloc}", parse_gun(parts.path.removeprefix("/"))


def _tell_added(settings: Settings, gun: Gun, what: str) -> None:
    if Options.of().json:
        output.answer_json(next(row for row in rows_of(settings.home) if row["gun"] == gun))
        return
    output.say(what)


async def _why(settings: Settings, gun: Gun) -> Why:
    async with trust_client(settings) as trust:
        return await trust.why(gun)


def _decisions(settings: Settings) -> Decisions:
    from tabellion.verify.decisions import Decisions  # noqa: PLC0415  # not needed for help

    return Decisions(settings.home, lambda: datetime.now(UTC))


def _proof(prepared: Replacement, fingerprint: str | None) -> str:
    """Show both roots; give why the new one may be trusted, or refuse."""
    if prepared.old is not None:
        output.say(f"trusted of {prepared.gun} now:")
        for line in root_lines(prepared.old):
            output.say(f"  {line}")
    if prepared.old_key is not None:
        output.say(f"pinned now: root key {prepared.old_key}")
    output.say("new:")
    for line in root_lines(prepared.new):
        output.say(f"  {line}")
    _warn_expired(prepared.new)
    if prepared.is_going_back:
        output.warn("that root was followed by the one trusted now: keys rotated away count again")
    if fingerprint is not None:
        prepared.verify_proof(fingerprint)
        return f"fingerprint {fingerprint}"
    if not output.can_ask():
        raise UsageError(
            "nothing shows that the new root is the owner's",
            hint="give --fingerprint of a key that signed it, told by the owner, " + _FAR,
        )
    if not output.ask_yes("Did the owner tell you the new keys' fingerprints, and are they these?"):
        raise UsageError("nothing was changed", hint="ask the owner for the fingerprints, " + _FAR)
    return "asked at a terminal"


def _warn_expired(root: RootInWords) -> None:
    if root.expires_at <= datetime.now(UTC):
        output.warn(
            f"root version {root.version} expired at {root.expires_at:%Y-%m-%d %H:%M} UTC: it only "
            "leads to a newer one"
        )


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror or error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"root file {str(path)!r} can't be read: {str(error.strerror).lower()}",
            hint="give the root file that the owner handed out",
        ) from None
