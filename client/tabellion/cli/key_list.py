"""``tabellion key list``: what is known of each key, for people and scripts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.context import Options, common_options, settle
from tabellion.core.names import parse_gun

if TYPE_CHECKING:
    from datetime import datetime

    from tabellion.publish.key_notes import KeyInfo
    from tabellion.publish.key_uses import KeyUse

ROLES = click.Choice(["root", "targets", "snapshot", "signer"])


@click.command("list")
@click.option("--role", type=ROLES, help="Only keys for this.")
@click.option("--gun", metavar="NAME", help="Only for this GUN (default: any).")
@common_options
def list_(role: str | None, gun: str | None) -> None:
    """List the keys here, oldest first.

    Of each: its id, by which metadata and this command line name it; its fingerprint, which
    --root-key and others ask for; its canonical id, by which Notary and docker know it; where it
    is; when it was used last from here, for what, and for how many roles more. Without a terminal,
    a line each. A warning tells what others may read.

    \b
    Examples:
      tabellion key list
      tabellion key list --role root --json
    """  # noqa: D301  # \b is click's mark
    from tabellion.publish.keystore import KeyStore  # noqa: PLC0415  # not needed for help

    store = KeyStore(settle().home)
    found = store.list(role=role, gun=None if gun is None else parse_gun(gun))
    for path, mode, wanted in store.exposed():
        output.warn(f"{path} has mode {mode:04o}: others may read it: chmod {wanted:o} {path}")
    if Options.of().json:
        output.answer_json([as_json(info) for info in found])
    elif not found:
        output.say("no keys here; make one with: tabellion key generate")
    elif sys.stdout.isatty():
        for info in found:
            _show(info)
    else:
        output.table((), [_row(info) for info in found])


def _show(info: KeyInfo) -> None:
    """Print a key as a block that fits 80 columns, but for long names."""
    name = f"{info.name}: " if info.name else ""
    output.answer(
        f"{name}{info.role} key ({info.keytype}) for {info.gun or 'any GUN'}, "
        f"made {info.created_at:%Y-%m-%d}"
    )
    output.answer(f"  id           {info.keyid}")
    output.answer(f"  fingerprint  {info.fingerprint}")
    output.answer(f"  canonical    {info.canonical_id}")
    if info.uri is not None:
        output.answer(f"  at           {info.uri}")
    at, what = _use(info)
    output.answer("  used         never from here" if at == "-" else f"  used         {at}, {what}")


def _row(info: KeyInfo) -> tuple[str, ...]:
    """Give a key's columns for scripts; new ones come last."""
    return (
        info.keyid[:16],
        info.role,
        info.keytype,
        info.name or "-",
        info.gun or "any",
        f"{info.created_at:%Y-%m-%d}",
        info.canonical_id,
        info.uri or "file",
        *_use(info),
        info.fingerprint,
    )


def _use(info: KeyInfo) -> tuple[str, str]:
    """Tell when a key was used last, and for what."""
    uses = _uses(info)
    if not uses:
        return "-", "-"
    more = f" (+{len(uses) - 1})" if len(uses) > 1 else ""
    return f"{uses[0].at:%Y-%m-%d}", f"{uses[0].role} of {uses[0].gun}{more}"


def _uses(info: KeyInfo) -> tuple[KeyUse, ...]:
    from tabellion.publish.key_uses import KeyUses  # noqa: PLC0415  # not needed for help

    return KeyUses(info.path.parent).read(info.keyid)


def as_json(info: KeyInfo) -> dict[str, object]:
    """Give all that is known of a key."""
    uses = _uses(info)
    signed_for: dict[str, dict[str, datetime]] = {}
    for use in uses:
        signed_for.setdefault(use.gun, {})[use.role] = use.at
    return {
        "keyid": info.keyid,
        "canonical_id": info.canonical_id,
        "fingerprint": info.fingerprint,
        "role": info.role,
        "type": info.keytype,
        "name": info.name,
        "gun": info.gun,
        "created": info.created_at,
        "path": str(info.path),
        "uri": info.uri,
        "last_used": uses[0].at if uses else None,
        "signed_for": signed_for,
    }
