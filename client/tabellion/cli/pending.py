"""``tabellion pending``: what the server keeps until enough holders signed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tabellion.cli import output, proposals
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, common_options, settle, trust_options
from tabellion.cli.subject import gun_argument, gun_of
from tabellion.core.names import Gun
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.examining import Examined
    from tabellion.publish.pending_api import AuditRecord, PendingInfo

_SHORT = 16
_gun_option = click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")


@click.group()
def command() -> None:
    """See and withdraw what waits at the server for signatures.

    \b
    Examples:
      tabellion pending list registry.example/team/app
      tabellion pending show registry.example/team/app 3f1c9a02
      tabellion pending withdraw registry.example/team/app 3f1c9a02
      tabellion pending audit registry.example/team/app
    """  # noqa: D301  # \b is click's mark


@command.command("list")
@gun_argument
@common_options
def list_(name: str | None, gun: str | None) -> None:
    """List what is pending for GUN, oldest first; the server's word.

    \b
    Examples:
      tabellion pending list registry.example/team/app
    """  # noqa: D301  # \b is click's mark
    settings, wanted = settle(), gun_of(name, gun)

    async def pending() -> list[PendingInfo]:
        async with publisher(settings) as author:
            return await author.proposals.pending(wanted)

    found = work(pending(), f"reading {wanted}")
    if Options.of().json:
        output.answer_json([_as_json(info) for info in found])
        return
    if not found:
        output.say(f"nothing is pending for {wanted}")
    rows = [
        (
            info.id[:_SHORT],
            " ".join(f"{role}-{version}" for role, version in info.versions.items()),
            "can't be published any more" if info.is_stale else _missing(info),
            info.by or "-",
            f"{info.created_at:%Y-%m-%d %H:%M}",
            f"{info.expires_at:%Y-%m-%d %H:%M}",
        )
        for info in found
    ]
    output.table(("ID", "FILES", "STATE", "BY", "SINCE", "UNTIL"), rows)


@command.command("show")
@click.argument("words", metavar="GUN [ID]", nargs=-1)
@_gun_option
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it there, too.")
@trust_options
@common_options
def show(words: tuple[str, ...], gun: str | None, out: Path | None) -> None:
    """Show what a proposal changes, who has signed it, and who is missing.

    Verified here, against what is current. ID is needed if several are pending. With --out it's
    written for `root sign` on a machine without a network.

    \b
    Examples:
      tabellion pending show registry.example/team/app
      tabellion pending show registry.example/team/app --out release.json
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    wanted, number = _split(words, gun)

    async def examine() -> Examined:
        async with publisher(settings) as author:
            if out is not None:
                return await author.proposals.save(wanted, number, out)
            return await author.proposals.show(wanted, number)

    seen = work(examine(), f"reading {wanted}")
    proposals.show(seen, proposals.key_ring(settings).names())
    proposals.hint_of_snapshot(seen)
    if out is not None:
        output.hint(
            f"away from the network: tabellion root sign {out}, then here: "
            f"tabellion root publish {out}"
        )


@command.command("withdraw")
@click.argument("words", metavar="GUN ID", nargs=-1)
@_gun_option
@common_options
def withdraw(words: tuple[str, ...], gun: str | None) -> None:
    """Drop a proposal: the server doesn't take or publish the same again.

    \b
    Examples:
      tabellion pending withdraw registry.example/team/app 3f1c9a02
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    wanted, number = _split(words, gun)
    if not number:
        raise UsageError("which one is withdrawn?", hint="give GUN ID")

    async def drop() -> str:
        async with publisher(settings) as author:
            return await author.proposals.withdraw(wanted, number)

    dropped = work(drop(), f"withdrawing {number}")
    if Options.of().json:
        output.answer_json({"gun": wanted, "id": dropped})
        return
    output.say(f"proposal {dropped[:_SHORT]} of {wanted} is withdrawn")


@command.command("audit")
@gun_argument
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@common_options
def audit(name: str | None, gun: str | None, limit: int) -> None:
    """Tell what became of the proposals of GUN, newest first; the server's word.

    \b
    Examples:
      tabellion pending audit registry.example/team/app
    """  # noqa: D301  # \b is click's mark
    settings, wanted = settle(), gun_of(name, gun)

    async def read() -> list[AuditRecord]:
        async with publisher(settings) as author:
            return await author.proposals.audit(wanted, limit=limit)

    found = work(read(), f"reading {wanted}")
    if Options.of().json:
        output.answer_json([_record_json(record) for record in found])
        return
    rows = [
        (
            f"{record.at:%Y-%m-%d %H:%M}",
            record.action,
            record.proposal[:_SHORT],
            " ".join(f"{role}-{version}" for role, version in record.versions.items()),
            " ".join(keyid[:_SHORT] for keyid in record.keyids) or "-",
            record.by or "-",
        )
        for record in found
    ]
    output.table(("AT", "WHAT", "ID", "FILES", "KEYS", "BY"), rows)


def _split(words: tuple[str, ...], gun: str | None) -> tuple[Gun, str]:
    name, rest = (None, words) if gun is not None else (words[0] if words else None, words[1:])
    if len(rest) > 1:
        raise UsageError("one proposal at a time", hint="give GUN ID")
    return gun_of(name, gun), rest[0] if rest else ""


def _missing(info: PendingInfo) -> str:
    missing = ", ".join(f"{role}: {count} more" for role, count in info.missing.items())
    # Whatever else were complete would be published.
    return missing or "complete but for the snapshot: its key's holder runs cosign"


def _as_json(info: PendingInfo) -> dict[str, object]:
    return {
        "id": info.id,
        "versions": dict(info.versions),
        "missing": dict(info.missing),
        "stale": info.is_stale,
        "by": info.by,
        "created": info.created_at,
        "until": info.expires_at,
    }


def _record_json(record: AuditRecord) -> dict[str, object]:
    return {
        "at": record.at,
        "action": record.action,
        "id": record.proposal,
        "versions": dict(record.versions),
        "keyids": list(record.keyids),
        "by": record.by,
    }
