"""What the verbs about proposals share: asking before signing, telling how one stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tabellion.cli import output
from tabellion.cli.context import Options, Settings
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.examining import Examined
    from tabellion.publish.signing import KeyRing

F = TypeVar("F", bound=Callable[..., Any])

yes_option = click.option(
    "--yes", is_flag=True, help="Sign without asking, once told what changes."
)


def asker(yes: bool) -> Callable[[Sequence[str]], None]:  # noqa: FBT001  # the option's value
    """Give what tells the changes and asks whether to sign them."""

    def ask(changes: Sequence[str]) -> None:
        for line in changes:
            output.say(line)
        if yes:
            return
        if not output.can_ask():
            raise UsageError(
                "nobody is here to say whether to sign this",
                hint="read what it changes, then give --yes",
            )
        if not output.ask_yes("Sign this?"):
            raise UsageError("nothing was signed", hint="ask its author why it changes that")

    return ask


def key_ring(settings: Settings) -> KeyRing:
    """Give the keys here."""
    from tabellion.cli.clients import passphrases  # noqa: PLC0415  # not needed for help
    from tabellion.publish.keystore import KeyStore  # noqa: PLC0415
    from tabellion.publish.signing import KeyRing  # noqa: PLC0415

    return KeyRing(KeyStore(settings.home), passphrases())


def show(seen: Examined, names: dict[str, str]) -> None:
    """Print what a proposal changes, and who has signed."""
    from tabellion.publish.words import standing_in_words  # noqa: PLC0415  # not for help

    proposal = seen.proposal
    standings = proposal.standings(seen.current)
    if Options.of().json:
        output.answer_json(
            {
                "gun": proposal.gun,
                "id": proposal.id,
                "versions": proposal.versions,
                "changes": list(seen.words),
                "standing": [
                    {
                        "role": item.role,
                        "delegator": item.delegator,
                        "threshold": item.threshold,
                        "signed": list(item.signed_by),
                        "awaited": list(item.awaited),
                    }
                    for item in standings
                ],
            }
        )
        return
    output.answer(f"{proposal.gun} {proposal.id[:16]}")
    for line in seen.words:
        output.answer(f"  {line}")
    for item in standings:
        output.answer(f"  {standing_in_words(item, names=names)}")


def hint_of_snapshot(seen: Examined) -> None:
    """Tell who completes what the server keeps though enough have signed."""
    proposal = seen.proposal
    if not proposal.missing(seen.current):
        output.hint(
            "enough have signed; a holder of the snapshot's key signs that and publishes it: "
            f"tabellion cosign {proposal.gun} {proposal.id[:16]}"
        )


def is_file(text: str) -> Path | None:
    """Tell a file from a GUN.

    Raises:
        UsageError: It's written as a file is, and there's none.
    """
    path = Path(text)
    if path.is_file():
        return path
    if text.endswith(".json") or text.startswith(("/", "./", "../", "~")):
        raise UsageError(
            f"there is no file {text[:200]}", hint="give the path of a file, or the name of a GUN"
        )
    return None
