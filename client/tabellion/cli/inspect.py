"""``tabellion inspect``: who signed what, until when."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from tabellion.cli import output
from tabellion.cli import verify as verify_verb
from tabellion.cli.clients import trust_client, work
from tabellion.cli.context import (
    Options,
    Settings,
    common_options,
    offline_option,
    settle,
    trust_options,
)
from tabellion.cli.subject import gun_of, is_image, subject_of
from tabellion.core.names import Gun

if TYPE_CHECKING:
    from tabellion.core.metadata import TrustedMetadata
    from tabellion.core.trusted_set import TrustedSet
    from tabellion.verify import VerifiedImage

_SHORT = 16


@click.command()
@click.argument("subject", metavar="IMAGE|GUN", required=False)
@click.option("--gun", metavar="NAME", help="This exact GUN; a name before it is a target in it.")
@trust_options
@offline_option
@common_options
def command(subject: str | None, gun: str | None) -> None:
    """Show an image's signers, versions and expiry; or a GUN's roles, keys and thresholds.

    With a tag or digest it's an image, without one it's a GUN. All is verified.

    \b
    Examples:
      tabellion inspect registry.example/team/app:1.2
      tabellion inspect registry.example/team/app
      tabellion inspect --gun models.example/llm
      tabellion inspect weights.bin --gun models.example/llm
    """  # noqa: D301  # \b is click's mark
    settings = settle()
    if subject is not None and (gun is not None or is_image(subject)):
        target = subject_of(subject, gun)
        verified = work(verify_verb.verify(settings, target, None), f"verifying {target}")
        _show_image(verified)
        return
    wanted = gun_of(subject, gun)
    _show_gun(wanted, work(_refresh(settings, wanted), f"reading {wanted}"))


async def _refresh(settings: Settings, gun: Gun) -> TrustedSet:
    from tabellion.publish.spreading import no_bins  # noqa: PLC0415  # not needed for help

    async with trust_client(settings) as trust:
        return await trust.refresh(gun, bins=no_bins)


def _show_image(verified: VerifiedImage) -> None:
    if Options.of().json:
        output.answer_json(verify_verb.as_json(verified))
        return
    output.answer(f"{verified.reference or verified.target}")
    output.answer(f"  digest    {verified.digest}")
    output.answer(f"  length    {verified.length}")
    for signer in verified.signers:
        keys = ", ".join(keyid[:_SHORT] for keyid in signer.keyids)
        output.answer(f"  signed by {signer.role}, keys: {keys}")
    for role, version in verified.versions.items():
        output.answer(f"  {role:<9} version {version}, {output.until(verified.expires.get(role))}")
    if verified.custom:
        output.answer(f"  custom    {json.dumps(dict(verified.custom), sort_keys=True)}")


def _show_gun(gun: Gun, trusted: TrustedSet) -> None:
    from tabellion.core.bins import bins_of  # noqa: PLC0415  # not needed for help

    roles = [_role(trusted, name) for name in ("root", "targets", "snapshot", "timestamp")]
    targets = trusted.role("targets", "root")
    if targets is not None:
        roles.extend(_delegated(trusted, targets))
    bins = bins_of(targets.signed) if targets is not None else None
    if bins is not None:
        content = {
            "role": bins.name_prefix,
            "threshold": bins.threshold,
            "keyids": list(bins.keyids),
            "bins": bins.number_of_bins,
        }
        roles.append(content)
    if Options.of().json:
        output.answer_json({"gun": gun, "dialect": trusted.dialect.name, "roles": roles})
        return
    output.answer(f"{gun} ({trusted.dialect.name})")
    for role in roles:
        keys = ", ".join(keyid[:_SHORT] for keyid in role["keyids"])
        output.answer(
            f"  {role['role']:<9} {role['threshold']} of {len(role['keyids'])} keys: {keys}"
        )
        if "version" in role:
            output.answer(f"{'':12}version {role['version']}, {output.until(role['expires'])}")
        if "paths" in role:
            under = "" if role["under"] == "targets" else f", under {role['under']}"
            output.answer(f"{'':12}paths {' '.join(role['paths'])}{under}")
        if "bins" in role:
            output.answer(f"{'':12}{role['bins']} hash bins")


def _delegated(trusted: TrustedSet, top: TrustedMetadata[Any]) -> list[dict[str, Any]]:
    """Describe every delegated role, each after the one that delegates to it."""
    from tabellion.core.notary_delegations import patterns_of  # noqa: PLC0415  # not needed for help
    from tabellion.core.roles import delegated_roles  # noqa: PLC0415  # same

    found: dict[str, dict[str, Any]] = {}

    def describe(delegator: TrustedMetadata[Any]) -> None:
        for child in delegated_roles(delegator.signed):
            if child.name in found:
                continue
            content: dict[str, Any] = {
                "role": child.name,
                "threshold": child.threshold,
                "keyids": list(child.keyids),
                "paths": patterns_of(child),
                "under": delegator.role,
            }
            published = trusted.role(child.name, delegator.role)
            if published is not None:
                content |= {"version": published.version, "expires": published.expires_at}
            found[child.name] = content
            if published is not None:
                describe(published)

    describe(top)
    return list(found.values())


def _role(trusted: TrustedSet, name: str) -> dict[str, Any]:
    entry = trusted.root.signed.roles[name]
    found: TrustedMetadata[Any] | None = {
        "root": trusted.root,
        "timestamp": trusted.timestamp,
        "snapshot": trusted.snapshot,
    }.get(name) or trusted.role(name, "root")
    content: dict[str, Any] = {
        "role": name,
        "threshold": entry.threshold,
        "keyids": list(entry.keyids),
    }
    if found is not None:
        content |= {"version": found.version, "expires": found.expires_at}
    return content
