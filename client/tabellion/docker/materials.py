"""Images that a build's flags name: contexts, caches, generators, frontends, podman's ``--from``.

Each is verified and pinned; what can't be pinned is refused.
"""

from __future__ import annotations

import os
from typing import Final

from tabellion.docker.command import Command, Flag, put_value
from tabellion.docker.fields import Fields
from tabellion.docker.images import Resolver
from tabellion.errors import VerificationError

_IMAGE_CONTEXTS: Final = ("docker-image://", "docker://", "container-image:")
_TRUE: Final = frozenset({"1", "t", "true"})
_FALSE: Final = frozenset({"", "0", "f", "false"})


async def pin_contexts(command: Command, words: list[str], resolver: Resolver) -> frozenset[str]:
    """Verify ``--build-context NAME=docker-image://IMAGE``; give all contexts' names."""
    names = set()
    for flag in command.flags:
        if flag.name != "--build-context" or flag.value is None:
            continue
        name, _, source = flag.value.partition("=")
        names.add(name)
        for prefix in _IMAGE_CONTEXTS:
            if source.startswith(prefix):
                image = await resolver.resolve(source.removeprefix(prefix).removeprefix("//"))
                put_value(words, flag, f"{name}={prefix}{image.pinned}")
    return frozenset(names)


async def pin_flags(command: Command, words: list[str], resolver: Resolver) -> None:
    """Verify what else names an image.

    Raises:
        VerificationError: It names none, or one that can't be pinned.
    """
    for flag in command.flags:
        if not flag.value:
            continue
        if flag.name == "--from":
            put_value(words, flag, (await resolver.resolve(flag.value)).pinned)
        elif flag.name == "--build-arg":
            await _pin_frontend(flag, flag.value, words, resolver)
        elif flag.name == "--cache-from":
            await _pin_cache(command, flag, words, resolver)
        elif flag.name in {"--attest", "--sbom"}:
            await _pin_generator(command, flag, words, resolver)


async def _pin_frontend(flag: Flag, value: str, words: list[str], resolver: Resolver) -> None:
    name, equals, image = value.partition("=")
    if name != "BUILDKIT_SYNTAX":
        return
    image = image if equals else os.environ.get(name, "")
    if image:
        put_value(words, flag, f"{name}={(await resolver.resolve(image)).pinned}")


async def _pin_cache(command: Command, flag: Flag, words: list[str], resolver: Resolver) -> None:
    """Verify the image of a cache: its layers end up in what is built."""
    hint = "leave --cache-from out, or use a signed image: --cache-from IMAGE"
    if command.engine == "podman":  # it asks for tags of its own making
        raise VerificationError("podman's --cache-from can't be verified", hint=hint)
    fields = Fields(flag)
    if len(fields.bare) == len(str(fields).split(",")):  # only names of images
        pinned = [(await resolver.resolve(name)).pinned for name in fields.bare]
        put_value(words, flag, ",".join(pinned))
        return
    kinds, images = set(fields.values("type")), fields.values("ref")
    if kinds == {"local"}:
        return
    if kinds != {"registry"} or len(images) != 1:
        raise VerificationError(
            f"the cache of --cache-from {str(fields)[:100]!r} can't be verified", hint=hint
        )
    fields.replace(("ref",), (await resolver.resolve(images[0])).pinned)
    put_value(words, flag, str(fields))


async def _pin_generator(
    command: Command, flag: Flag, words: list[str], resolver: Resolver
) -> None:
    """Verify the scanner image of an SBOM; without a name the builder would choose one."""
    fields = Fields(flag)
    if flag.name == "--sbom" and str(fields).casefold() in _FALSE:
        return
    is_sbom = flag.name == "--sbom" or "sbom" in {v.casefold() for v in fields.values("type")}
    images = fields.values("generator")
    disabled = [value.casefold() in _TRUE for value in fields.values("disabled")]
    if not images and (not is_sbom or (disabled and all(disabled))):
        return
    if command.engine == "podman" or len(images) != 1:
        raise VerificationError(
            f"{flag.name} {str(fields)[:100]!r} runs a scanner image that can't be verified",
            hint="name a signed one: --sbom=generator=IMAGE"
            if command.engine != "podman"
            else "leave it out, and scan what was built",
        )
    fields.replace(("generator",), (await resolver.resolve(images[0])).pinned)
    put_value(words, flag, str(fields))
