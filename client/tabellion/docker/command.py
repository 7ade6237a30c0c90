"""Reading an engine's command line: where the verb is, where the image, what the flags say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tabellion.docker.fetching import fetching_verb
from tabellion.docker.flags import SUSPECT, VERIFIED_VERBS, FlagTable, global_flags
from tabellion.docker.flags import verb_flags as flags_of
from tabellion.errors import UsageError

_GROUPS: Final = {
    "container": frozenset({"run", "create"}),
    "image": frozenset({"pull", "build"}),
    "builder": frozenset({"build", "b"}),
    "buildx": frozenset({"build", "b"}),
    "pod": frozenset({"create"}),
}


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag as written.

    Attributes:
        name: ``--platform`` or ``-f``.
        value: Its value, or None if it stands alone.
        start: Index of the word it is in.
        value_at: Index of the word that holds the value.
        offset: Where in that word the value starts.
    """

    name: str
    value: str | None
    start: int
    value_at: int
    offset: int


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, taken apart but not changed.

    Attributes:
        words: All words after the engine's name.
        verb: ``pull``, ``run``, ``create``, ``build``, ``pod create``, or "" for what isn't
            verified.
        globals_end: Index of the first word that isn't a global flag.
        verb_end: Index of the first word behind the verb.
        flags: Flags of the verb.
        operands: Indices of the words that aren't flags, first the image or context.
        warns: The command as named in the warning that it fetches images unverified, or "".
    """

    words: tuple[str, ...]
    engine: str
    verb: str
    globals_end: int
    verb_end: int = 0
    flags: tuple[Flag, ...] = ()
    operands: tuple[int, ...] = ()
    warns: str = ""

    @property
    def globals(self) -> tuple[str, ...]:
        """Give the flags before the verb: which engine, which store."""
        return self.words[: self.globals_end]

    def values(self, *names: str) -> list[str]:
        """Give the values of a flag, in order."""
        return [flag.value for flag in self.flags if flag.name in names and flag.value is not None]

    def gives(self, name: str) -> bool:
        """Tell whether a flag is there, with whatever value."""
        return any(flag.name == name for flag in self.flags)

    def has(self, *names: str) -> bool:
        """Tell whether a flag that stands alone is given, and isn't ``=false``."""
        state = False
        for flag in self.flags:
            if flag.name in names:
                state = (flag.value or "true").lower() not in {"false", "0", "f"}
        return state


def parse_command(words: Sequence[str], engine: str) -> Command:
    """Take a command line apart.

    Raises:
        UsageError: A flag isn't known, so that the image can't be told for sure.
    """
    scanner = _Scanner(words, engine)
    globals_end = scanner.scan(global_flags(engine), stop_at_operand=True)
    if globals_end >= len(words):
        return Command(tuple(words), engine, "", globals_end)
    verb, at = words[globals_end], globals_end + 1
    rest = words[at:]
    if verb in _GROUPS:
        found = _GROUPS[verb].intersection(rest)
        if rest and rest[0] in found:
            verb, at = _spelled(verb, rest[0]), at + 1
        elif found and rest[0].startswith("-"):  # its verb may come behind
            raise UsageError(
                f"{rest[0]!r} before the verb of {verb} can't be judged",
                hint=f"write flags behind the verb: {verb} VERB {rest[0]}",
            )
    if verb not in VERIFIED_VERBS:
        warns = fetching_verb(words[globals_end], rest)
        if verb != "pod create" or not (flags := _infra_images(words, at)):
            return Command(tuple(words), engine, "", globals_end, at, warns=warns)
        return Command(tuple(words), engine, verb, globals_end, at, flags)
    scanner = _Scanner(words, engine, at)
    scanner.scan(flags_of(verb, engine), stop_at_operand=verb in {"run", "create"})
    return Command(
        tuple(words), engine, verb, globals_end, at, tuple(scanner.flags), tuple(scanner.operands)
    )


def _spelled(group: str, verb: str) -> str:
    if group == "pod":
        return f"pod {verb}"
    return "build" if verb == "b" else verb


def _infra_images(words: Sequence[str], at: int) -> tuple[Flag, ...]:
    """Find ``--infra-image``; it names an image wherever it stands, so no other flag matters."""
    name, found = "--infra-image", []
    for index in range(at, len(words)):
        if words[index].startswith(f"{name}="):
            found.append(Flag(name, words[index][len(name) + 1 :], index, index, len(name) + 1))
        elif words[index] == name and index + 1 < len(words):
            found.append(Flag(name, words[index + 1], index, index + 1, 0))
    return tuple(found)


class _Scanner:
    def __init__(self, words: Sequence[str], engine: str, at: int = 0) -> None:
        self.words = words
        self.engine = engine
        self.at = at
        self.flags: list[Flag] = []
        self.operands: list[int] = []

    def scan(self, table: FlagTable, *, stop_at_operand: bool) -> int:
        while self.at < len(self.words):
            word = self.words[self.at]
            if word == "--":
                self.at += 1
                self.operands.extend(range(self.at, len(self.words)))
                return self.at
            if word.startswith("--"):
                self._long(word, table)
            elif word.startswith("-") and len(word) > 1:
                self._short(word, table)
            else:
                self.operands.append(self.at)
                if stop_at_operand:
                    return self.at
                self.at += 1
        return self.at

    def _long(self, word: str, table: FlagTable) -> None:
        name, equals, value = word.partition("=")
        start = self.at
        if equals:
            is_known = name in table.valued or name in table.alone
            if not is_known and any(part in name for part in SUSPECT):
                raise self._unknown(name)
            self.flags.append(Flag(name, value, start, start, len(name) + 1))
        elif name in table.valued:
            self._take_value(name, start)
        elif name in table.alone:
            self.flags.append(Flag(name, None, start, start, 0))
        else:
            raise self._unknown(name)
        self.at += 1

    def _short(self, word: str, table: FlagTable) -> None:
        """Read ``-it``, ``-p80:80``, ``-p 80:80`` and ``-p=80:80``, as pflag does."""
        start = self.at
        for position, letter in enumerate(word[1:], start=1):
            name, rest = f"-{letter}", word[position + 1 :]
            if name in table.valued:
                if rest:
                    skipped = 1 if rest.startswith("=") else 0
                    value = rest[skipped:]
                    self.flags.append(Flag(name, value, start, start, position + 1 + skipped))
                else:
                    self._take_value(name, start)
                break
            if name not in table.alone:
                raise self._unknown(name)
            if rest.startswith("="):
                self.flags.append(Flag(name, rest[1:], start, start, position + 2))
                break
            self.flags.append(Flag(name, None, start, start, 0))
        self.at += 1

    def _take_value(self, name: str, start: int) -> None:
        self.at += 1
        if self.at >= len(self.words):
            raise UsageError(f"{name} needs a value", hint=f"write {name} VALUE")
        self.flags.append(Flag(name, self.words[self.at], start, self.at, 0))

    def _unknown(self, name: str) -> UsageError:
        hint = "write its long form with =VALUE"
        if any(part in name for part in SUSPECT):
            hint = "it may name an image itself, which can't be verified: leave it out"
        elif name.startswith("--"):
            hint = f"write it as {name}=VALUE (or {name}=true), then the image can be told for sure"
        return UsageError(f"{self.engine}'s flag {name!r} isn't known here", hint=hint)


def flag_words(command: Command, names: frozenset[str]) -> Iterator[str]:
    """Give the flags of these names again, as ``--flag=value``, for another command."""
    for flag in command.flags:
        if flag.name in names:
            yield flag.name if flag.value is None else f"{flag.name}={flag.value}"


def put_value(words: list[str], flag: Flag, value: str) -> None:
    """Put another value in the place of a flag's value; the rest of its word stays."""
    words[flag.value_at] = words[flag.value_at][: flag.offset] + value
