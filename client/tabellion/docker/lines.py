"""A Dockerfile's text as instructions: continued lines joined, comments and heredocs left out.

Engines differ in what they take for blanks, comments and ends of lines. What one of them would
read otherwise than we do is refused: it could hold an image that we don't see.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tabellion.errors import UsageError, VerificationError

# Controls; blanks beyond ASCII, which Go trims; format characters, which nobody sees. U+200D
# stays: it joins emoji, and no engine takes it for a blank.
_ODD = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xa0\u1680\u180e\u2000-\u200c\u200e\u200f\u2028-\u202f"
    "\u205f-\u206f\u3000\ufeff]|\r(?!\n)"
)
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S+)")
_KEYWORD = re.compile(r"[ \t]*([A-Za-z]+)(?=[ \t]|$)")
_WORD = re.compile(r"\S+")
_HEREDOC = re.compile(r"""[0-9]*<<(-?)(["']?)([A-Za-z_][A-Za-z0-9_]*)\2""")
_LOOKS_LIKE_INSTRUCTION = re.compile(r"\s*(FROM|COPY|ADD|RUN|ONBUILD)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction on one line.

    Attributes:
        keyword: Its first word, in capitals; empty if that isn't made of ASCII letters.
        text: All of it, with continued lines joined.
        offsets: Where each character of ``text`` is in the file.
        line: Number of its first line, from 1.
    """

    keyword: str
    text: str
    offsets: tuple[int, ...]
    line: int

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Give the place in the file of a stretch of ``text``."""
        return self.offsets[start], self.offsets[end - 1] + 1

    def words(self) -> list[re.Match[str]]:
        """Give the words after the keyword."""
        return list(_WORD.finditer(self.text))[1:]


@dataclass(frozen=True, slots=True)
class Top:
    """What the comment lines on top say.

    Attributes:
        escape: The escape character.
        syntax: Name, place and line of the program that reads the file; None without one.
    """

    escape: str
    syntax: tuple[str, int, int] | None


def unclear(line: int, what: str, hint: str = "") -> UsageError:
    """Say that engines read a line in several ways."""
    return UsageError(
        f"line {line} of the Dockerfile has {what}: builders read it differently",
        hint=hint or "write it so that it can be read in one way only",
    )


def check_characters(text: str) -> None:
    """Refuse characters that some engine strips or takes for a blank, and others don't.

    Raises:
        VerificationError: There is one; its line and code point are named.
    """
    found = _ODD.search(text, 1 if text.startswith("\ufeff") else 0)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise VerificationError(
            f"line {line} of the Dockerfile holds the character U+{ord(found[0]):04X}:"
            " builders read it differently",
            hint="remove it, or write a plain space or end of line in its place",
        )


def read_top(text: str) -> Top:
    """Read the comment lines on top as each version of BuildKit and podman would.

    Raises:
        UsageError: They would read them differently.
    """
    if text.removeprefix("\ufeff").startswith("#!"):
        raise unclear(1, "a #! line", "remove it")
    escape, syntax, offset = "\\", None, 0
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        match = _DIRECTIVE.match(line.removeprefix("\ufeff").strip())
        if match is None:
            break
        name, value = match[1].lower(), match[2]
        if name in seen:
            raise unclear(number, f"a second {name!r} directive", "write an empty line before it")
        seen.add(name)
        if name == "escape":
            if number != 1 or value not in {"\\", "`"}:  # podman looks at the first line only
                raise unclear(
                    number, "an escape directive", "write # escape=` alone, as the first line"
                )
            escape = value
        if name == "syntax":
            syntax = value, offset + line.index(value, line.index("=")), number
        offset += len(line)
    return Top(escape, syntax)


def read_instructions(text: str, escape: str) -> list[Instruction]:
    """Give all instructions; every character's place is kept.

    Raises:
        UsageError: Builders would read the text differently.
    """
    found: list[Instruction] = []
    pending: list[_Heredoc] = []
    shown, hidden = _Joiner(escape), _Joiner(escape)
    offset = 0
    for number, line in enumerate(text.split("\n"), start=1):
        start, offset = offset, offset + len(line) + 1
        body = line.removesuffix("\r")
        is_inside = bool(pending)
        if is_inside and pending[0].ends_at(body):
            pending.pop(0)
        whole = (hidden if is_inside else shown).add(body, start, number)
        if is_inside:
            # Builders without heredocs would take these lines for instructions.
            for seen in (body, whole.text if whole else ""):
                if _LOOKS_LIKE_INSTRUCTION.match(seen):
                    raise unclear(number, "a heredoc line that reads like an instruction")
        elif whole is not None:
            found.append(whole)
            pending = _read_heredocs(whole)
    if pending:
        raise unclear(found[-1].line, f"a heredoc that {pending[0].name} never ends")
    if shown.characters:
        found.append(shown.finish())
    return found


@dataclass(slots=True)
class _Joiner:
    """Joins a continued line with those that go on with it."""

    escape: str
    characters: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    first: int = 0

    def add(self, line: str, start: int, number: int) -> Instruction | None:
        """Take one line in; give the whole instruction if it ends there."""
        if number == 1 and line.startswith("\ufeff"):
            line, start = line[1:], start + 1
        if not line.strip() or line.lstrip().startswith("#"):
            return None  # also within a continued instruction: docker goes on over both
        kept = line.rstrip(" \t")
        is_continued = kept.endswith(self.escape)
        kept = kept[:-1] if is_continued else line
        if is_continued and kept.endswith(self.escape):
            raise unclear(number, "a line that ends in two escape characters")
        if not self.characters:
            self.first = number
        self.characters.extend(kept)
        self.offsets.extend(range(start, start + len(kept)))
        return None if is_continued else self.finish()

    def finish(self) -> Instruction:
        """Give what was joined, and start anew."""
        text = "".join(self.characters)
        match = _KEYWORD.match(text)
        done = Instruction(match[1].upper() if match else "", text, tuple(self.offsets), self.first)
        self.characters, self.offsets = [], []
        return done


@dataclass(frozen=True, slots=True)
class _Heredoc:
    name: str
    strips_tabs: bool

    def ends_at(self, line: str) -> bool:
        return (line.lstrip("\t") if self.strips_tabs else line) == self.name


def _read_heredocs(instruction: Instruction) -> list[_Heredoc]:
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
        raise unclear(instruction.line, "a << that isn't plainly a heredoc")
    if found:
        before = text[: starts[-1]]
        is_json = any(word[0].startswith("[") for word in words)
        if instruction.keyword == "ONBUILD" or is_json or any(c in before for c in "\"'`\\#"):
            raise unclear(instruction.line, "a << that isn't plainly a heredoc")
    return [_Heredoc(match[3], bool(match[1])) for match in found]
