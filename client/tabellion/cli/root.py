"""``tabellion root``: ceremonies, by which several holders change a root."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tabellion.cli import output, proposals
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle, trust_options
from tabellion.cli.proposals import asker, is_file, key_ring, yes_option
from tabellion.cli.publishing import tell
from tabellion.cli.subject import gun_argument, gun_of
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.examining import Examined
    from tabellion.publish.outcome import Published

_ROLES = ("root", "targets", "snapshot", "timestamp")


@click.group()
def command() -> None:
    """Change who may sign a GUN, with as many holders as the root's threshold says.

    \b
    Examples:
      tabellion root prepare registry.example/team/app --add-key dan.pub=Dan --threshold 2
      tabellion root show registry.example/team/app
      tabellion root sign registry.example/team/app
    \b
    With a holder whose machine has no network:
      tabellion root prepare registry.example/team/app --threshold 2 --out root.json
      tabellion root sign root.json
      tabellion root publish root.json
    """  # noqa: D301  # \b is click's mark


@command.command("prepare")
@gun_argument
@click.option("--role", type=click.Choice(_ROLES), default="root", help="What KEY and N are for.")
@click.option("--add-key", "added", multiple=True, metavar="[ROLE:]KEY[=HOLDER]",
              help="A key here, or another's public key file.")  # fmt: skip
@click.option("--remove-key", "removed", multiple=True, metavar="ID", help="From every role.")
@click.option("--threshold", "thresholds", multiple=True, metavar="[ROLE:]N", help="Keys needed.")
@click.option("--expires", metavar="DAYS|DATE", help="Such as 365d or 2031-01-31.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it there only.")
@yes_option
@trust_options
@common_options
def prepare(  # noqa: PLR0917  # click passes by keyword
    name: str | None,
    gun: str | None,
    role: str,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    thresholds: tuple[str, ...],
    expires: str | None,
    out: Path | None,
    yes: bool,  # noqa: FBT001  # an option
) -> None:
    """Propose the next root of GUN, signed by the root keys that are here, if any.

    The server keeps it until enough of the old and of the new root's keys signed, then publishes
    it; with --out it's a file for `root sign`. Without changes it renews the root. What changes is
    told first; at a terminal you are asked.

    \b
    Examples:
      tabellion root prepare registry.example/team/app --add-key dan.pub=Dan --threshold 2
      tabellion root prepare registry.example/team/app --remove-key 3f1c9a02 --out root.json
      tabellion root prepare registry.example/team/app --role targets --add-key eve.pub
    """  # noqa: D301  # \b is click's mark
    settings, wanted = settle(), gun_of(name, gun)
    keys: dict[str, list[str]] = {}
    for text in added:
        place, key = _role_of(text, role)
        keys.setdefault(place, []).append(key)
    needed = {place: _count(number) for place, number in (_role_of(t, role) for t in thresholds)}
    life = None if expires is None else _life(expires, datetime.now(UTC))

    async def propose() -> Published:
        async with publisher(settings) as author:
            return await author.proposals.prepare_root(
                wanted,
                added=keys,
                removed=removed,
                thresholds=needed,
                life=life,
                out=out,
                show=asker(yes or not output.can_ask()),
            )

    tell(work(propose(), f"preparing a root of {wanted}"), f"the next root of {wanted}", wanted)


@command.command("show")
@click.argument("words", metavar="GUN|FILE [ID]", nargs=-1)
@click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")
@trust_options
@common_options
def show(words: tuple[str, ...], gun: str | None) -> None:
    """Show what a proposal changes against the trusted root, and who has signed it.

    A FILE is read without a network.

    \b
    Examples:
      tabellion root show registry.example/team/app
      tabellion root show root.json
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    file = is_file(words[0]) if gun is None and len(words) == 1 else None
    if file is not None:
        from tabellion.publish.offline import examine_file  # noqa: PLC0415  # not for help

        ring = key_ring(settings)
        seen = examine_file(file, ring, home=settings.home, root=_given(settings))
        proposals.show(seen, ring.names())
        return
    name, rest = (None, words) if gun is not None else (words[0] if words else None, words[1:])
    wanted = gun_of(name, gun)

    async def examine() -> Examined:
        async with publisher(settings) as author:
            return await author.proposals.show(wanted, *rest[:1])

    seen = work(examine(), f"reading {wanted}")
    proposals.show(seen, key_ring(settings).names())
    proposals.hint_of_snapshot(seen)


@command.command("sign")
@click.argument("words", metavar="GUN|FILE [ID]", nargs=-1)
@click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Else FILE itself.")
@yes_option
@trust_options
@common_options
def sign(words: tuple[str, ...], gun: str | None, out: Path | None, yes: bool) -> None:  # noqa: FBT001
    """Sign a proposal with the keys here, after telling what it changes.

    A FILE is signed without any network: what it changes is told against the root that this
    machine trusts, or --root FILE. Of a GUN, what the server keeps is signed, and published if
    that's enough.

    \b
    Examples:
      tabellion root sign registry.example/team/app
      tabellion root sign root.json --yes
      tabellion root sign root.json --out signed.json --root trusted-root.json
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    file = is_file(words[0]) if gun is None and len(words) == 1 else None
    if file is not None:
        _sign_file(settings, file, out or file, yes=yes)
        return
    if out is not None:
        raise UsageError("--out is for a FILE", hint="leave it out")
    name, rest = (None, words) if gun is not None else (words[0] if words else None, words[1:])
    wanted = gun_of(name, gun)

    async def cosign() -> Published:
        async with publisher(settings) as author:
            return await author.proposals.cosign(wanted, *rest[:1], show=asker(yes))

    tell(work(cosign(), f"signing for {wanted}"), f"the proposal for {wanted}", wanted)


@command.command("publish")
@click.argument("file", type=click.Path(path_type=Path))
@trust_options
@common_options
def publish(file: Path) -> None:
    """Hand FILE to the server: published if enough signed, else kept there for the others.

    \b
    Examples:
      tabellion root publish root.json
    """  # noqa: D301  # \b is click's mark
    settings = settle()

    async def hand_over() -> Published:
        async with publisher(settings) as author:
            return await author.proposals.publish_file(file)

    published = work(hand_over(), f"publishing {file}")
    tell(published, f"the proposal for {published.gun}", published.gun)


@command.command("certificate")
@click.argument("words", metavar="GUN KEY", nargs=-1, required=True)
@click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")
@common_options
def certificate(words: tuple[str, ...], gun: str | None) -> None:
    """Print a certificate of the root key KEY for GUN, which docker's and notary's clients want.

    A Notary root lists its keys so; whoever prepares the root gets it from you.

    \b
    Examples:
      tabellion root certificate registry.example/team/app dan > dan.crt
    """  # noqa: D301  # \b is click's mark
    import base64  # noqa: PLC0415  # only here

    from tabellion.publish.certificates import root_certificate  # noqa: PLC0415  # not for help

    settings = settle()
    name, rest = (None, words) if gun is not None else (words[0], words[1:])
    if len(rest) != 1:
        raise UsageError("a GUN and one key are needed", hint="give GUN KEY")
    wanted, ring = gun_of(name, gun), key_ring(settings)
    private = ring.private(ring.keystore.find(rest[0]))
    key = root_certificate(private, wanted, now=datetime.now(UTC))
    pem = base64.b64decode(key.keyval["public"]).decode("ascii")
    if Options.of().json:
        output.answer_json({"gun": wanted, "keyid": key.keyid, "pem": pem})
    else:
        sys.stdout.write(pem)


def _sign_file(settings: Settings, file: Path, out: Path, *, yes: bool) -> None:
    from tabellion.publish.offline import sign_file  # noqa: PLC0415  # not needed for help
    from tabellion.publish.words import standing_in_words  # noqa: PLC0415

    ring = key_ring(settings)
    seen = sign_file(
        file, ring, home=settings.home, root=_given(settings), out=out, show=asker(yes)
    )
    missing = seen.proposal.missing(seen.current)
    if Options.of().json:
        proposals.show(seen, ring.names())
        return
    for standing in seen.proposal.standings(seen.current):
        output.say(standing_in_words(standing, names=ring.names()))
    to_do = "the next holder signs it too" if missing else "enough have signed"
    output.hint(f"{to_do}; then: tabellion root publish {out}")
    output.answer(str(out))


def _given(settings: Settings) -> bytes | None:
    try:
        return None if settings.root is None else settings.root.read_bytes()
    except OSError as error:
        raise UsageError(f"{settings.root} can't be read: {error.strerror}") from error


def _role_of(text: str, default: str) -> tuple[str, str]:
    role, mark, rest = text.partition(":")
    return (role, rest) if mark and role in _ROLES else (default, text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) < 1000:  # noqa: PLR2004
        raise UsageError(f"threshold {text[:40]!r} isn't a number above 0", hint="such as 2")
    return int(text)


def _life(text: str, now: datetime) -> timedelta:
    days = text.removesuffix("d")
    if days != text and days.isascii() and days.isdigit() and 0 < len(days) < 6:  # noqa: PLR2004
        return timedelta(days=int(days))
    try:
        at = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        at = now
    if at <= now:
        raise UsageError(
            f"--expires {text[:40]!r} is neither days nor a date to come",
            hint="such as 365d or 2031-01-31",
        )
    return at - now
