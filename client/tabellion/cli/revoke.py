"""``tabellion revoke``: take a signature back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tabellion.cli.clients import publisher, work
from tabellion.cli.context import common_options, settle, trust_options
from tabellion.cli.publishing import no_publish_option, role_option, tell
from tabellion.cli.subject import image_argument, subject_of

if TYPE_CHECKING:
    from tabellion.publish.outcome import Published


@click.command()
@image_argument
@role_option
@no_publish_option
@trust_options
@common_options
def command(image: str, gun: str | None, role: str | None, staged: bool) -> None:  # noqa: FBT001
    """Withdraw IMAGE from the roles whose keys are here.

    From then on it's refused by those who verify; unless another role signs it too, which is told.

    \b
    Examples:
      tabellion revoke registry.example/team/app:1.1
      tabellion revoke --role alice registry.example/team/app:1.1
      tabellion revoke --gun models.example/llm weights.bin
    """  # noqa: D301  # \b is click's mark
    settings, subject = settle(), subject_of(image, gun)
    target = subject.target

    async def revoke() -> Published:
        async with publisher(settings) as author:
            return await author.revoke(subject.gun, target, role=role, publish=not staged)

    published = work(revoke(), f"revoking {subject}")
    about = {
        "reference": str(subject.reference) if subject.reference is not None else None,
        "target": target,
        "role": role or next(iter(published.withdrawn.get(target, ())), None),
    }
    tell(published, f"{subject} is revoked", subject.gun, about=about)
