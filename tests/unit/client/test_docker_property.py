"""Whatever the words, the engine never gets an unverified name where it looks for an image.

The command lines are judged by a second reading of Go's flag rules, written for this test; that
the tables of flags are the real engines' is shown in integration/test_docker_flags.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest import mock

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tabellion.docker import run_engine, wrapper
from tabellion.docker.flags import FlagTable, global_flags, verb_flags
from tabellion.errors import TabellionError
from unit.client.engine_recorder import DIGEST, SOURCES

NAMES = ["unsigned", "r.io/unsigned:1", "signed", "r.io/signed", f"signed@{DIGEST}"]
MOUNTS = [
    "type=image,src=unsigned,dst=/x",
    "Type=Image,Source=unsigned",
    "src=unsigned,type=image",
    "type=image,source=signed,dst=/x",
    "type=bind,src=/unsigned,dst=/x",
]
OTHERS = ["", "-", "--", "=", "x", "/unsigned", "never", "true", "false", "new:p", "-it", "--rm"]
SPELLINGS = {
    "pull": [["pull"], ["image", "pull"]],
    "run": [["run"], ["container", "run"]],
    "create": [["create"], ["container", "create"]],
}


class Replaced(Exception):  # noqa: N818  # no error: the engine took over
    """The process became the engine."""


@dataclass
class Reading:
    """What an engine makes of words, by the rules of Go's pflag."""

    flags: list[tuple[str, str]] = field(default_factory=list)
    operands: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, words: Sequence[str], table: FlagTable, *, intersperse: bool) -> Reading | None:
        """Read words; None where the engine would give up."""
        reading, left = cls(), list(words)
        try:
            while left:
                word = left.pop(0)
                if word == "--":
                    reading.operands += left
                    return reading
                if word.startswith("--"):
                    reading.take(*word.partition("="), left, table)
                elif word.startswith("-") and word != "-":
                    reading.take_shorts(word[1:], left, table)
                else:
                    reading.operands.append(word)
                    if not intersperse:
                        return reading
        except (IndexError, KeyError):
            return None
        return reading

    def take(self, name: str, equals: str, value: str, left: list[str], table: FlagTable) -> None:
        if not equals and name in table.valued:
            value = left.pop(0)
        self.flags.append((name, value))

    def take_shorts(self, letters: str, left: list[str], table: FlagTable) -> None:
        while letters:
            name, letters = f"-{letters[0]}", letters[1:]
            if letters.startswith("=") and len(letters) > 1:
                self.flags.append((name, letters[1:]))
                return
            if name in table.valued:
                self.flags.append((name, letters or left.pop(0)))
                return
            if name not in table.alone:
                raise KeyError(name)
            self.flags.append((name, ""))


def words_for(verb: str, engine: str) -> st.SearchStrategy[list[str]]:
    table = verb_flags(verb, engine)
    flags = sorted(table.alone | table.valued)
    value = st.sampled_from(NAMES + MOUNTS + OTHERS)
    flag = st.sampled_from(flags)
    shorts = "".join(name[1] for name in flags if len(name) == 2)
    piece = st.one_of(
        flag.map(lambda name: [name]),
        st.tuples(flag, value).map(list),
        st.tuples(flag, value).map(lambda pair: [f"{pair[0]}={pair[1]}"]),
        st.tuples(st.sampled_from(sorted(table.valued)), value).map(list),
        st.tuples(st.just("--mount"), st.sampled_from(MOUNTS)).map(list),
        st.text(alphabet=shorts + "=", min_size=1, max_size=4).map(lambda text: [f"-{text}"]),
        value.map(lambda text: [text]),
    )
    names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)
    return st.tuples(st.lists(piece, max_size=5), names).map(
        lambda both: [word for words in both[0] for word in words] + both[1]
    )


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, str, tuple[int, int], list[str]]:
    engine = draw(st.sampled_from(["docker", "podman", "nerdctl"]))
    verb = draw(st.sampled_from(sorted(SPELLINGS)))
    table = global_flags(engine)
    start = draw(st.lists(st.sampled_from(sorted(table.alone - {"-h", "--help"})), max_size=2))
    for name in draw(st.lists(st.sampled_from(sorted(table.valued)), max_size=2)):
        start += [name, draw(st.sampled_from([*NAMES, "pull", "--"]))]
    spelling = draw(st.sampled_from(SPELLINGS[verb]))
    ends = len(start), len(start) + len(spelling)
    return engine, verb, ends, start + spelling + draw(words_for(verb, engine))


def told_by(engine: str, words: list[str]) -> list[list[str]]:
    """Run the wrapper; give all that the engine would be told."""
    told: list[list[str]] = []

    def step(_: str, said: Sequence[str], *__: object, **___: object) -> int:
        told.append(list(said))
        return 0

    def replace(_: str, said: Sequence[str]) -> None:
        told.append(list(said))
        raise Replaced

    with (
        mock.patch.object(wrapper, "run_child", step),
        mock.patch.object(wrapper, "run_step", step),
        mock.patch.object(wrapper, "is_present", return_value=False),
        mock.patch.object(wrapper, "replace_process", replace),
    ):
        try:
            asyncio.run(run_engine(words, engine=engine, sources=SOURCES))
        except TabellionError as error:
            event(f"refused: {type(error).__name__}")
            assert told == []
        except Replaced:
            event("became the engine")
    return told


@settings(max_examples=500, deadline=None)
@example(
    (
        "docker",
        "create",
        (0, 1),
        [
            "create",
            "--mount",
            "--add-host=type=image,src=unsigned,dst=/x",
            "--add-host",
            "unsigned",
        ],
    )
)
@given(command_lines())
def test_the_engine_never_sees_an_unverified_name_as_image(
    line: tuple[str, str, tuple[int, int], list[str]],
) -> None:
    engine, verb, (globals_end, verb_end), words = line
    for told in told_by(engine, words):
        start, as_verb = verb_end, verb
        if told[:verb_end] != words[:verb_end]:  # a step of ours
            if told[globals_end] == "tag":
                continue
            start, as_verb = globals_end + 1, "pull"
            assert told[globals_end] == "pull"
        table = verb_flags(as_verb, engine)
        reading = Reading.of(told[start:], table, intersperse=as_verb == "pull")
        helps = {"--help", "-h"} if as_verb == "pull" else {"--help"}
        if reading is None or helps & {name for name, _ in reading.flags}:
            continue  # the engine itself refuses it, or explains itself
        if "--rootfs" not in {name for name, _ in reading.flags}:
            for image in reading.operands if as_verb == "pull" else reading.operands[:1]:
                assert image.endswith(f"@{DIGEST}"), told
                assert "unsigned" not in image, told
        for name, value in reading.flags:
            if name == "--mount" and "type=image" in value.casefold():
                assert f"@{DIGEST}" in value, told
                assert "unsigned" not in value, told
