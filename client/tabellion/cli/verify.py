"""``tabellion verify``: the verified digest on stdout, or exit 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tabellion.cli import output
from tabellion.cli.clients import trust_client, work
from tabellion.cli.context import (
    Options,
    Settings,
    common_options,
    offline_option,
    settle,
    trust_options,
)
from tabellion.cli.data import check_file
from tabellion.cli.subject import Subject, image_argument, subject_of
from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.verify import VerifiedImage


@click.command()
@image_argument
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check too that this file is what was signed.",
)
@click.option("--platform", metavar="OS/ARCH", help="Give the digest signed for this platform.")
@trust_options
@offline_option
@common_options
def command(image: str, gun: str | None, file: Path | None, platform: str | None) -> None:
    """Verify IMAGE and print its digest.

    The whole chain is checked: root, timestamp, snapshot, targets, delegations, freshness. The
    registry isn't asked. Exit status 1: it must not be used; 3: could not find out.

    \b
    Examples:
      tabellion verify registry.example/team/app:1.2
      tabellion verify registry.example/team/app@sha256:7b2f...
      tabellion verify --gun models.example/llm weights.bin --file ./weights.bin
    \b
    The first time, say which root to trust; the publisher hands it out:
      tabellion verify --root root.json registry.example/team/app:1.2
    \b
    In a script:
      digest=$(tabellion verify registry.example/team/app:1.2) || exit
      docker pull "registry.example/team/app@$digest"
    """  # noqa: D301  # \b is click's mark
    settings, subject = settle(), subject_of(image, gun)
    verified = work(verify(settings, subject, platform), f"verifying {subject}")
    if file is not None:
        check_file(file, verified.digest, verified.length, str(subject))
    if Options.of().json:
        output.answer_json(as_json(verified))
        return
    if verified.pinned == "first use" and settings.first_use:
        output.say(
            "its root is trusted because you asked to trust the first one seen;"
            " compare its key with the publisher's:"
        )
        for fingerprint in verified.root_fingerprints:
            output.say(fingerprint)
    signers = ", ".join(dict.fromkeys(signer.role for signer in verified.signers))
    output.say(f"{subject} is signed by {signers}" + (" (last known)" if verified.offline else ""))
    output.answer(str(verified.digest))


async def verify(settings: Settings, subject: Subject, platform: str | None) -> VerifiedImage:
    """Verify a subject by this run's settings."""
    async with trust_client(settings) as trust:
        if subject.reference is not None:
            return await trust.verify(str(subject.reference), platform=platform)
        if platform is not None:
            raise UsageError("plain data has no platform", hint="leave --platform out")
        return await trust.verify_target(subject.gun, subject.target)


def as_json(verified: VerifiedImage) -> dict[str, Any]:
    """Give everything a verification found out."""
    return {
        "reference": str(verified.reference) if verified.reference is not None else None,
        "gun": verified.gun,
        "target": verified.target,
        "digest": str(verified.digest),
        "length": verified.length,
        "custom": verified.custom,
        "signers": [
            {"role": signer.role, "keyids": list(signer.keyids)} for signer in verified.signers
        ],
        "versions": dict(verified.versions),
        "expires": dict(verified.expires),
        "pinned": verified.pinned,
        "root_fingerprints": list(verified.root_fingerprints),
        "offline": verified.offline,
    }
