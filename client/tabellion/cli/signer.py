"""``tabellion signer``: delegations, each a role with its own keys, paths and threshold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tabellion.cli import output
from tabellion.cli.clients import passphrases, publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle, trust_options
from tabellion.cli.namespace import (
    add_everywhere,
    begun,
    check_options,
    declared,
    namespace_options,
    remove_everywhere,
)
from tabellion.cli.publishing import no_publish_option, tell
from tabellion.cli.subject import gun_of
from tabellion.core.holders import check_holder
from tabellion.core.names import Gun
from tabellion.errors import KeyStoreError, TabellionError, UnreachableError, UsageError

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

    from tabellion.publish.changes import AddSigner
    from tabellion.publish.declared import GunPrefix
    from tabellion.publish.enrolment import SignerRequest
    from tabellion.publish.outcome import Published, SignerInfo

_gun_option = click.option("--gun", metavar="NAME", help="This exact GUN; leave GUN out then.")


@click.group()
def command() -> None:
    """Let others sign parts of a GUN with their own keys.

    \b
    Examples:
      tabellion signer request registry.example/team/app alice > alice.json
      tabellion signer add registry.example/team/app alice alice.json
      tabellion signer list registry.example/team/app
      tabellion signer remove registry.example/team/app alice
    """  # noqa: D301  # \b is click's mark


@command.command("request")
@click.argument("words", metavar="GUN NAME", nargs=-1, required=True)
@_gun_option
@click.option("--key", metavar="KEY", help="Sign with this key; else the only signer key here.")
@click.option("--cosign", type=click.Path(path_type=Path), metavar="FILE", help="Add to another's.")
@click.option("--replaces", metavar="KEY", help="Your present key: it shows who asks.")
@trust_options
@common_options
def request(
    words: tuple[str, ...],
    gun: str | None,
    key: str | None,
    cosign: Path | None,
    replaces: str | None,
) -> None:
    """Ask to sign as NAME: print what the holder of the targets key gives to `signer add`.

    It holds your public key and an empty first release of NAME, signed by you, so that tags are
    found from the moment you are added. One for any GUN of a prefix serves `signer add
    --gun-prefix`. With --replaces, the trust server is asked whether that key is NAME's now, if it
    can be; else no server is.

    \b
    Examples:
      tabellion key generate --name alice
      tabellion signer request registry.example/team/app alice > alice.json
    \b
    Another key for alice, asked for by who holds the present one:
      tabellion signer request registry.example/team/app alice --key new --replaces old > new.json
    \b
    Two of two, each in turn:
      tabellion signer request registry.example/team/app qa > a.json
      tabellion signer request registry.example/team/app qa --cosign a.json > ab.json
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    target_gun, rest = _split(words, gun, least=1)
    if len(rest) != 1:
        raise UsageError("a request is for one role", hint="give GUN NAME")
    wanted, name = gun_of(target_gun, gun), rest[0]
    from tabellion.publish.enrolment import SignerRequest, read_request  # noqa: PLC0415
    from tabellion.publish.signing import Expiries  # noqa: PLC0415

    signers = [_own_signer(settings, key)]
    replaced = [_own_signer(settings, replaces)] if replaces is not None else []
    if replaced and cosign is not None:
        raise UsageError("--replaces goes into a request of one's own", hint="leave --cosign out")
    for each in replaced:
        _check_is_present(settings, wanted, name, each.public_key)
    if cosign is None:
        expires_at = datetime.now(UTC).replace(microsecond=0) + Expiries().targets
        made = SignerRequest.make(wanted, name, signers, expires_at=expires_at, replaced=replaced)
    else:
        held = read_request(_read(cosign), what=str(cosign))
        _check_subject(held, wanted, name, str(cosign))
        made = held.signed_too(signers)
    if Options.of().json:
        output.answer_json(json.loads(made.to_bytes()))
    else:
        output.answer(made.to_bytes().decode().rstrip())
    output.hint(
        f"the holder of the targets key runs: tabellion signer add {wanted} {name} FILE "
        "(with --under SIGNER it's that signer who delegates)"
    )
    if replaced:
        output.hint(f"then sign what is yours anew with the new key: tabellion cosign {wanted}")


@command.command("add")
@click.argument("words", metavar="GUN NAME FILE[=HOLDER]...", nargs=-1, required=True)
@_gun_option
@click.option("--path", "paths", multiple=True, metavar="PATTERN", help="Tags it may sign (all).")
@click.option("--threshold", type=click.IntRange(1), help="Keys needed (1).")
@click.option(
    "--terminating/--no-terminating", default=None, help="Whether no later role is asked for them."
)
@click.option("--under", default="targets", metavar="ROLE", help="This signer delegates to it.")
@namespace_options
@no_publish_option
@trust_options
@common_options
def add(  # noqa: PLR0917  # click passes by keyword
    words: tuple[str, ...],
    gun: str | None,
    paths: tuple[str, ...],
    threshold: int | None,
    terminating: bool | None,  # noqa: FBT001  # click passes by keyword
    under: str,
    staged: bool,  # noqa: FBT001  # click passes by keyword
    prefix: str | None,
    resume: bool,  # noqa: FBT001  # click passes by keyword
    dry_run: bool,  # noqa: FBT001  # click passes by keyword
) -> None:
    """Delegate to NAME, whose keys are in FILEs.

    A FILE is what `tabellion signer request` printed, or a public key: PEM, an X.509 certificate
    (only its key counts), or a key of TUF metadata. With keys alone, tags that no earlier role
    signed aren't found until NAME has published. A signer of that name gets these keys instead of
    its old ones, and keeps its paths, threshold and --terminating unless they are given.
    FILE=HOLDER says whose key it is, to be seen in `status` and `pending`; a Notary GUN has no
    place for that.
    With --gun-prefix all GUNs under it get the signer, a few at a time, and GUNs founded from this
    home later, too; what failed is taken up with --resume. One request serves them all.

    \b
    Examples:
      tabellion signer add registry.example/team/app alice alice.json
      tabellion signer add --gun-prefix 'registry.example/team/**' alice alice.json
      tabellion signer add registry.example/team/app qa a.pub=Ann b.pub=Bob c.pub --threshold 2
      tabellion signer add registry.example/team/app nightly ci.pub --path 'nightly-*'
      tabellion signer add registry.example/team/app carol carol.json --under alice
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    check_options(prefix=prefix, gun=gun, single=resume or dry_run)
    if prefix is not None:
        _refuse_staging(staged)
        _, (name, *files) = _split(words, prefix, least=1 if resume else 2)
        guns = _prefix(prefix)
        if files:
            offered = _offered(guns.covers, f"under {guns}", name, files)
            if offered.file is None:
                _warn_of_no_file(name, f"in each GUN under {guns}", "GUN")
            signer = _add_signer(name, offered, paths, threshold, terminating, under)
        else:
            signer = _begun_signer(settings, guns, name)
        add_everywhere(settings, guns, signer, resume=resume, dry_run=dry_run)
        return
    target_gun, (name, *files) = _split(words, gun, least=2)
    wanted = gun_of(target_gun, gun)
    offered = _offered(wanted.__eq__, f"in {wanted}", name, files)

    async def delegate() -> tuple[Published, SignerInfo | None]:
        async with publisher(settings) as author:
            try:
                present = await author.signer(wanted, name, under)
            except UnreachableError:
                if not staged:
                    raise
                present = None
            if present is not None:
                await _tell_of_present(wanted, name, present, offered)
                if not paths:
                    output.say(f"{name} keeps its paths: {' '.join(present.paths)}")
            published = await author.add_signer(
                wanted,
                name,
                offered.keys,
                paths=paths or None,
                threshold=threshold,
                terminating=terminating,
                file=offered.file,
                under=under,
                holders=offered.holders,
                publish=not staged,
            )
            is_silent = offered.file is None and published.versions
            return published, await author.signer(wanted, name, under) if is_silent else None

    published, added = work(delegate(), f"adding signer {name}")
    # Notary's readers pass over a signer without a file.
    if added is not None and added.version is None and not added.name.startswith("targets/"):
        _warn_of_no_file(name, f"in {wanted}", wanted)
    tell(published, f"signer {name} may sign", wanted)


@command.command("remove")
@click.argument("words", metavar="GUN NAME", nargs=-1, required=True)
@_gun_option
@namespace_options
@no_publish_option
@trust_options
@common_options
def remove(  # noqa: PLR0917  # click passes by keyword
    words: tuple[str, ...],
    gun: str | None,
    staged: bool,  # noqa: FBT001  # click passes by keyword
    prefix: str | None,
    resume: bool,  # noqa: FBT001  # click passes by keyword
    dry_run: bool,  # noqa: FBT001  # click passes by keyword
) -> None:
    """Withdraw the delegation to NAME: what only it signed isn't signed any more.

    \b
    Examples:
      tabellion signer remove registry.example/team/app alice
      tabellion signer remove --gun-prefix 'registry.example/team/**' alice
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    check_options(prefix=prefix, gun=gun, single=resume or dry_run)
    target_gun, rest = _split(words, gun or prefix, least=1)
    if len(rest) != 1:
        raise UsageError("one signer is removed at a time", hint="give GUN NAME")
    name = rest[0]
    if prefix is not None:
        _refuse_staging(staged)
        remove_everywhere(settings, _prefix(prefix), name, resume=resume, dry_run=dry_run)
        return
    wanted = gun_of(target_gun, gun)

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
            " ".join(_named(key.keyid, signer.holders) for key in signer.keys),
            " ".join(signer.paths),
            "nothing published" if signer.version is None else f"version {signer.version}",
            signer.under,
        )
        for signer in found
    ]
    output.table(("SIGNER", "THRESHOLD", "KEYS", "PATHS", "STATE", "UNDER"), rows)


command.add_command(declared)


def _own_signer(settings: Settings, text: str | None) -> Signer:
    from tabellion.core.dialect import TUF  # noqa: PLC0415  # not needed for help
    from tabellion.publish.keystore import KeyStore  # noqa: PLC0415
    from tabellion.publish.signing import KeyRing  # noqa: PLC0415

    store = KeyStore(settings.home)
    infos = [store.find(text)] if text is not None else store.list(role="signer")
    if len(infos) != 1:
        raise KeyStoreError(
            f"{len(infos)} signer keys are in {store.folder}",
            hint="name one: --key KEY" if infos else "make one: tabellion key generate",
        )
    keys = {infos[0].keyid: infos[0].key}
    return KeyRing(store, passphrases()).open(TUF, keys, list(keys), at_most=1)[0]


def _prefix(text: str) -> GunPrefix:
    from tabellion.publish.declared import GunPrefix  # noqa: PLC0415  # not needed for help

    return GunPrefix(text)


def _refuse_staging(staged: bool) -> None:  # noqa: FBT001  # one option
    if staged:
        raise UsageError(
            "--no-publish stages for one GUN", hint="to see what would be: --gun-prefix --dry-run"
        )


def _begun_signer(settings: Settings, prefix: GunPrefix, name: str) -> AddSigner:
    from tabellion.publish.changes import AddSigner  # noqa: PLC0415  # not needed for help

    change = begun(settings, prefix, name).change
    if not isinstance(change, AddSigner):
        raise UsageError(f"what was begun is to {change}", hint="give the signer's FILEs to add it")
    return change


def _add_signer(  # noqa: PLR0917  # in the order of its fields
    name: str,
    offered: _Offered,
    paths: tuple[str, ...],
    threshold: int | None,
    terminating: bool | None,  # noqa: FBT001  # same
    under: str,
) -> AddSigner:
    from tabellion.publish.changes import AddSigner  # noqa: PLC0415  # not needed for help

    return AddSigner(
        *(name, tuple(offered.keys), paths or None, threshold, terminating),
        *(offered.file, under, offered.holders),
    )


@dataclass(frozen=True)
class _Offered:
    """What FILEs hold: keys, a role's first file, and key id to holder."""

    keys: list[Key]
    file: bytes | None
    holders: dict[str, str]


def _offered(fits: Callable[[str], bool], where: str, name: str, files: Sequence[str]) -> _Offered:
    """Read keys and requests; the first file of a role can only be one."""
    from tabellion.publish.enrolment import is_request, read_request  # noqa: PLC0415
    from tabellion.publish.public_keys import load_public_key  # noqa: PLC0415

    keys: list[Key] = []
    first_files: list[bytes] = []
    holders: dict[str, str] = {}
    for text in files:
        file, mark, holder = (text, "", "") if Path(text).is_file() else text.rpartition("=")
        file = file if mark else text
        known, data = len(keys), _read(Path(file))
        if is_request(data):
            held = read_request(data, what=f"request {file}")
            if not fits(held.gun) or held.role != name:
                raise _other_subject(held, name, where, file)
            keys.extend(held.keys)
            first_files.append(held.file)
        else:
            keys.append(load_public_key(data, what=f"key file {file}"))
        if mark:
            holders |= {key.keyid: check_holder(holder) for key in keys[known:]}
    return _Offered(keys, first_files[0] if len(first_files) == 1 else None, holders)


async def _tell_of_present(gun: Gun, name: str, present: SignerInfo, offered: _Offered) -> None:
    """Tell a signer's owner who asks for other keys."""
    import asyncio  # noqa: PLC0415  # not needed for help

    from tabellion.publish.enrolment import is_by_present_holders  # noqa: PLC0415  # same

    if offered.file is None:
        return
    if await asyncio.to_thread(
        is_by_present_holders,
        offered.file,
        gun,
        name,
        wanted=offered.keys,
        present=present.keys,
        threshold=present.threshold,
    ):
        output.say(f"{name}'s present key signed the request, too")
    else:
        output.warn(f"no present key of {name} signed the request: make sure who asks")


def _warn_of_no_file(name: str, where: str, gun: str) -> None:
    output.warn(
        f"a bare key brings no first file: until {name} signs something {where}, tags that "
        f"{name} may sign, and no earlier role did, end in an error"
    )
    output.hint(
        f"let {name} ask with one, and add that: tabellion signer request {gun} {name} > FILE"
    )


def _check_is_present(settings: Settings, gun: Gun, name: str, key: Key) -> None:
    """Warn of a key that the signer doesn't have now: it would show nobody who asks."""
    from tabellion.publish.public_keys import fingerprint_of  # noqa: PLC0415  # not for help

    async def read() -> SignerInfo | None:
        async with publisher(settings) as author:
            return await author.signer(gun, name)

    try:
        present = work(read(), f"reading {gun}")
    except TabellionError as error:
        output.say(f"whether that key is {name}'s now couldn't be seen: {error.message}")
        return
    if present is None:
        output.warn(f"{gun} has no signer {name}: there is no key to replace")
    elif fingerprint_of(key) not in map(fingerprint_of, present.keys):
        output.warn(
            f"key {key.keyid[:16]} isn't one that {name} has now in {gun}: it won't show who asks"
        )


def _check_subject(held: SignerRequest, gun: Gun, name: str, file: str) -> None:
    if (held.gun, held.role) != (gun, name):
        raise _other_subject(held, name, f"in {gun}", file)


def _other_subject(held: SignerRequest, name: str, where: str, file: str) -> UsageError:
    return UsageError(
        f"{file} asks to sign as {held.role[:80]} in {held.gun}, not as {name[:80]} {where}",
        hint="ask the signer for a request of that GUN and name",
    )


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
            hint="the signer makes it with: tabellion signer request GUN NAME > FILE",
        ) from None


def _named(keyid: str, holders: Mapping[str, str]) -> str:
    return f"{keyid[:16]} ({holders[keyid]})" if keyid in holders else keyid[:16]


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
        "under": signer.under,
        "holders": dict(signer.holders),
    }
