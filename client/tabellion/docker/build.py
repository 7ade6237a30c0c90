"""``build``: the same Dockerfile with digests for its base images, after they were verified.

The rewritten file lies in a folder of its own while the engine runs. Tags alone wouldn't do:
BuildKit asks the registry for them again.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tabellion.docker.command import Command, put_value
from tabellion.docker.dockerfile import BaseImage, find_images, replace_images
from tabellion.docker.engine import run_child
from tabellion.docker.images import Resolver
from tabellion.docker.materials import pin_contexts, pin_flags
from tabellion.errors import EngineError, UsageError, VerificationError

_MAX_DOCKERFILE_BYTES: Final = 4 * 1024 * 1024
_REMOTE: Final = ("http://", "https://", "git://", "ssh://", "git@", "github.com/", "oci-layout:")
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class _Source:
    """One Dockerfile: its text, and the file it came from; None is standard input."""

    text: str
    path: Path | None


async def run_build(command: Command, engine: str, resolver: Resolver) -> int:
    """Verify every base image, then build from exactly those.

    Raises:
        UsageError: The Dockerfile or the context can't be judged.
        TabellionError: An image isn't verified; nothing was built.
    """
    words = list(command.words)
    contexts = await pin_contexts(command, words, resolver)
    arguments = _build_arguments(command)
    await pin_flags(command, words, resolver)
    sources = _read_sources(command)
    texts = [
        await _pin_text(
            source,
            command,
            resolver,
            contexts=contexts,
            arguments=arguments,
            # podman alone has --from; the last one counts, and an empty one doesn't
            replaces_first=number == 0
            and command.engine == "podman"
            and command.values("--from")[-1:] not in ([], [""]),
        )
        for number, source in enumerate(sources)
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tabellion-")))
        stdin: BinaryIO | None = None
        if sources[0].path is None:
            (folder / "Dockerfile").write_text(texts[0], "utf-8", newline="")
            stdin = stack.enter_context((folder / "Dockerfile").open("rb"))
        else:
            words = _point_to(_write(folder, sources, texts), command, words)
        if not command.gives("--tls-verify"):
            words[command.verb_end : command.verb_end] = await resolver.access_flags()
        return run_child(engine, words, stdin=stdin)


async def _pin_text(
    source: _Source,
    command: Command,
    resolver: Resolver,
    *,
    contexts: frozenset[str],
    arguments: Mapping[str, str],
    replaces_first: bool,
) -> str:
    images = find_images(
        source.text,
        arguments=arguments,
        contexts=contexts,
        predefined=_platform_arguments(_platforms(command)),
        replaces_first=replaces_first,
    )
    replacements: dict[BaseImage, str] = {}
    for image in images:
        replacements[image] = (
            image.name if image.is_stage else (await resolver.resolve(image.name)).pinned
        )
    return replace_images(source.text, replacements)


def _build_arguments(command: Command) -> dict[str, str]:
    found: dict[str, str] = {}
    if command.values("--build-arg-file"):
        raise UsageError("--build-arg-file isn't supported", hint="use --build-arg NAME=VALUE")
    for value in command.values("--build-arg"):
        name, equals, text = value.partition("=")
        if equals:
            found[name] = text
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _platforms(command: Command) -> list[str]:
    """Give the platforms; with podman's ``--arch`` and the like none of them is sure."""
    given = command.values("--platform")
    return ["several,"] if command.values("--arch", "--os", "--variant") else given


def _platform_arguments(platforms: Sequence[str]) -> dict[str, str]:
    machine = platform.machine()
    build = f"linux/{_MACHINES.get(machine, machine)}"
    target = platforms[-1] if platforms else os.environ.get("DOCKER_DEFAULT_PLATFORM") or build
    values: dict[str, str] = {}
    for kind, name in (("BUILD", build), ("TARGET", target)):
        if "," in name:  # several platforms: no single value
            continue
        system, _, rest = name.partition("/")
        architecture, _, variant = rest.partition("/")
        values |= {
            f"{kind}PLATFORM": name,
            f"{kind}OS": system,
            f"{kind}ARCH": architecture,
            f"{kind}VARIANT": variant,
        }
    return values


def _read_sources(command: Command) -> list[_Source]:
    context = command.words[command.operands[0]] if command.operands else "."
    if not command.operands and command.engine != "podman":
        raise UsageError("build needs a context", hint="tabellion docker build [OPTIONS] PATH")
    if context.startswith(_REMOTE):
        raise VerificationError(
            f"context {context[:100]!r} is remote: its Dockerfile can't be verified beforehand",
            hint="fetch it first, then build the folder",
        )
    named = command.values("-f", "--file")
    if context == "-" and named:
        raise VerificationError(
            "a context from standard input can't be verified before the build",
            hint="unpack it, then build the folder",
        )
    if context == "-" or named == ["-"]:
        return [_Source(_decode(_read_input(), "standard input"), None)]
    if not named:
        return [_read_file(_default_file(Path(context), command.engine))]
    if len(named) > 1 and command.engine != "podman":
        named = named[-1:]  # the last one counts
    return [_read_file(_named_file(name, Path(context), command.engine)) for name in named]


def _default_file(context: Path, engine: str) -> Path:
    if context.is_file() and engine == "podman":
        return context
    names = ("Containerfile", "Dockerfile") if engine == "podman" else ("Dockerfile",)
    for name in names:
        if (context / name).is_file():
            return context / name
    raise UsageError(
        f"no {' or '.join(names)} in {str(context)!r}", hint="name it with --file FILE"
    )


def _named_file(name: str, context: Path, engine: str) -> Path:
    is_list = engine == "podman" and "," in name
    if name.startswith(_REMOTE) or name == "-" or name.endswith(".in") or is_list:
        raise VerificationError(
            f"Dockerfile {name[:100]!r} can't be verified before the build",
            hint="make it a plain file first",
        )
    path = Path(name)
    if not path.is_file() and engine == "podman" and (context / name).is_file():
        return context / name
    return path


def _read_file(path: Path) -> _Source:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"Dockerfile {str(path)!r} isn't a file")
        with path.open("rb") as file:
            data = file.read(_MAX_DOCKERFILE_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"Dockerfile {str(path)!r} can't be read: {error.strerror}", hint="check --file"
        ) from error
    return _Source(_decode(data, str(path)), path)


def _read_input() -> bytes:
    try:
        return sys.stdin.buffer.read(_MAX_DOCKERFILE_BYTES + 1)
    except OSError as error:
        raise EngineError(f"standard input can't be read: {error.strerror}") from error


def _decode(data: bytes, what: str) -> str:
    """Decode a Dockerfile; an archive isn't one."""
    if len(data) > _MAX_DOCKERFILE_BYTES:
        raise UsageError(f"{what} is longer than {_MAX_DOCKERFILE_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{what} isn't a Dockerfile in UTF-8",
            hint="an archive can't be verified before the build: unpack it, then build the folder",
        ) from error
    if "\0" in text or text.startswith("BZh"):  # docker looks for archives' first bytes
        raise UsageError(
            f"{what} is an archive, which can't be verified before the build",
            hint="unpack it, then build the folder",
        )
    return text


def _write(folder: Path, sources: Sequence[_Source], texts: Sequence[str]) -> list[Path]:
    written = []
    for number, (source, text) in enumerate(zip(sources, texts, strict=True)):
        if source.path is None:
            raise UsageError("standard input can only be the only Dockerfile")
        target = folder / str(number) / source.path.name
        target.parent.mkdir()
        target.write_text(text, "utf-8", newline="")
        ignore = source.path.with_name(source.path.name + ".dockerignore")
        if ignore.is_file():  # BuildKit looks for it beside the Dockerfile
            shutil.copyfile(ignore, target.with_name(ignore.name))
        written.append(target)
    return written


def _point_to(files: Sequence[Path], command: Command, words: list[str]) -> list[str]:
    """Name the rewritten files; nothing else of the command changes."""
    named = [flag for flag in command.flags if flag.name in {"-f", "--file"}]
    if not named:
        words.insert(command.verb_end, f"--file={files[0]}")
    elif len(files) == len(named):
        for flag, file in zip(named, files, strict=True):
            put_value(words, flag, str(file))
    else:
        put_value(words, named[-1], str(files[-1]))
    return words
