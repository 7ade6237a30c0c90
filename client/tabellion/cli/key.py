"""``tabellion key``: the signing keys of this home folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from tabellion.cli import output
from tabellion.cli.clients import passphrases
from tabellion.cli.context import Options, common_options, settle
from tabellion.cli.key_backup import backup, restore
from tabellion.cli.key_list import ROLES, as_json, list_
from tabellion.core.names import parse_gun
from tabellion.errors import KeyStoreError, PassphraseError, UsageError

if TYPE_CHECKING:
    from tabellion.publish.key_notes import KeyInfo
    from tabellion.publish.keystore import KeyStore
    from tabellion.publish.notary_folder import FoundKey, NotaryKeyFolder
    from tabellion.publish.notary_transfer import ImportedKey, KeyTransfer
    from tabellion.publish.private_keys import KeyType

_role_option = click.option(
    "--role", type=ROLES, default="signer", show_default=True, help="What it's for."
)
_gun_option = click.option("--gun", metavar="NAME", help="Only for this GUN (default: any).")
_name_option = click.option("--name", metavar="NAME", default="", help="What to call it.")
_notary_option = click.option(
    "--notary",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Notary's folder, such as ~/.notary.",
)
_docker_option = click.option(
    "--docker", is_flag=True, help="Docker's folder: $DOCKER_CONFIG/trust or ~/.docker/trust."
)


@click.group()
def command() -> None:
    """Make, list, import, export and back up signing keys: encrypted files with mode 0600.

    Keys of Notary and docker come in and go back with --notary and --docker.

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
    _answer_new(info)


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@_notary_option
@_docker_option
@click.option("--role", type=ROLES, help="What it's for (default: what FILE says, or signer).")
@click.option("--gun", metavar="NAME", help="Only for this GUN (default: what FILE says, or any).")
@_name_option
@common_options
def import_(
    *,
    file: Path | None,
    notary: Path | None,
    docker: bool,
    role: str | None,
    gun: str | None,
    name: str,
) -> None:
    """Store the private keys in FILE, or all of Notary's or docker's, encrypted.

    FILE is PEM: PKCS#8, PKCS#1, SEC1, or what notary key export writes. The passphrase that opens
    a key is looked for in NOTARY_ROOT_PASSPHRASE, NOTARY_TARGETS_PASSPHRASE,
    NOTARY_SNAPSHOT_PASSPHRASE or NOTARY_DELEGATION_PASSPHRASE, then in
    DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE or DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE, then where
    generate looks; or you're asked. If generate would find one, that one protects the key here,
    else the one that opened it. All keys are stored or, if one can't be opened, none.

    \b
    Examples:
      tabellion key import old.pem --role targets --gun registry.example/team/app
      tabellion key import --notary ~/.notary
      tabellion key import --docker
    """  # noqa: D301  # \b is click's mark
    if (file is not None) + (notary is not None) + docker != 1:
        raise UsageError(
            "keys come from one place", hint="give FILE, --notary DIR or --docker, one of them"
        )
    if file is None and (role or gun or name):
        raise UsageError(
            "the keys of a folder say themselves what they are for",
            hint="for --role, --gun and --name give one FILE",
        )
    found = _found(file, notary)
    if name and len(found) > 1:
        raise UsageError(f"{file} holds {len(found)} keys, a name is for one", hint="leave --name")
    done = _transfer().take(found, role=role, gun=_gun(gun), name=name)
    if file is not None and len(done) == 1 and not done[0].is_new:
        info = done[0].info
        raise KeyStoreError(f"key {info.keyid[:12]} is here already: {info.where}")
    if Options.of().json and file is not None and len(done) == 1:
        output.answer_json(as_json(done[0].info))
    elif Options.of().json:
        output.answer_json([as_json(key.info) for key in done])
    else:
        for key in done:
            _tell(key.info, "in" if key.is_new else "is here already:")
        _tell_passphrases(done)


@command.command("add")
@click.argument("uri")
@click.option("--role", type=ROLES, default="signer", show_default=True, help="What it's for.")
@_gun_option
@_name_option
@common_options
def add(uri: str, role: str, gun: str | None, name: str) -> None:
    """Note a key that a token, a key management service or GnuPG holds, and print its id.

    It never leaves there: whatever it signs is sent there. URI is one of hsm:ID?label=TOKEN,
    hv:NAME, gnupg:FINGERPRINT, awskms:KEY, gcpkms:projects/..., azurekms://VAULT.../keys/NAME; of a
    key with versions, the newest is noted. A token's PIN comes from TABELLION_PIN or its _FILE, or
    you're asked; a wrong one is tried once.

    \b
    Examples:
      tabellion key add 'hsm:2?label=YubiKey PIV' --name alice
      tabellion key add hv:release --role targets --gun registry.example/team/app
    """  # noqa: D301  # \b is click's mark
    from tabellion.signers.registry import RemoteSigners  # noqa: PLC0415  # not needed for help

    found = RemoteSigners(passphrases().pin).find(uri)
    info = _store().refer(found.key, found.uri, role, gun=_gun(gun), name=name)
    _answer_new(info)


@command.command("export")
@click.argument("key")
@click.option("--private", is_flag=True, help="The private part, still encrypted.")
@_notary_option
@_docker_option
@click.option("--gun", metavar="NAME", help="With --notary or --docker: the GUN it's for.")
@common_options
def export(
    *,
    key: str,
    private: bool,
    notary: Path | None,
    docker: bool,
    gun: str | None,
) -> None:
    """Write the public part of KEY (id, beginning of it, or name) to stdout, as PEM.

    With --notary or --docker, write its private part into that folder instead and print the file's
    name; notary and docker then sign with it. It's protected by the passphrase that the tool's own
    variable holds (NOTARY_..., DOCKER_CONTENT_TRUST_..., as for import), else by the same as here.

    \b
    Examples:
      tabellion key export alice > alice.pub
      tabellion key export --private 3f1c9a02 > backup.pem
      tabellion key export alice --docker
    """  # noqa: D301  # \b is click's mark
    into = [notary is not None, docker, private]
    if sum(into) > 1:
        raise UsageError("a key goes to one place", hint="give --private, --notary or --docker")
    store = _store()
    info = store.find(key)
    if notary is not None or docker:
        path = _transfer().give(
            info, _folder(notary), "docker" if docker else "notary", gun=_gun(gun)
        )
        if Options.of().json:
            output.answer_json(as_json(info) | {"path": str(path)})
        else:
            output.answer(str(path))
        return
    if gun:
        raise UsageError("--gun is for --notary and --docker", hint="leave it")
    pem = store.export(info.keyid, "private" if private else "public").decode("ascii")
    if private:
        output.warn("this is the private key; whoever has it and its passphrase can sign")
    if Options.of().json:
        output.answer_json({"keyid": info.keyid, "name": info.name, "pem": pem})
    else:
        sys.stdout.write(pem)


@command.command("passwd")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@common_options
def passwd(keys: tuple[str, ...]) -> None:
    """Give KEYs another passphrase; the old ones as for signing, the new one is asked once.

    All are opened before the first is changed. Without a terminal, the new one comes from
    TABELLION_NEW_PASSPHRASE.

    \b
    Examples:
      tabellion key passwd alice
      tabellion key passwd 3f1c9a02 8f8e53f7 alice
    """  # noqa: D301  # \b is click's mark
    import os  # noqa: PLC0415  # only here

    from tabellion.publish.keystore import check_is_here  # noqa: PLC0415  # not needed for help
    from tabellion.publish.passphrases import check_new  # noqa: PLC0415

    store, secrets = _store(), passphrases()
    found = {info.keyid: info for info in map(store.find, keys)}
    for info in found.values():
        check_is_here(info)
    old = {keyid: secrets.existing(i.role, keyid, i.name) for keyid, i in found.items()}
    for keyid, passphrase in old.items():  # a wrong one is told before a new one is asked
        store.signer(keyid, passphrase)
    new = os.environ.get("TABELLION_NEW_PASSPHRASE", "")
    if not new and output.can_ask():
        new = output.ask_passphrase("New passphrase", is_new=True)
    if not new:
        raise PassphraseError(
            "no new passphrase and no terminal to ask at", hint="set TABELLION_NEW_PASSPHRASE"
        )
    for info in found.values():
        check_new(new, info.role)
    for keyid, passphrase in old.items():
        store.passwd(keyid, passphrase, new)
        output.say(f"key {keyid[:16]} has a new passphrase")


command.add_command(list_)
command.add_command(backup)
command.add_command(restore)


def _store() -> KeyStore:
    from tabellion.publish.keystore import KeyStore  # noqa: PLC0415  # not needed for help

    return KeyStore(settle().home)


def _transfer() -> KeyTransfer:
    from tabellion.publish.notary_transfer import KeyTransfer  # noqa: PLC0415  # not for help

    return KeyTransfer(_store(), passphrases())


def _folder(notary: Path | None) -> NotaryKeyFolder:
    """Give Notary's folder, or docker's if none is named."""
    from tabellion.publish.notary_folder import (  # noqa: PLC0415  # not needed for help
        docker_folder,
        notary_folder,
    )

    return docker_folder() if notary is None else notary_folder(notary)


def _found(file: Path | None, notary: Path | None) -> list[FoundKey]:
    """Find the keys of a file, or of a folder but for those that are a server's."""
    from tabellion.publish.notary_folder import read_key_file  # noqa: PLC0415  # not for help

    if file is not None:
        return read_key_file(file)
    folder = _folder(notary)
    found = folder.keys()
    if not found:
        raise KeyStoreError(f"no keys in {folder.private}", hint="check the folder's name")
    kept = [key for key in found if key.role != "timestamp"]
    for key in found:
        if key not in kept:
            output.warn(f"{key.path} is a server's timestamp key; it stays there")
    return kept


def _gun(text: str | None) -> str | None:
    return None if text is None else parse_gun(text)


def _type(text: Literal["ed25519", "ecdsa", "rsa"]) -> KeyType:
    return text


def _answer_new(info: KeyInfo) -> None:
    if Options.of().json:
        output.answer_json(as_json(info))
        return
    output.say(f"fingerprint {info.fingerprint}")
    _tell(info, "in" if info.uri is None else "at")


def _tell(info: KeyInfo, where: str) -> None:
    output.say(f"{info.role} key ({info.keytype}) {where} {info.where}")
    output.answer(info.keyid)


def _tell_passphrases(done: Sequence[ImportedKey]) -> None:
    """Say which variable opens what was imported from now on: no longer the other tool's."""
    from tabellion.publish.passphrases import variable_of  # noqa: PLC0415  # not needed for help

    kept = sorted({variable_of(key.info.role) for key in done if key.keeps_passphrase})
    if kept:
        output.hint(
            "they keep the passphrases that opened them; signing asks, or takes them from "
            f"{', '.join(kept)}. One for all keys of a kind: tabellion key passwd KEY"
        )
