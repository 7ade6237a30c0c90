"""``tabellion init``: found a GUN."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from tabellion.cli import output
from tabellion.cli.clients import publisher, work
from tabellion.cli.context import Options, Settings, common_options, settle
from tabellion.cli.subject import gun_argument, gun_of
from tabellion.core.names import Gun
from tabellion.errors import ConfigurationError

if TYPE_CHECKING:
    from tabellion.publish.outcome import Initialized


@click.command()
@gun_argument
@click.option(
    "--root-key-id",
    "root_keys",
    multiple=True,
    metavar="KEY[=HOLDER]",
    help="Use this root key: one here, or another holder's public key file.",
)
@click.option(
    "--targets-key-id", "targets_keys", multiple=True, metavar="KEY[=HOLDER]", help="... targets."
)
@click.option("--root-threshold", type=click.IntRange(1), default=1, help="Root keys needed.")
@click.option("--targets-threshold", type=click.IntRange(1), default=1, help="Targets keys needed.")
@click.option(
    "--snapshot",
    type=click.Choice(["server", "local"]),
    default="server",
    show_default=True,
    help="Who signs snapshots: the server, or a key here.",
)
@click.option(
    "--dialect",
    "dialect_name",
    type=click.Choice(["tuf", "notary"]),
    default="tuf",
    show_default=True,
    help="How its files are written: notary for docker's and notary's own clients.",
)
@click.option(
    "--bins", type=int, default=0, metavar="N", help="Spread targets over N hash bins: 2 to 8192."
)
@click.option("--bins-key", "bins_keys", multiple=True, metavar="KEY", help="Sign bins with it.")
@click.option("--root-out", metavar="FILE", help="Also write the root, for those who verify.")
@common_options
def command(  # noqa: PLR0917  # click passes by keyword
    name: str | None,
    gun: str | None,
    root_keys: tuple[str, ...],
    targets_keys: tuple[str, ...],
    root_threshold: int,
    targets_threshold: int,
    snapshot: Literal["server", "local"],
    dialect_name: str,
    bins: int,
    bins_keys: tuple[str, ...],
    root_out: str | None,
) -> None:
    """Found GUN: make its root and targets keys where none fit, and publish it empty.

    Prints the fingerprint of the root key. Those who verify start from it: hand it to them by
    another way than the server. Passphrases: TABELLION_ROOT_PASSPHRASE and
    TABELLION_TARGETS_PASSPHRASE, or asked at a terminal.

    \b
    Examples:
      tabellion init registry.example/team/app
      tabellion init registry.example/team/app --root-out root.json
      tabellion init --gun models.example/llm
      tabellion init --dialect notary registry.example/team/app
      tabellion init --gun packages.example --bins 1024
    \b
    With another holder, who then runs `tabellion cosign`:
      tabellion init registry.example/team/app --root-threshold 2 \\
        --root-key-id mine=Ann --root-key-id bob.pub=Bob
    """  # noqa: D301  # \b is click's mark
    from tabellion.core.dialect import dialect_named  # noqa: PLC0415  # not needed for help

    settings, wanted = settle(), gun_of(name, gun)

    async def found() -> Initialized:
        async with publisher(settings) as author:
            return await author.init(
                wanted,
                root_keys=root_keys,
                targets_keys=targets_keys,
                root_threshold=root_threshold,
                targets_threshold=targets_threshold,
                snapshot=snapshot,
                dialect=dialect_named(dialect_name),
                bins=bins,
                bins_keys=bins_keys,
            )

    made = work(found(), f"founding {wanted}")
    if made.pending and root_out is not None:
        output.warn(f"{root_out} isn't written: not all who have to have signed yet")
        output.hint(
            f"once they have: tabellion trust show {wanted} --root-key FINGERPRINT "
            f"--root-out {root_out}"
        )
    elif root_out is not None:
        _write(Path(root_out), made.root)
    _tell(settings, wanted, made)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigurationError(
            f"the GUN is founded, but {str(path)!r} can't be written: {error.strerror}",
            hint="the root is also in the home folder, under trust/",
        ) from None


def _tell(settings: Settings, gun: Gun, made: Initialized) -> None:
    for name, why in made.lacking.items():
        output.warn(f"{gun} lacks {name}, which is declared for it: {why}")
    fingerprints = made.fingerprints
    which = "this root key" if len(fingerprints) == 1 else "one of these root keys"
    if Options.of().json:
        output.answer_json(
            {
                "gun": gun,
                "root_keys": [
                    {"keyid": info.keyid, "fingerprint": info.fingerprint}
                    for info in made.root_keys
                ],
                "fingerprints": list(fingerprints),
                "targets_keys": [{"keyid": info.keyid} for info in made.targets_keys],
                "made": [info.keyid for info in made.made],
                "declared": list(made.declared),
                "lacking": dict(made.lacking),
                "pending": made.pending or None,
                "missing": dict(made.missing),
            }
        )
        return
    for info in made.made:
        output.say(f"made {info.role} key {info.keyid[:16]} in {settings.home / 'keys'}")
    if made.pending:
        missing = ", ".join(f"{role}: {count} more" for role, count in made.missing.items())
        output.say(f"{gun} waits for signatures ({missing}); it's founded by the last of them")
        output.hint(f"the next holder runs: tabellion cosign {gun}")
        output.say(f"those who verify start then from {which}:")
        for fingerprint in fingerprints:
            output.answer(fingerprint)
        return
    output.say(f"{gun} is founded; those who verify start from {which}:")
    for fingerprint in fingerprints:
        output.answer(fingerprint)
    if made.declared:
        output.say(f"as declared for its namespace, these may sign: {', '.join(made.declared)}")
    output.hint("back up the root key, and keep it off the machine that signs releases")
