"""``tabellion key backup`` and ``key restore``: all keys of a home folder in one encrypted file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import passphrases
from tabellion.cli.context import Options, common_options, settle
from tabellion.errors import PassphraseError

if TYPE_CHECKING:
    from tabellion.publish.key_backup import Restored
    from tabellion.publish.keystore import KeyStore

_OUTCOMES = {
    "restored": "restored",
    "here": "is here already",
    "differs": "is here already with another passphrase or note, which stays",
}


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@common_options
def backup(file: Path, keys: tuple[str, ...]) -> None:
    """Write all keys, or just KEYs, into the new FILE, encrypted as a whole.

    Of keys in tokens, key management services or GnuPG, only where they are is noted in it. Within,
    each key stays under its own passphrase. The backup's comes from TABELLION_BACKUP_PASSPHRASE, or
    the file that TABELLION_BACKUP_PASSPHRASE_FILE names; or you're asked. Keep FILE where this
    machine's fate doesn't reach it, and try restore --dry-run on it.

    \b
    Examples:
      tabellion key backup /media/stick/keys-2026-11-27
      tabellion key backup root-key 3f1c9a02
    """  # noqa: D301  # \b is click's mark
    from tabellion.publish.key_backup import back_up  # noqa: PLC0415  # not needed for help
    from tabellion.publish.keystore import check_is_here  # noqa: PLC0415  # same

    store = _store()
    found = {i.keyid: i for i in ([store.find(key) for key in keys] if keys else store.list())}
    if keys:
        for info in found.values():
            check_is_here(info)
    back_up(store, list(found.values()), file, _passphrase(is_new=True))
    elsewhere = {keyid: info.uri for keyid, info in found.items() if info.uri is not None}
    if Options.of().json:
        kept = [keyid for keyid in found if keyid not in elsewhere]
        output.answer_json({"file": str(file), "keyids": kept, "elsewhere": elsewhere})
        return
    count = len(found) - len(elsewhere)
    output.say(f"{count} key{'' if count == 1 else 's'} in {file}")
    for keyid, uri in elsewhere.items():
        output.warn(f"key {found[keyid].name or keyid[:16]} can't leave {uri}: only that is noted")


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only tell what would be done.")
@common_options
def restore(file: Path, is_dry_run: bool) -> None:  # noqa: FBT001  # click passes by keyword
    """Put the keys in FILE into the key store; nothing that is there is overwritten.

    \b
    Examples:
      tabellion key restore --dry-run keys-2026-11-27
      tabellion key restore keys-2026-11-27
    """  # noqa: D301  # \b is click's mark
    from tabellion.publish import key_backup  # noqa: PLC0415  # not needed for help

    done = key_backup.restore(_store(), file, _passphrase(is_new=False), is_dry_run=is_dry_run)
    for each in done:
        if each.shares_name and each.outcome == "restored":
            output.warn(f"another key is called {each.info.name!r} too: use their ids")
    if Options.of().json:
        output.answer_json([_as_json(each) for each in done])
        return
    for each in done:
        would = "would be " if is_dry_run and each.outcome == "restored" else ""
        name = f" {each.info.name}" if each.info.name else ""
        what = f"{each.info.role} key{name} {each.info.keyid[:16]}"
        away = f" (the note of it: the key is at {each.info.uri})" if each.info.uri else ""
        output.say(f"{what} {would}{_OUTCOMES[each.outcome]}{away}")


def _store() -> KeyStore:
    from tabellion.publish.keystore import KeyStore  # noqa: PLC0415  # not needed for help

    return KeyStore(settle().home)


def _passphrase(*, is_new: bool) -> str:
    from tabellion.publish.passphrases import check_new  # noqa: PLC0415  # not needed for help

    found = passphrases().configured("backup")
    if found is None and output.can_ask():
        found = output.ask_passphrase("Passphrase of the backup", is_new=is_new)
    if found is None:
        raise PassphraseError(
            "no passphrase for the backup and no terminal to ask at",
            hint="set TABELLION_BACKUP_PASSPHRASE or TABELLION_BACKUP_PASSPHRASE_FILE",
        )
    if is_new:
        check_new(found, "backup")
    return found


def _as_json(each: Restored) -> dict[str, object]:
    return {
        "keyid": each.info.keyid,
        "role": each.info.role,
        "name": each.info.name,
        "gun": each.info.gun,
        "outcome": each.outcome,
        "path": str(each.info.path),
        "uri": each.info.uri,
    }
