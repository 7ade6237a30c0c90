"""Reading an engine's command line: where the verb is, where the image, what the flags say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tabellion.docker.flags import UNVERIFIED_VERBS, VERIFIED_VERBS, FlagTable, global_flags
from tabellion.docker.flags import verb_flags as flags_of
from tabellion.errors import UsageError

_GROUPS: Final = {
    "container": frozenset({"run", "create"}),
    "image": frozenset({"pull", "build"}),
    "builder": frozenset({"build"}),
    "buildx": frozenset({"build", "b"}),
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
        verb: ``pull``, ``run``, ``create``, ``build``, or "" for what isn't verified.
        globals_end: Index of the first word that isn't a global flag.
        flags: Flags of the verb.
        operands: Indices of the words that aren't flags, first the image or context.
        warns: The verb fetches images, and nothing here verifies them.
    """

    words: tuple[str, ...]
    engine: str
    verb: str
    globals_end: int
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
    if verb in _GROUPS and at < len(words):
        sub = words[at]
        if sub in _GROUPS[verb]:
            verb, at = ("build" if sub == "b" else sub), at + 1
        elif sub.startswith("-") and sub not in {"--help", "-h"}:  # its verb comes behind
            raise UsageError(
                f"{sub!r} before the verb of {verb} can't be judged",
                hint=f"write flags behind the verb: {verb} VERB {sub}",
            )
        else:
            verb = sub if sub in UNVERIFIED_VERBS else ""
    if verb not in VERIFIED_VERBS:
        warned = verb if verb in UNVERIFIED_VERBS else ""
        return Command(tuple(words), engine, "", globals_end, warns=warned)
    scanner = _Scanner(words, engine, at)
    scanner.scan(flags_of(verb, engine), stop_at_operand=verb in {"run", "create"})
    return Command(
        tuple(words), engine, verb, globals_end, tuple(scanner.flags), tuple(scanner.operands)
    )


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
        hint = (
            f"write it as {name}=VALUE (or {name}=true), then the image can be told for sure"
            if name.startswith("--")
            else "write its long form with =VALUE"
        )
        return UsageError(f"{self.engine}'s flag {name!r} isn't known here", hint=hint)


def flag_words(command: Command, names: frozenset[str]) -> Iterator[str]:
    """Give the flags of these names again, as ``--flag=value``, for another command."""
    for flag in command.flags:
        if flag.name in names:
            yield flag.name if flag.value is None else f"{flag.name}={flag.value}"
