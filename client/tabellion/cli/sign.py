"""``tabellion sign``: ask the registry what a tag is, sign that, publish."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tabellion.cli.clients import publisher, work
from tabellion.cli.context import (
    Settings,
    common_options,
    registry_options,
    settle,
    trust_options,
)
from tabellion.cli.data import digest_of_file
from tabellion.cli.publishing import no_publish_option, role_option, tell
from tabellion.cli.subject import Subject, image_argument, subject_of
from tabellion.core.names import Digest
from tabellion.errors import DigestMismatchError, UnreachableError, UsageError

if TYPE_CHECKING:
    from tabellion.publish.outcome import Published
    from tabellion.registry import Manifest


@dataclass(frozen=True)
class Content:
    """What will be signed."""

    digest: Digest
    length: int
    custom: dict[str, Any] | None


@click.command()
@image_argument
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Don't ask the registry: sign this file's bytes.",
)
@click.option("--digest", metavar="DIGEST", help="The same, by digest ...")
@click.option("--length", type=click.IntRange(0), metavar="BYTES", help="... and length.")
@click.option("--custom", metavar="JSON", help="Sign this JSON object beside it.")
@role_option
@no_publish_option
@trust_options
@registry_options
@common_options
def command(  # noqa: PLR0917  # click passes by keyword
    image: str,
    gun: str | None,
    file: Path | None,
    digest: str | None,
    length: int | None,
    custom: str | None,
    role: str | None,
    staged: bool,  # noqa: FBT001  # click passes by keyword
) -> None:
    """Sign IMAGE and publish the signature.

    The registry is asked for the manifest, and its bytes are hashed here. If somebody else
    publishes at the same time, this is applied again on top of theirs.

    \b
    Examples:
      tabellion sign registry.example/team/app:1.2
      tabellion sign registry.example/team/app:1.2 --digest sha256:7b2f... --length 1234
      tabellion sign registry.example/team/app:1.2 --custom '{"commit": "4f2a"}'
      tabellion sign --role alice --no-publish registry.example/team/app:1.2
      tabellion sign --gun models.example/llm weights.bin --file ./weights.bin
    """  # noqa: D301  # \b is click's mark
    settings, subject = settle(), subject_of(image, gun)
    target = subject.target
    extra = _custom(custom)
    given = _given(file, digest, length)

    async def sign() -> tuple[Content, Published]:
        content = await _content(settings, subject, given, extra)
        async with publisher(settings) as author:
            return content, await author.sign(
                subject.gun,
                target,
                content.digest,
                content.length,
                custom=content.custom,
                role=role,
                publish=not staged,
            )

    content, published = work(sign(), f"signing {subject}")
    about = {
        "reference": str(subject.reference) if subject.reference is not None else None,
        "target": target,
        "digest": str(content.digest),
        "length": content.length,
        "custom": content.custom or {},
        "role": published.signed_as.get(target, role),
    }
    tell(published, f"{subject} is {content.digest}", subject.gun, about=about)


def _custom(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UsageError(
            "--custom isn't a JSON object", hint='it looks like \'{"commit": "4f2a"}\''
        )
    return content


def _given(file: Path | None, digest: str | None, length: int | None) -> tuple[Digest, int] | None:
    if (digest is None) != (length is None):
        raise UsageError("--digest and --length belong together", hint="give both, or neither")
    if digest is not None and length is not None:
        if file is not None:
            raise UsageError("--file and --digest both say what to sign", hint="give one of them")
        return Digest.parse(digest), length
    return None if file is None else digest_of_file(file, "sha256")


async def _content(
    settings: Settings,
    subject: Subject,
    given: tuple[Digest, int] | None,
    custom: dict[str, Any] | None,
) -> Content:
    if given is not None:
        return Content(*given, custom)
    if subject.reference is None:
        raise UsageError(
            "plain data has no registry to ask",
            hint="give --file FILE, or --digest sha256:... and --length BYTES",
        )
    from tabellion.registry import RegistryClient  # noqa: PLC0415  # not needed for help

    async with RegistryClient(insecure=settings.insecure_registries, ca=settings.ca) as registry:
        try:
            manifest = await registry.manifest(subject.reference)
        except UnreachableError as error:
            known = "where no registry can be asked, give --digest sha256:... and --length BYTES"
            raise UnreachableError(
                error.message, hint=f"{error.hint}; {known}" if error.hint else known
            ) from error
    wanted = subject.reference.digest
    if wanted is not None and wanted != manifest.digest:
        raise DigestMismatchError(f"the registry has {manifest.digest}, not {wanted}")
    return Content(manifest.digest, manifest.length, {**_described(manifest), **(custom or {})})


def _described(manifest: Manifest) -> dict[str, Any]:
    content: dict[str, Any] = {"mediaType": manifest.media_type}
    if manifest.platforms:
        content["manifests"] = [
            {"digest": str(child.digest), "platform": child.platform, "length": child.length}
            for child in manifest.platforms
        ]
    return content
