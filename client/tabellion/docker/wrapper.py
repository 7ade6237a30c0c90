"""The wrapper: verify, pull by digest, tag, then run the command as it was given.

What the engine is told is always ``name@sha256:...``: between verification and use nobody can
move a tag under it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from tabellion.docker.build import run_build
from tabellion.docker.command import Command, Flag, flag_words, parse_command
from tabellion.docker.engine import engine_name, is_present, replace_process, run_child
from tabellion.docker.images import Resolver, SignedImage, TagDigest, Verify
from tabellion.errors import UsageError

# Flags of run and create that say how to fetch an image; our own pull gets them too.
_FETCH_FLAGS: Final = frozenset(
    {
        "--platform", "--arch", "--os", "--variant", "--authfile", "--cert-dir", "--creds",
        "--tls-verify", "--decryption-key", "--retry", "--retry-delay",
    }
)  # fmt: skip


async def run_engine(
    argv: Sequence[str], *, engine: str, verify: Verify, tag_digest: TagDigest | None = None
) -> int:
    """Run an engine's command on verified images only.

    Args:
        argv: Words after the engine's name, as typed: ``["run", "-it", "alpine", "sh"]``.
        engine: ``docker``, ``podman`` or ``nerdctl``, or a path that ends in one of them.
        verify: Verifies a reference; gives its signed digest or raises.
        tag_digest: Gives what the registry's tag points to now: a tag that was pushed over is
            refused before anything is pulled. Without it the signed digest is pulled all the same.

    Returns:
        The engine's exit status; on ``run``, ``create`` and what isn't verified this process
        becomes the engine and doesn't return.

    Raises:
        TabellionError: An image isn't verified (nothing was pulled, built or run), the command
            can't be understood for sure, or the engine can't be started.
    """
    name = engine_name(engine)
    command = parse_command(argv, name)
    if not command.verb or command.has("--help") or (command.verb == "pull" and command.has("-h")):
        if command.warns:
            print(  # noqa: T201  # for the person at the terminal
                f"tabellion: {command.warns} fetches images by itself: they aren't verified",
                file=sys.stderr,
            )
        replace_process(engine, argv)
    resolver = Resolver(name, verify, tag_digest)
    if command.verb == "build":
        return await run_build(command, engine, resolver)
    if command.verb == "pull":
        return await _pull(command, engine, resolver)
    return await _run(command, engine, resolver)


async def _pull(command: Command, engine: str, resolver: Resolver) -> int:
    """Pull each image by digest, then give it its tag."""
    if command.has("-a", "--all-tags"):
        raise UsageError(
            "--all-tags pulls what isn't signed too", hint="pull the tags you need by name"
        )
    if not command.operands:
        replace_process(engine, command.words)  # its own message tells what is missing
    images = {at: await resolver.resolve(command.words[at]) for at in command.operands}
    for image in images.values():
        await resolver.verify_tag(image)
    for at, image in images.items():
        others = set(images) - {at}
        words = [
            image.pinned if index == at else word
            for index, word in enumerate(command.words)
            if index not in others
        ]
        status = run_child(engine, words)
        if status == 0 and image.tagged is not None:
            status = run_child(engine, _tag(command, image), quiet=True)
        if status != 0:
            return status
    return 0


async def _run(command: Command, engine: str, resolver: Resolver) -> int:
    """Fetch the image if it isn't here, then become the command on the digest."""
    if not command.operands or command.has("--rootfs"):
        replace_process(engine, command.words)
    words = list(command.words)
    at = command.operands[0]
    images = [await resolver.resolve(words[at])]
    words[at] = images[0].pinned
    for flag in command.flags:
        if flag.name == "--mount" and flag.value is not None:
            image = await _pin_mount(flag, words, resolver)
            images.extend([image] if image is not None else [])
    status = 0
    for image in images:
        status = status or await _fetch(command, engine, image, resolver)
    if status == 0:
        replace_process(engine, words)
    return status


async def _pin_mount(flag: Flag, words: list[str], resolver: Resolver) -> SignedImage | None:
    """Verify ``--mount type=image,source=IMAGE``, which is fetched like the image itself."""
    fields = (flag.value or "").split(",")
    if '"' in (flag.value or ""):
        raise UsageError(
            f"--mount {flag.value} is quoted and can't be judged", hint="write it without quotes"
        )
    pairs = {
        field.partition("=")[0].strip().casefold(): field.partition("=")[2] for field in fields
    }
    if pairs.get("type", "").strip().casefold() != "image":
        return None
    found = None
    for number, field in enumerate(fields):
        key, _, value = field.partition("=")
        if key.strip().casefold() in {"source", "src"} and value:
            found = await resolver.resolve(value)
            fields[number] = f"{key}={found.pinned}"
    words[flag.value_at] = words[flag.value_at][: flag.offset] + ",".join(fields)
    return found


async def _fetch(command: Command, engine: str, image: SignedImage, resolver: Resolver) -> int:
    """Pull by digest unless it is here, and tag; never when the user said ``--pull=never``."""
    if "never" in command.values("--pull"):
        return 0
    globals_ = command.globals
    if not is_present(engine, [*globals_, "image", "inspect", image.pinned]):
        await resolver.verify_tag(image)
        flags = flag_words(command, _FETCH_FLAGS)
        status = run_child(engine, [*globals_, "pull", *flags, image.pinned], quiet=True)
        if status != 0:
            return status
    if image.tagged is None:
        return 0
    return run_child(engine, _tag(command, image), quiet=True)


def _tag(command: Command, image: SignedImage) -> list[str]:
    return [*command.globals, "tag", image.pinned, image.tagged or image.pinned]
