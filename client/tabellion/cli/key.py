"""``tabellion key``: the signing keys of this home folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from tabellion.cli import output
from tabellion.cli.clients import passphrases
from tabellion.cli.context import Options, common_options, settle
from tabellion.core.names import parse_gun
from tabellion.errors import KeyStoreError, PassphraseError

if TYPE_CHECKING:
    from tabellion.publish.key_notes import KeyInfo
    from tabellion.publish.keystore import KeyStore
    from tabellion.publish.private_keys import KeyType

_MAX_PEM_BYTES = 64 * 1024
_ROLES = click.Choice(["root", "targets", "snapshot", "signer"])

_role_option = click.option(
    "--role", type=_ROLES, default="signer", show_default=True, help="What it's for."
)
_gun_option = click.option("--gun", metavar="NAME", help="Only for this GUN (default: any).")
_name_option = click.option("--name", metavar="NAME", default="", help="What to call it.")


@click.group()
def command() -> None:
    """Make, list, import and export signing keys: encrypted PKCS#8 files with mode 0600.

    \b
    Examples:
      tabellion key generate --name alice
      tabellion key export alice > alice.pub
      tabellion key list
    """  # noqa: D301  # \b is click's mark


@command.command("generate")
@_role_option
@click.option(
    "--type",
    "keytype",
    type=click.Choice(["ed25519", "ecdsa", "rsa"]),
    default="ed25519",
    show_default=True,
)
@_gun_option
@_name_option
@common_options
def generate(
    role: str, keytype: Literal["ed25519", "ecdsa", "rsa"], gun: str | None, name: str
) -> None:
    """Make a key and print its id.

    The passphrase comes from TABELLION_ROOT_PASSPHRASE, TABELLION_TARGETS_PASSPHRASE or
    TABELLION_SIGNER_PASSPHRASE, by role; or you're asked.

    \b
    Examples:
      tabellion key generate --name alice
      tabellion key generate --role root --type ecdsa
    """  # noqa: D301  # \b is click's mark
    store = _store()
    passphrase = passphrases().new(role, name)
    info = store.generate(
        role, passphrase=passphrase, keytype=_type(keytype), gun=_gun(gun), name=name
    )
    _answer(info)


@command.command("list")
@click.option("--role", type=_ROLES, help="Only keys for this.")
@_gun_option
@common_options
def list_(role: str | None, gun: str | None) -> None:
    """List the keys here, oldest first.

    \b
    Examples:
      tabellion key list
      tabellion key list --role root --json
    """  # noqa: D301  # \b is click's mark
    found = _store().list(role=role, gun=_gun(gun))
    if Options.of().json:
        output.answer_json([_as_json(info) for info in found])
        return
    if not found:
        output.say("no keys here; make one with: tabellion key generate")
    rows = [
        (
            info.keyid[:16],
            info.role,
            info.keytype,
            info.name or "-",
            info.gun or "any",
            f"{info.created_at:%Y-%m-%d}",
        )
        for info in found
    ]
    output.table(("KEY", "ROLE", "TYPE", "NAME", "GUN", "MADE"), rows)


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_role_option
@_gun_option
@_name_option
@common_options
def import_(file: Path, role: str, gun: str | None, name: str) -> None:
    """Store the private key in FILE (PEM: PKCS#8, PKCS#1 or SEC1), encrypted.

    One passphrase, by role as for generate, opens FILE if it's encrypted and protects it here.

    \b
    Examples:
      tabellion key import old.pem --role targets --gun registry.example/team/app
    """  # noqa: D301  # \b is click's mark
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_PEM_BYTES)
    except OSError as error:
        raise KeyStoreError(
            f"{str(file)!r} can't be read: {error.strerror}", hint="give a PEM file"
        ) from None
    passphrase = passphrases().new(role, name)
    _answer(
        _store().import_(data, role, passphrase=passphrase, gun=_gun(gun), name=name),
    )


@command.command("export")
@click.argument("key")
@click.option("--private", is_flag=True, help="The private part, still encrypted.")
@common_options
def export(key: str, private: bool) -> None:  # noqa: FBT001  # click passes by keyword
    """Write the public part of KEY (id, beginning of it, or name) to stdout, as PEM.

    \b
    Examples:
      tabellion key export alice > alice.pub
      tabellion key export --private 3f1c9a02 > backup.pem
    """  # noqa: D301  # \b is click's mark
    store = _store()
    info = store.find(key)
    pem = store.export(info.keyid, "private" if private else "public").decode("ascii")
    if private:
        output.warn("this is the private key; whoever has it and its passphrase can sign")
    if Options.of().json:
        output.answer_json({"keyid": info.keyid, "name": info.name, "pem": pem})
    else:
        sys.stdout.write(pem)


@command.command("passwd")
@click.argument("key")
@common_options
def passwd(key: str) -> None:
    """Change the passphrase of KEY; the old one as for signing, the new one is asked.

    Without a terminal, the new one comes from TABELLION_NEW_PASSPHRASE.

    \b
    Examples:
      tabellion key passwd alice
    """  # noqa: D301  # \b is click's mark
    import os  # noqa: PLC0415  # only here

    from tabellion.publish.passphrases import check_new  # noqa: PLC0415  # not needed for help

    store = _store()
    info = store.find(key)
    old = passphrases().existing(info.role, info.keyid, info.name)
    store.signer(info.keyid, old)  # a wrong one is told before a new one is asked
    new = os.environ.get("TABELLION_NEW_PASSPHRASE", "")
    if not new and output.can_ask():
        new = output.ask_passphrase("New passphrase", is_new=True)
    if not new:
        raise PassphraseError(
            "no new passphrase and no terminal to ask at", hint="set TABELLION_NEW_PASSPHRASE"
        )
    check_new(new, info.role)
    store.passwd(info.keyid, old, new)
    output.say(f"key {info.keyid[:16]} has a new passphrase")


def _store() -> KeyStore:
    from tabellion.publish.keystore import KeyStore  # noqa: PLC0415  # not needed for help

    return KeyStore(settle().home)


def _gun(text: str | None) -> str | None:
    return None if text is None else parse_gun(text)


def _type(text: Literal["ed25519", "ecdsa", "rsa"]) -> KeyType:
    return text


def _answer(info: KeyInfo) -> None:
    if Options.of().json:
        output.answer_json(_as_json(info))
        return
    output.say(f"{info.role} key ({info.keytype}) in {info.path}")
    output.answer(info.keyid)


def _as_json(info: KeyInfo) -> dict[str, object]:
    return {
        "keyid": info.keyid,
        "fingerprint": info.fingerprint,
        "role": info.role,
        "type": info.keytype,
        "name": info.name,
        "gun": info.gun,
        "created": info.created_at,
        "path": str(info.path),
    }
