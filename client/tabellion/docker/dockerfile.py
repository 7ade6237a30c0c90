"""The images a Dockerfile starts from, and the same file with digests in their place.

Every image that a build fetches by name is found: ``FROM``, ``COPY --from=``, ``RUN
--mount=from=`` and the ``# syntax=`` line (a program that reads the rest of the file). Stages
and ``scratch`` aren't images. Everything else stays as it is, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tabellion.docker.lines import (
    Instruction,
    check_characters,
    read_instructions,
    read_top,
    unclear,
)
from tabellion.errors import UsageError

_VARIABLE = re.compile(
    r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])([^{}$]*))?\})"
)
_PLATFORM = re.compile("(BUILD|TARGET)(PLATFORM|OS|ARCH|VARIANT)")
_STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ARG = re.compile(
    r"""\s+([A-Za-z_][A-Za-z0-9_]*)"""
    r"""(=(?:"([^"'\\`]*)"|'([^"'\\`]*)'|([^\s"'\\`]*)))?(?=\s|$)"""
)


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image named in the file.

    Attributes:
        name: The name after substitution, as to be verified.
        start: Where the words to be replaced start in the text.
        end: Where they end.
        line: Line number, from 1.
        is_stage: It's no image but a stage, a context or ``scratch``, to be written just so:
            engines don't agree on cases and on the values of variables.
    """

    name: str
    start: int
    end: int
    line: int
    is_stage: bool = False


@dataclass(slots=True)
class _State:
    arguments: Mapping[str, str]
    contexts: frozenset[str]
    replaces_first: bool = False
    globals: dict[str, str] = field(default_factory=dict)
    stages: list[str] = field(default_factory=list)
    found: list[BaseImage] = field(default_factory=list)


def find_images(
    text: str,
    *,
    arguments: Mapping[str, str] | None = None,
    contexts: frozenset[str] = frozenset(),
    predefined: Mapping[str, str] | None = None,
    replaces_first: bool = False,
) -> list[BaseImage]:
    """Find the images a Dockerfile names.

    Args:
        text: The Dockerfile.
        arguments: Values of ``--build-arg``.
        contexts: Names of ``--build-context``, which aren't images.
        predefined: Platform arguments such as ``TARGETARCH``.
        replaces_first: podman's ``--from`` takes the place of the very first ``FROM``'s image.

    Raises:
        UsageError: A name can't be told for sure; the line is named.
        VerificationError: The text holds a character that only some engines skip.
    """
    state = _State(arguments or {}, contexts, replaces_first)
    state.globals.update(predefined or {})
    check_characters(text)
    top = read_top(text)
    if top.syntax:
        name, start, line = top.syntax
        state.found.append(BaseImage(name, start, start + len(name), line))
    for instruction in read_instructions(text, top.escape):
        if not instruction.keyword:
            raise unclear(instruction.line, "a first word that isn't an instruction")
        if instruction.keyword == "ARG" and not state.stages:
            _declare(instruction, state)
        elif instruction.keyword == "FROM":
            _read_from(instruction, state)
        elif instruction.keyword in {"COPY", "ADD", "RUN", "ONBUILD"}:
            _read_flags(instruction, state)
    return state.found


def replace_images(text: str, replacements: Mapping[BaseImage, str]) -> str:
    """Put digests in the place of names."""
    for image in sorted(replacements, key=lambda item: item.start, reverse=True):
        text = text[: image.start] + replacements[image] + text[image.end :]
    return text


def _declare(instruction: Instruction, state: _State) -> None:
    """Read ``ARG NAME[=default]`` before the first FROM."""
    text = instruction.text.strip()
    place = len("ARG")
    while place < len(text):
        item = _ARG.match(text, place)
        if item is None:
            raise unclear(
                instruction.line,
                f"the argument {text[place : place + 60].strip()!r}",
                hint='write NAME, NAME=value or NAME="value", without quotes or escapes within',
            )
        place = item.end()
        name, _, double, single, plain = item.groups()
        if name in state.arguments:
            state.globals[name] = state.arguments[name]
        elif single is not None:
            state.globals[name] = single
        elif item[2]:
            state.globals[name] = _substitute(double or plain or "", state, instruction.line)


def _read_from(instruction: Instruction, state: _State) -> None:
    words = instruction.words()
    _refuse_unclear_flags(words, instruction.line)
    while words and words[0][0].startswith("--"):
        words.pop(0)
    if not words:
        raise UsageError(f"line {instruction.line} of the Dockerfile: FROM names no image")
    image = words[0]
    stage = ""
    if len(words) >= 3 and words[1][0].lower() == "as":  # noqa: PLR2004  # image AS name
        stage = words[2][0]
    if stage and not _STAGE.fullmatch(stage):  # else FROM EVIL.IO/x could pass for evil.io/x
        raise unclear(instruction.line, f"the stage name {stage[:60]!r}")
    if state.stages or not state.replaces_first:
        name = _substitute(image[0].strip("\"'"), state, instruction.line)
        _add(name, instruction, image.span(), state, state.stages)
    state.stages.append(stage)


def _read_flags(instruction: Instruction, state: _State) -> None:
    """Find ``--from=NAME`` and ``--mount=...,from=NAME`` among the leading flags."""
    words = instruction.words()
    if instruction.keyword == "ONBUILD" and words:
        trigger = words.pop(0)[0]
        if not re.fullmatch("[A-Za-z]+", trigger) or trigger.upper() == "ONBUILD":
            raise unclear(instruction.line, f"ONBUILD with {trigger[:60]!r}")
    _refuse_unclear_flags(words, instruction.line)
    for word in words:
        if not word[0].startswith("--"):
            break
        flag, _, value = word[0].partition("=")
        at = word.start() + len(flag) + 1
        if flag == "--from":
            _add_named(value, instruction, (at, word.end()), state)
        elif flag == "--mount":
            for part in value.split(","):
                key, equals, source = part.partition("=")
                if key.lower() == "from" and equals:
                    if source.isdecimal():  # a stage to podman, an image to BuildKit
                        raise unclear(
                            instruction.line,
                            f"a mount from {source[:60]!r}",
                            hint="give the stage a name: FROM IMAGE AS files, then from=files",
                        )
                    place = (at + len("from="), at + len(part))
                    _add_named(source, instruction, place, state)
                at += len(part) + 1


def _refuse_unclear_flags(words: list[re.Match[str]], line: int) -> None:
    """Refuse quotes and escapes among the leading flags: builders take them away, or don't.

    podman also puts variables' values in before it reads a flag, so one could add ``from=``.
    """
    for word in words:
        flag = word[0]
        if not flag.lstrip("\"'`\\").startswith("-"):
            return
        if any(character in flag for character in "\"'`\\"):
            raise unclear(line, f"the quoted flag {flag[:60]!r}")
        name, _, value = flag.partition("=")
        if "$" in name or (name == "--mount" and "$" in value):
            raise unclear(
                line, f"a variable in the flag {flag[:60]!r}", hint="write its value instead"
            )


def _add_named(value: str, instruction: Instruction, place: tuple[int, int], state: _State) -> None:
    if "$" in value:
        raise UsageError(
            f"line {instruction.line} of the Dockerfile takes files from {value!r},"
            " a variable isn't allowed there",
            hint="name it in a stage: FROM $NAME AS files, then --from=files",
        )
    # In its own stage a name is an image to podman, an error to BuildKit.
    *earlier, own = state.stages or [""]
    if re.fullmatch("[0-9]{1,6}", value) and int(value) < len(earlier):
        return
    stages = [stage for stage in earlier if stage.lower() != own.lower()]
    _add(value.strip("\"'"), instruction, place, state, stages)


def _add(
    name: str,
    instruction: Instruction,
    place: tuple[int, int],
    state: _State,
    stages: Sequence[str],
) -> None:
    if not name:
        raise UsageError(
            f"line {instruction.line} of the Dockerfile: the image's name is empty",
            hint="a variable has no value: give --build-arg NAME=VALUE, or ARG NAME=default"
            " before the first FROM",
        )
    # BuildKit takes stages' names in any case, podman as they are spelled. Contexts go by their
    # exact name: EVIL.IO/x isn't evil.io/x to builders.
    spelled = name if name == "scratch" or name in state.contexts else _spelling(name, stages)
    if spelled != instruction.text[slice(*place)]:
        start, end = instruction.place(*place)
        is_stage = bool(spelled)
        state.found.append(BaseImage(spelled or name, start, end, instruction.line, is_stage))


def _spelling(name: str, stages: Sequence[str]) -> str:
    """Give the stage's name as it is spelled where it begins; empty if there's no such stage."""
    alike = [stage for stage in stages if stage.lower() == name.lower()]
    return name if name in alike else "".join(alike[-1:])


def _substitute(text: str, state: _State, line: int) -> str:
    def value_of(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        value = state.globals.get(name)
        if value is None and _PLATFORM.fullmatch(name):
            raise UsageError(
                f"line {line} of the Dockerfile: ${name} has no single value in this build",
                hint="build for one platform at a time, with --platform OS/ARCHITECTURE",
            )
        operator, word = match[3], match[4] or ""
        if operator is None:
            return value or ""
        is_set = bool(value) if operator.startswith(":") else value is not None
        if operator.endswith("-"):
            return (value or "") if is_set else word
        return word if is_set else ""

    result = _VARIABLE.sub(value_of, text)
    if "$" in _VARIABLE.sub("", text):
        raise UsageError(
            f"line {line} of the Dockerfile: the substitution in {text!r} isn't supported",
            hint="use $NAME, ${NAME}, ${NAME:-default} or ${NAME:+other}",
        )
    return result
