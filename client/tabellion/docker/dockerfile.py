"""The images a Dockerfile starts from, and the same file with digests in their place.

Every image that a build fetches by name is found: ``FROM``, ``COPY --from=``, ``RUN
--mount=from=`` and the ``# syntax=`` line (a program that reads the rest of the file). Stages
and ``scratch`` aren't images. Everything else stays as it is, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tabellion.errors import UsageError

_DIRECTIVE = re.compile(r"(?:#|//)\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S+)")
_INSTRUCTION = re.compile(r"\s*([A-Za-z]+)(?=\s|$)")
_HEREDOC = re.compile(r"""[0-9]*<<(-?)(["']?)([A-Za-z_][A-Za-z0-9_]*)\2""")
_LOOKS_LIKE_INSTRUCTION = re.compile(r"\s*(FROM|COPY|ADD|RUN|ONBUILD)\b", re.IGNORECASE)
_VARIABLE = re.compile(
    r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])([^{}$]*))?\})"
)
_WORD = re.compile(r"\S+")
_STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ARG = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:=(?:\"([^\"]*)\"|'([^']*)'|(\S*)))?")


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image named in the file.

    Attributes:
        name: The name after substitution, as to be verified.
        start: Where the words to be replaced start in the text.
        end: Where they end.
        line: Line number, from 1.
    """

    name: str
    start: int
    end: int
    line: int


@dataclass(frozen=True, slots=True)
class _Instruction:
    keyword: str
    text: str
    offsets: tuple[int, ...]
    line: int

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Give the place in the file of a stretch of ``text``."""
        return self.offsets[start], self.offsets[end - 1] + 1


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
    """
    state = _State(arguments or {}, contexts, replaces_first)
    state.globals.update(predefined or {})
    escape = _read_directives(text, state)
    for instruction in _instructions(text, escape):
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


def _read_directives(text: str, state: _State) -> str:
    """Read the comment lines on top: ``escape`` and ``syntax``, in every form BuildKit takes."""
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        raise UsageError("the Dockerfile starts with JSON", hint="write # syntax=... instead")
    escape, offset = "\\", 0
    seen: set[str] = set()
    # BuildKit ends lines at \n alone; splitlines would also end them at form feeds and others.
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), start=1):
        if number == 1 and line.startswith("#!"):
            offset += len(line)
            continue
        match = _DIRECTIVE.match(line.lstrip("\ufeff").strip())
        if match is None or match[1].lower() in seen:
            break
        name, value = match[1].lower(), match[2]
        seen.add(name)
        if name == "escape" and value in {"\\", "`"}:
            escape = value
        if name == "syntax":
            start = offset + line.index(value, line.index("="))
            state.found.append(BaseImage(value, start, start + len(value), number))
        offset += len(line)
    return escape


def _instructions(text: str, escape: str) -> list[_Instruction]:
    """Join continued lines, leave out comments and heredocs, keep every character's place."""
    found: list[_Instruction] = []
    characters: list[str] = []
    offsets: list[int] = []
    pending: list[_Heredoc] = []
    offset, first = 0, 0
    continued = re.compile(re.escape(escape) + r"[ \t]*$")
    for number, line in enumerate(text.split("\n"), start=1):
        start, offset = offset, offset + len(line) + 1
        body = line.removesuffix("\r")
        if _is_in_heredoc(pending, body, number):
            continue
        if not body.strip() or body.lstrip("\ufeff \t").startswith("#"):
            continue  # also within a continued instruction: docker goes on over both
        match = continued.search(body)
        kept = body[: match.start()] if match else body
        if match and kept.endswith(escape):
            raise _unclear(number, "a line that ends in two escape characters")
        if not characters:
            first = number
            if number == 1 and kept.startswith("\ufeff"):
                kept, start = kept[1:], start + 1
        characters.extend(kept)
        offsets.extend(range(start, start + len(kept)))
        if match is None:
            instruction = _finish(characters, offsets, first)
            found.append(instruction)
            pending = _read_heredocs(instruction)
            characters, offsets = [], []
    if pending:
        raise _unclear(first, f"a heredoc that {pending[0].name} never ends")
    if characters:
        found.append(_finish(characters, offsets, first))
    return found


def _is_in_heredoc(pending: list[_Heredoc], line: str, number: int) -> bool:
    if not pending:
        return False
    if pending[0].ends_at(line):
        pending.pop(0)
    elif _LOOKS_LIKE_INSTRUCTION.match(line):
        # Builders without heredocs would take this line for an instruction.
        raise _unclear(number, "a heredoc line that reads like an instruction")
    return True


@dataclass(frozen=True, slots=True)
class _Heredoc:
    name: str
    strips_tabs: bool

    def ends_at(self, line: str) -> bool:
        return (line.lstrip("\t") if self.strips_tabs else line) == self.name


def _read_heredocs(instruction: _Instruction) -> list[_Heredoc]:
    """Find heredocs; where ``<<`` could be read in two ways, refuse.

    A builder that sees no heredoc where we see one would fetch a ``FROM`` that we skipped.
    """
    text = instruction.text
    if instruction.keyword not in {"RUN", "COPY", "ADD", "ONBUILD"}:
        return []
    words = list(_WORD.finditer(text))
    found = [match for word in words if (match := _HEREDOC.fullmatch(word[0]))]
    starts = [word.start() for word in words if _HEREDOC.fullmatch(word[0])]
    if text.count("<<") != len(found):
        raise _unclear(instruction.line, "a << that isn't plainly a heredoc")
    if found:
        before = text[: starts[-1]]
        is_json = any(word[0].startswith("[") for word in words)
        if instruction.keyword == "ONBUILD" or is_json or any(c in before for c in "\"'`\\#"):
            raise _unclear(instruction.line, "a << that isn't plainly a heredoc")
    return [_Heredoc(match[3], bool(match[1])) for match in found]


def _unclear(line: int, what: str) -> UsageError:
    return UsageError(
        f"line {line} of the Dockerfile has {what}: builders read it differently",
        hint="write it so that it can be read in one way only",
    )


def _finish(characters: list[str], offsets: list[int], line: int) -> _Instruction:
    text = "".join(characters)
    match = _INSTRUCTION.match(text)
    keyword = match[1].upper() if match else ""
    return _Instruction(keyword, text, tuple(offsets), line)


def _declare(instruction: _Instruction, state: _State) -> None:
    """Read ``ARG NAME[=default]`` before the first FROM."""
    match = _INSTRUCTION.match(instruction.text)
    rest = instruction.text[match.end() :] if match else ""
    for item in _ARG.finditer(rest):
        name = item[1]
        if name in state.arguments:
            state.globals[name] = state.arguments[name]
            continue
        values = [value for value in item.groups()[1:] if value is not None]
        if values:
            literal = item[3] is not None
            value = values[0]
            state.globals[name] = value if literal else _substitute(value, state, instruction.line)


def _read_from(instruction: _Instruction, state: _State) -> None:
    words = [item for item in _WORD.finditer(instruction.text)][1:]  # noqa: C416  # then sliced
    _refuse_quoted_flags(words, instruction.line)
    while words and words[0][0].startswith("--"):
        words.pop(0)
    if not words:
        raise UsageError(f"line {instruction.line} of the Dockerfile: FROM names no image")
    image = words[0]
    stage = ""
    if len(words) >= 3 and words[1][0].lower() == "as":  # noqa: PLR2004  # image AS name
        stage = words[2][0]
    if stage and not _STAGE.fullmatch(stage):  # else FROM EVIL.IO/x could pass for evil.io/x
        raise _unclear(instruction.line, f"the stage name {stage[:60]!r}")
    if state.stages or not state.replaces_first:
        name = _substitute(image[0].strip("\"'"), state, instruction.line)
        _add(name, instruction, image.span(), state)
    state.stages.append(stage.lower())


def _read_flags(instruction: _Instruction, state: _State) -> None:
    """Find ``--from=NAME`` and ``--mount=...,from=NAME`` among the leading flags."""
    words = [item for item in _WORD.finditer(instruction.text)][1:]  # noqa: C416  # then sliced
    if instruction.keyword == "ONBUILD" and words:
        words.pop(0)
    _refuse_quoted_flags(words, instruction.line)
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
                    place = (at + len("from="), at + len(part))
                    _add_named(source, instruction, place, state)
                at += len(part) + 1


def _refuse_quoted_flags(words: list[re.Match[str]], line: int) -> None:
    """Refuse quotes and escapes among the leading flags: builders take them away, or don't."""
    for word in words:
        if not word[0].lstrip("\"'`\\").startswith("-"):
            return
        if any(character in word[0] for character in "\"'`\\"):
            raise _unclear(line, f"the quoted flag {word[0][:60]!r}")


def _add_named(
    value: str, instruction: _Instruction, place: tuple[int, int], state: _State
) -> None:
    if "$" in value:
        raise UsageError(
            f"line {instruction.line} of the Dockerfile takes files from {value!r},"
            " a variable isn't allowed there",
            hint="name it in a stage: FROM $NAME AS files, then --from=files",
        )
    if re.fullmatch("[0-9]{1,6}", value) and int(value) < len(state.stages):
        return
    _add(value.strip("\"'"), instruction, place, state)


def _add(name: str, instruction: _Instruction, place: tuple[int, int], state: _State) -> None:
    # Stages go by any case; contexts by their exact name, as EVIL.IO/x isn't evil.io/x to builders.
    if name == "scratch" or (name and name.lower() in state.stages) or name in state.contexts:
        return
    if not name:
        raise UsageError(
            f"line {instruction.line} of the Dockerfile: the image's name is empty",
            hint="a variable has no value: give --build-arg NAME=VALUE, or ARG NAME=default"
            " before the first FROM",
        )
    start, end = instruction.place(*place)
    state.found.append(BaseImage(name, start, end, instruction.line))


def _substitute(text: str, state: _State, line: int) -> str:
    def value_of(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        value = state.globals.get(name)
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
