"""Which pattern speaks for a GUN, and how one is written as a target path."""

from __future__ import annotations

import fnmatch
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabellion.core.gun_patterns import GunPattern, patterns_for
from tabellion.core.names import parse_gun
from tabellion.core.roles import check_target_path
from tabellion.errors import InvalidNameError


def is_gun(text: str) -> bool:
    try:
        parse_gun(text)
    except InvalidNameError:
        return False
    return True


SMALL = st.lists(st.sampled_from(["a", "b", "ab", "A"]), min_size=1, max_size=4).map("/".join)
ANY_GUN = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs"]), min_size=1, max_size=8),
    min_size=1,
    max_size=4,
).map("/".join).filter(is_gun)  # fmt: skip
WILDS = st.sampled_from(["", "/*", "/**"])


def expression(pattern: str) -> str:
    """Write a pattern as a regular expression, by what the manual says of it."""
    beginning = re.escape(pattern.rstrip("*"))
    return {0: beginning, 1: f"{beginning}[^/]+", 2: f"{beginning}.+"}[pattern.count("*")]


@given(
    gun=SMALL, pattern=st.one_of(st.builds(str.__add__, SMALL, WILDS), st.just("*"), st.just("**"))
)
def test_a_pattern_covers_what_the_manual_says(gun: str, pattern: str) -> None:
    made = GunPattern.parse(pattern)
    assert made.covers(gun) == bool(re.fullmatch(expression(pattern), gun))
    assert made.covers(gun) == (made in patterns_for(gun))
    assert made.covers(gun.upper(), in_any_case=True) == bool(
        re.fullmatch(expression(pattern), gun, re.IGNORECASE)
    )


@given(gun=SMALL)
def test_patterns_come_the_most_specific_first(gun: str) -> None:
    found = patterns_for(gun)
    assert str(found[0]) == gun
    assert str(found[-1]) == "**"
    assert len(set(found)) == len(found) == gun.count("/") + 3

    def meaning(pattern: GunPattern) -> tuple[int, int]:
        return len(pattern.parts), len(pattern.wild)

    order = [(-meaning(pattern)[0], meaning(pattern)[1]) for pattern in found]
    assert order == sorted(order)


GUNS = ["/".join(parts) for count in (1, 2, 3) for parts in itertools.product("ab", repeat=count)]
ALL_PATTERNS = ["*", "**", *(gun + wild for gun in GUNS[:6] for wild in ["", "/*", "/**"])]
PATTERNS = [GunPattern.parse(text) for text in ALL_PATTERNS]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_pattern_gives_way_to_what_is_more_specific_for_some_gun(pattern: GunPattern) -> None:
    for other in PATTERNS:
        between = [
            found.index(other) < found.index(pattern)
            for found in map(patterns_for, GUNS)
            if other in found and pattern in found
        ]
        assert pattern.gives_way_to(other) == any(between), other


@given(gun=ANY_GUN, wild=WILDS)
def test_a_pattern_is_one_target_path_and_comes_back_from_it(gun: str, wild: str) -> None:
    pattern = GunPattern.parse(gun + wild)
    assert str(pattern) == gun + wild
    assert re.fullmatch("[A-Za-z0-9._@+-]+", pattern.path)
    check_target_path(pattern.path)
    assert GunPattern.of_path(pattern.path) == pattern


@given(one=ANY_GUN, other=ANY_GUN, wild=WILDS)
def test_two_patterns_never_share_a_path(one: str, other: str, wild: str) -> None:
    first, second = GunPattern.parse(one), GunPattern.parse(other + wild)
    assert (first.path == second.path) == (first == second)


@given(path=st.text("ab+@/._-%0139AFonel", max_size=12))
def test_only_the_one_path_of_a_pattern_is_read(path: str) -> None:
    try:
        found = GunPattern.of_path(path)
    except InvalidNameError:
        return
    assert found.path == path


@given(gun=SMALL, below=SMALL)
def test_a_delegations_path_covers_what_lies_below_it(gun: str, below: str) -> None:
    pattern = f"{GunPattern.parse(gun).path}+*"
    for wild in ("", "/*", "/**"):
        path = GunPattern.parse(f"{below}{wild}").path
        assert fnmatch.fnmatchcase(path, pattern) == (f"{below}{wild}".startswith(f"{gun}/"))


@pytest.mark.parametrize(
    "text",
    ["", "/", "/*", "a/", "a//b", "a/../b", "../**", "a/./*", "a*", "a/*/b", "a/b*", "a/***",
     "**/a", "a/**/b", "a/_trust/*", "a b", "a/?", "a%2Fb", "*/", "a/**/*"],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        GunPattern.parse(text)
    assert "a pattern looks like" in caught.value.hint


@pytest.mark.parametrize(
    "path",
    ["", "+", "a+", "+a", "@one+a", "a@2E", "a@2f", "a@2Fb", "a/b", "a+..", "@All", "@FF", "a+@",
     "@one+@all", "x@C0@AF"],
)  # fmt: skip
def test_what_is_no_path_of_a_pattern_is_refused(path: str) -> None:
    with pytest.raises(InvalidNameError):
        GunPattern.of_path(path)
