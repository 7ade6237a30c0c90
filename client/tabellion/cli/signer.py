"""``tabellion signer``: delegations, each a role with its own keys, paths and threshold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, common_options, settle, trust_options
from tabellion.cli.publishing import no_publish_option, tell
from tabellion.cli.subject import gun_of
from tabellion.errors import KeyStoreError, UsageError

if TYPE_CHECKING:
    from tabellion.publish.outcome import Published, SignerInfo

_gun_option = click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")


@click.group()
def command() -> None:
    """Let others sign parts of a GUN with their own keys.

    \b
    Examples:
      tabellion signer add registry.example/team/app alice alice.pub
      tabellion signer list registry.example/team/app
      tabellion signer remove registry.example/team/app alice
    """  # noqa: D301  # \b is click's mark


@command.command("add")
@click.argument("words", metavar="GUN NAME KEYFILE...", nargs=-1, required=True)
@_gun_option
@click.option("--path", "paths", multiple=True, metavar="PATTERN", help="Tags it may sign (all).")
@click.option("--threshold", type=click.IntRange(1), default=1, help="Keys needed.")
@click.option("--terminating", is_flag=True, help="Ask no later role for its paths.")
@no_publish_option
@trust_options
@common_options
def add(  # noqa: PLR0917  # click passes by keyword
    words: tuple[str, ...],
    gun: str | None,
    paths: tuple[str, ...],
    threshold: int,
    terminating: bool,  # noqa: FBT001  # click passes by keyword
    staged: bool,  # noqa: FBT001  # click passes by keyword
) -> None:
    """Delegate to NAME, whose public keys are in KEYFILEs (PEM, or a key of TUF metadata).

    A signer of that name gets these keys and paths instead of its old ones.

    \b
    Examples:
      tabellion signer add registry.example/team/app alice alice.pub
      tabellion signer add registry.example/team/app qa a.pub b.pub c.pub --threshold 2
      tabellion signer add registry.example/team/app nightly ci.pub --path 'nightly-*'
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    target_gun, (name, *key_files) = _split(words, gun, least=2)
    wanted = gun_of(target_gun, gun)
    from tabellion.publish.public_keys import load_public_key  # noqa: PLC0415  # not for help

    keys = [load_public_key(_read(Path(file)), what=f"key file {file}") for file in key_files]

    async def delegate() -> Published:
        async with publisher(settings) as author:
            return await author.add_signer(
                wanted,
                name,
                keys,
                paths=paths or ("*",),
                threshold=threshold,
                terminating=terminating,
                publish=not staged,
            )

    tell(work(delegate(), f"adding signer {name}"), f"signer {name} may sign", wanted)


@command.command("remove")
@click.argument("words", metavar="GUN NAME", nargs=-1, required=True)
@_gun_option
@no_publish_option
@trust_options
@common_options
def remove(words: tuple[str, ...], gun: str | None, staged: bool) -> None:  # noqa: FBT001
    """Withdraw the delegation to NAME: what only it signed isn't signed any more.

    \b
    Examples:
      tabellion signer remove registry.example/team/app alice
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    target_gun, rest = _split(words, gun, least=1)
    if len(rest) != 1:
        raise UsageError("one signer is removed at a time", hint="give GUN NAME")
    wanted, name = gun_of(target_gun, gun), rest[0]

    async def withdraw() -> Published:
        async with publisher(settings) as author:
            return await author.remove_signer(wanted, name, publish=not staged)

    tell(work(withdraw(), f"removing signer {name}"), f"signer {name} is removed", wanted)


@command.command("list")
@click.argument("name", metavar="GUN", required=False)
@_gun_option
@trust_options
@common_options
def list_(name: str | None, gun: str | None) -> None:
    """List the signers of GUN in the order they are asked.

    \b
    Examples:
      tabellion signer list registry.example/team/app
    """  # noqa: D301  # \b is click's mark
    settings, wanted = settle(), gun_of(name, gun)

    async def signers() -> list[SignerInfo]:
        async with publisher(settings) as author:
            return await author.signers(wanted)

    found = work(signers(), f"reading {wanted}")
    if Options.of().json:
        output.answer_json([_as_json(signer) for signer in found])
        return
    if not found:
        output.say(f"{wanted} has no signers but its targets keys")
    rows = [
        (
            signer.name,
            f"{signer.threshold} of {len(signer.keys)}",
            " ".join(key.keyid[:16] for key in signer.keys),
            " ".join(signer.paths),
            "nothing published" if signer.version is None else f"version {signer.version}",
        )
        for signer in found
    ]
    output.table(("SIGNER", "THRESHOLD", "KEYS", "PATHS", "STATE"), rows)


def _split(words: tuple[str, ...], gun: str | None, *, least: int) -> tuple[str | None, list[str]]:
    head, rest = (None, list(words)) if gun is not None else (words[0], list(words[1:]))
    if len(rest) < least:
        raise UsageError("too few arguments", hint="see: tabellion signer --help")
    return head, rest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyStoreError(
            f"key file {str(path)!r} can't be read: {error.strerror}",
            hint="the signer makes it with: tabellion key export KEY > name.pub",
        ) from None


def _as_json(signer: SignerInfo) -> dict[str, object]:
    return {
        "role": signer.name,
        "threshold": signer.threshold,
        "keyids": [key.keyid for key in signer.keys],
        "paths": list(signer.paths),
        "terminating": signer.terminating,
        "version": signer.version,
        "expires": signer.expires_at,
        "held": list(signer.held),
    }
