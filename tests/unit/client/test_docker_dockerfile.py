from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabellion.docker.dockerfile import find_images, replace_images
from tabellion.errors import UsageError


def names(text: str, **arguments: str) -> list[str]:
    return [image.name for image in find_images(text, arguments=arguments)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM alpine", ["alpine"]),
        ("from alpine:3 as x\nFROM x\nfrom X", ["alpine:3"]),
        ("FROM scratch\nCOPY --from=tools /a /b\n", ["tools"]),
        ("FROM a AS one\nFROM b\nCOPY --from=0 /x /y\nCOPY --from=one /x /y", ["a", "b"]),
        ("FROM a\nCOPY --from=1 /x /y", ["a", "1"]),
        ("FROM a\nCOPY --from=later /x /y\nFROM b AS later", ["a", "later", "b"]),
        ("FROM --platform=$BUILDPLATFORM a\n", ["a"]),
        ("FROM \\\n  # why\n  a \\\n  AS x\nFROM x", ["a"]),
        ("# escape=`\nFROM `\n a\nRUN dir c:\\\nFROM b", ["a", "b"]),
        ("# syntax=docker/dockerfile:1\nFROM a", ["docker/dockerfile:1", "a"]),
        ("#!/x\n# Syntax = front:1 -v\n# escape=`\nFROM `\na", ["front:1", "a"]),
        ("// syntax=front\nFROM a", ["front", "a"]),
        ("# comment\n# syntax=x\nFROM a", ["a"]),
        ("FROM a\nRUN --mount=type=bind,from=tool,source=/x /x", ["a", "tool"]),
        ("FROM a\nRUN <<EOF\nhidden\nEOF\nFROM b", ["a", "b"]),
        ("FROM a\nRUN echo FROM b\n", ["a"]),
        ("FROM a\r\nFROM b\r\n", ["a", "b"]),
        ("\ufeffFROM a\n", ["a"]),
        ("FROM a\nONBUILD COPY --from=tool /x /y", ["a", "tool"]),
    ],
)
def test_every_image_is_found(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ARG V=1\nFROM a:$V", "a:1"),
        ("ARG V\nFROM a:${V:-2}", "a:2"),
        ("ARG V=3\nARG I=a:${V}\nFROM $I", "a:3"),
        ('ARG V="4"\nFROM a:$V', "a:4"),
        ("ARG X=\nFROM a${X:+b}", "a"),
        ("ARG GIVEN=no\nFROM a:$GIVEN", "a:yes"),
    ],
)
def test_arguments_are_substituted(text: str, expected: str) -> None:
    assert names(text, GIVEN="yes") == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "FROM",
        "FROM $NOTHING",
        "ARG A=x\nFROM ${A%y}",
        "FROM a\nCOPY --from=$A /x /y",
        "FROM a$",
        "{}\nFROM a",
    ],
)
def test_what_cannot_be_told_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        names(text)


def test_build_contexts_are_no_images() -> None:
    found = find_images("FROM here\nCOPY --from=there /x /y", contexts=frozenset({"here"}))
    assert [image.name for image in found] == ["there"]
    # To podman EVIL.io/x isn't the context, but an image of evil.io.
    found = find_images("FROM EVIL.io/x", contexts=frozenset({"evil.io/x"}))
    assert [image.name for image in found] == ["EVIL.io/x"]


def test_only_the_names_are_replaced() -> None:
    text = (
        "# syntax=front\r\nARG V=1\nFROM --platform=x  a:$V  AS b # no\n"
        "COPY --from=c /x /y\nRUN --mount=from=d,target=/t x\n"
    )
    replaced = replace_images(text, dict.fromkeys(find_images(text), "N@D"))
    assert replaced == (
        "# syntax=N@D\r\nARG V=1\nFROM --platform=x  N@D  AS b # no\n"
        "COPY --from=N@D /x /y\nRUN --mount=from=N@D,target=/t x\n"
    )


@given(st.text(alphabet="FROMCPY runasfrom-=<$\\{}:\n\r#`'\"EOF,1", max_size=120))
def test_any_text_gives_places_that_hold_or_a_usage_error(text: str) -> None:
    try:
        found = find_images(text)
    except UsageError:
        return
    for image in found:
        assert 0 <= image.start < image.end <= len(text)


@pytest.mark.parametrize(
    "line",
    [
        'RUN echo "<<EOF"', "RUN cat <<<foo", "RUN echo $((1<<X))", "RUN cat << EOF",
        "RUN cat <<E-F", 'RUN ["sh", "-c", "cat <<EOF"]', "RUN <<EOF\nx\n EOF", "RUN <<EOF\nFROM b",
        "ONBUILD RUN <<EOF\nx\nEOF", "RUN <<EOF\nx", "RUN echo \\\\",
        'COPY --"from=evil" a b', "COPY --fro\\m=evil a b", 'COPY --chown="0: 0" --from=evil a b',
        'RUN --mount=type=bind,target="/a b" --mount=from=evil true', 'COPY "--from=evil" a b',
        'FROM --platform="a b" evil',
    ],
)  # fmt: skip
def test_what_builders_read_differently_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        find_images(f"FROM a\n{line}\nFROM evil\n")


def test_a_form_feed_hides_no_syntax_line() -> None:
    images = find_images("# check=skip=all\x0cx\n# syntax=evil/fe\nFROM a\n")
    assert [image.name for image in images] == ["evil/fe", "a"]
