"""The wrapper: verify, pull by digest, tag, then run the command as it was given.

What the engine is told is always ``name@sha256:...``: between verification and use nobody can
move a tag under it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from tabellion.docker.build import run_build
from tabellion.docker.command import Command, Flag, flag_words, parse_command, put_value
from tabellion.docker.engine import engine_name, is_present, replace_process, run_child, run_step
from tabellion.docker.fetching import warning
from tabellion.docker.fields import Fields
from tabellion.docker.images import Resolver, SignedImage, Sources
from tabellion.errors import VerificationError

# Flags of run and create that say how to fetch an image; our own pull gets them too.
_FETCH_FLAGS: Final = frozenset(
    {
        "--platform", "--arch", "--os", "--variant", "--authfile", "--cert-dir", "--creds",
        "--tls-verify", "--decryption-key", "--retry", "--retry-delay",
    }
)  # fmt: skip


async def run_engine(argv: Sequence[str], *, engine: str, sources: Sources) -> int:
    """Run an engine's command on verified images only.

    Args:
        argv: Words after the engine's name, as typed: ``["run", "-it", "alpine", "sh"]``.
        engine: ``docker``, ``podman`` or ``nerdctl``, or a path that ends in one of them.
        sources: Who is asked about images.

    Returns:
        The engine's exit status; on ``run``, ``create`` and what isn't verified this process
        becomes the engine and doesn't return.

    Raises:
        TabellionError: An image isn't verified (nothing was pulled, built or run), the command
            can't be understood for sure, the engine can't be started, or a step of our own failed.
    """
    name = engine_name(engine)
    command = parse_command(argv, name)
    if not command.verb or command.has("--help") or (command.verb == "pull" and command.has("-h")):
        if command.warns:
            print(warning(name, command.warns), file=sys.stderr)  # noqa: T201  # for the person
        replace_process(engine, argv)
    resolver = Resolver(name, sources)
    if command.verb == "build":
        return await run_build(command, engine, resolver)
    if command.verb == "pull":
        return await _pull(command, engine, resolver)
    return await _run(command, engine, resolver)


async def pull_image(
    image: str, *, engine: str, sources: Sources, platform: str | None, quiet: bool
) -> SignedImage:
    """Verify an image, pull it by its digest, tag it.

    Args:
        image: What to pull.
        engine: As for :func:`run_engine`.
        sources: Who is asked about images.
        platform: ``OS/ARCH``, or None for the engine's own.
        quiet: The engine's standard output goes to standard error.

    Raises:
        TabellionError: It isn't verified (nothing was pulled), or the engine can't pull it.
    """
    resolver = Resolver(engine_name(engine), sources)
    found = await resolver.resolve(image)
    await resolver.verify_tag(found)
    flags = [] if platform is None else [f"--platform={platform}"]
    words = ["pull", *flags, *await resolver.access_flags(found), found.pinned]
    run_step(engine, words, f"the pull of {found.pinned}", quiet=quiet)
    _tag((), engine, found)
    return found


async def _pull(command: Command, engine: str, resolver: Resolver) -> int:
    """Pull each image by digest, then give it its tag."""
    if command.has("-a", "--all-tags"):
        raise VerificationError(
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
        if not command.gives("--tls-verify"):
            words[command.verb_end : command.verb_end] = await resolver.access_flags(image)
        status = run_child(engine, words)
        if status != 0:
            return status
        _tag(command.globals, engine, image)
    return 0


async def _run(command: Command, engine: str, resolver: Resolver) -> int:
    """Fetch the images that aren't here, then become the command on their digests."""
    words = list(command.words)
    images = []
    for flag in command.flags:
        if flag.value is None:
            continue
        if flag.name == "--infra-image" and flag.value:
            images.append(await resolver.resolve(flag.value))
            put_value(words, flag, images[-1].pinned)
        elif flag.name == "--mount":
            images += await _pin_mount(flag, words, resolver)
        elif flag.name == "--pod" and flag.value.startswith("new:"):
            raise VerificationError(
                f"--pod {flag.value[:100]!r} may fetch an infra image that can't be verified",
                hint="make the pod first, pod create --infra-image IMAGE NAME, then --pod=NAME",
            )
        elif flag.name == "--volume-driver" and flag.value == "image":
            raise _image_volume(flag)
    if command.operands and not command.has("--rootfs"):
        at = command.operands[0]
        images.append(await resolver.resolve(words[at]))
        words[at] = images[-1].pinned
    for image in images:
        await _fetch(command, engine, image, resolver)
    replace_process(engine, words)


async def _pin_mount(flag: Flag, words: list[str], resolver: Resolver) -> list[SignedImage]:
    """Verify ``--mount type=image,source=IMAGE``, which is fetched like the image itself."""
    fields = Fields(flag)
    if "image" in fields.values("volume-driver"):
        raise _image_volume(flag)
    if "image" not in {value.casefold() for value in fields.values("type")}:
        return []
    names = fields.values("source", "src")
    if len(names) != 1:
        raise VerificationError(
            f"--mount {str(fields)[:100]!r} doesn't name one image", hint="write source=IMAGE once"
        )
    found = await resolver.resolve(names[0])
    fields.replace(("source", "src"), found.pinned)
    put_value(words, flag, str(fields))
    return [found]


def _image_volume(flag: Flag) -> VerificationError:
    return VerificationError(
        f"{flag.name} {(flag.value or '')[:100]!r} makes a volume from an image",
        hint="mount the image itself, which is verified: --mount=type=image,source=IMAGE,...",
    )


async def _fetch(command: Command, engine: str, image: SignedImage, resolver: Resolver) -> None:
    """Pull by digest unless it is here, and tag; never when the user said ``--pull=never``."""
    if "never" in command.values("--pull"):
        return
    globals_ = command.globals
    if not is_present(engine, [*globals_, "image", "inspect", image.pinned]):
        await resolver.verify_tag(image)
        flags = list(flag_words(command, _FETCH_FLAGS))
        if not command.gives("--tls-verify"):
            flags += await resolver.access_flags(image)
        run_step(engine, [*globals_, "pull", *flags, image.pinned], f"the pull of {image.pinned}")
    _tag(globals_, engine, image)


def _tag(globals_: Sequence[str], engine: str, image: SignedImage) -> None:
    if image.tagged is not None:
        words = [*globals_, "tag", image.pinned, image.tagged]
        run_step(engine, words, f"tagging {image.tagged}")
