from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabellion.docker.command import parse_command
from tabellion.docker.fetching import FETCHING
from tabellion.errors import UsageError


@pytest.mark.parametrize(
    ("line", "verb", "image"),
    [
        ("pull alpine", "pull", "alpine"),
        ("pull -q --platform linux/arm64 alpine", "pull", "alpine"),
        ("pull alpine --quiet", "pull", "alpine"),
        ("image pull alpine", "pull", "alpine"),
        ("--host unix:///x -D pull alpine", "pull", "alpine"),
        ("-Hunix:///x pull alpine", "pull", "alpine"),
        ("run alpine sh -c true", "run", "alpine"),
        ("run -it --rm -p 80:80 -e A=b alpine -p 1", "run", "alpine"),
        ("run -p80:80 -eA alpine", "run", "alpine"),
        ("run -itv /a:/b alpine", "run", "alpine"),
        ("run --name=x --new-flag=1 alpine", "run", "alpine"),
        ("run -i=false -- alpine --rm", "run", "alpine"),
        ("container run --network none alpine", "run", "alpine"),
        ("create --label a=b alpine", "create", "alpine"),
        ("build -t x -f F .", "build", "."),
        ("build . -t x", "build", "."),
        ("buildx build --push -t x .", "build", "."),
        ("builder build .", "build", "."),
    ],
)
def test_the_image_is_found(line: str, verb: str, image: str) -> None:
    command = parse_command(line.split(), "docker")
    assert command.verb == verb
    assert command.words[command.operands[0]] == image


@pytest.mark.parametrize(
    "line",
    ["ps -a", "images", "", "--version", "image ls", "container ls", "buildx ls", "exec -it x sh"],
)
def test_other_commands_pass_through(line: str) -> None:
    command = parse_command(line.split(), "docker")
    assert command.verb == ""
    assert command.warns == ""


def test_commands_that_fetch_unverified_are_told() -> None:
    assert parse_command(["compose", "-f", "x", "up"], "docker").warns == "compose up"
    assert parse_command(["buildx", "bake"], "docker").warns == "buildx bake"


@pytest.mark.parametrize(
    "line", ["run --brand-new alpine other", "run -Z alpine", "pull --name", "--odd pull alpine"]
)
def test_a_flag_that_could_hide_the_image_is_refused(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_command(line.split(), "docker")
    assert caught.value.hint


def test_values_and_switches_are_read() -> None:
    words = ["pull", "-q", "--platform=a", "--platform", "b", "--all-tags=false", "x"]
    command = parse_command(words, "podman")
    assert command.values("--platform") == ["a", "b"]
    assert command.has("-q", "--quiet")
    assert not command.has("--all-tags")


@given(st.lists(st.text(alphabet="-abeit=. ", min_size=1, max_size=8), max_size=6))
def test_any_words_give_a_command_or_a_usage_error(words: list[str]) -> None:
    for verb in ("run", "pull", "build"):
        try:
            command = parse_command([verb, *words], "docker")
        except UsageError:
            continue
        assert list(command.words) == [verb, *words]
        assert all(0 < at < len(command.words) for at in command.operands)


def test_the_manual_names_every_command_that_fetches_unverified() -> None:
    manual = (Path(__file__).parents[3] / "client" / "README.md").read_text()
    table = manual[manual.index("**not\nverified**") :]
    for verb, seconds in FETCHING.items():
        assert re.search(rf"`{verb}[` ]", table), verb
        for word in seconds:
            assert word.startswith("-") or re.search(rf"[` ]{word}`", table), (verb, word)
