from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabellion.docker.dockerfile import find_images, replace_images
from tabellion.errors import UsageError, VerificationError


def names(text: str, **arguments: str) -> list[str]:
    return [image.name for image in find_images(text, arguments=arguments) if not image.is_stage]


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
        ("# escape=`\n# Syntax = front:1 -v\nFROM `\na", ["front:1", "a"]),
        ("\ufeff# syntax=front\nFROM a", ["front", "a"]),
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
        ("ARG A='x y' B=\"1 2\" V=5 C\nFROM a:$V", "a:5"),
        ("  arg\\\n  V=6  \nFROM a:$V", "a:6"),
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
    except (UsageError, VerificationError):
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


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\n\v# note \\\nFROM evil\nRUN id\n",
        "FROM a\n\u00a0# note \\\nFROM evil\nRUN id\n",
        "FROM a\nCMD x \\\n\ufeff# foo\nFROM evil\n",
        "FROM a\nCMD x \\\n\x1c\nFROM evil\n",
        "FROM a\nRUN <<EOF\ntrue\nEOF\r\r\nF\\\nROM evil\nCMD echo \\\nEOF\n",
        "FROM a\nCMD x \\\r\r\nFROM a AS evil\nFROM evil\n",
        "FROM a\nCMD x \\\n\v# foo\nFROM a AS evil\nFROM evil\n",
        "FROM a\nRUN --mount=type=cache,id=a\x1cb --mount=type=bind,from=evil,target=/y id\n",
        "# check=skip=all\x0cx\n# syntax=evil\nFROM a\n",
        "\ufeff\ufeff# syntax=evil\nFROM a\n",
        "FROM a\r",
    ],
)
def test_a_character_that_only_some_builders_skip_is_refused(text: str) -> None:
    with pytest.raises(VerificationError, match=r"line [1-4] .* U\+[0-9A-F]{4}") as caught:
        find_images(text)
    assert caught.value.exit_status == 1
    assert "remove" in caught.value.hint


@pytest.mark.parametrize(
    "code",
    [*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA1), 0x1680,
     *range(0x2000, 0x200D), 0x200E, 0x200F, *range(0x2028, 0x2030), 0x205F, 0x3000, 0xFEFF],
)  # fmt: skip
def test_no_odd_character_passes_even_in_a_comment(code: int) -> None:
    with pytest.raises(VerificationError, match=f"line 2 .* U\\+{code:04X}:"):
        find_images(f"FROM a\n# x{chr(code)}y\n")


def test_letters_of_any_script_and_emoji_are_fine() -> None:
    comment = "# F\u00fcr \u65e5\u672c \U0001f469\u200d\U0001f4bb \u2764\ufe0f"
    assert names(f"{comment}\r\nFROM a\r\nLABEL x='\u00dcber'\r\n") == ["a"]


@pytest.mark.parametrize(
    "argument",
    ['Z=a"b X=scratch c"', "Z=a\\ X=scratch", "Z='a'X=scratch", "Z=a` X=scratch", "--Z X=scratch",
     '"X"=scratch', "X=scra\\tch", "=x X=scratch", "Z.X=scratch", 'Z="a X=scratch'],
)  # fmt: skip
def test_an_argument_that_is_not_plain_is_refused(argument: str) -> None:
    with pytest.raises(UsageError, match=r"line 2 .* the argument") as caught:
        find_images(f"ARG X=evil\nARG {argument}\nFROM $X\n")
    assert "NAME=value" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "# foo=a\n# foo=b\n# syntax=evil\nFROM a\n",
        "# escape=`\n# escape=\\\nFROM a\n",
        '#!/x\n{"syntax": "evil"}\n',
        "\ufeff#!/x\n# syntax=evil\nFROM a\n",
        "#!/x\n# syntax=evil\nFROM a\n",
        "// syntax=evil\nFROM a\n",
        '\n {"syntax": "evil"}\nFROM a\n',
        "# syntax=a\n# escape=`\nFROM a\nCMD x `\nFROM evil\n",
        "# escape=`x\nFROM a\nCMD x \\\nFROM evil\n",
    ],
)
def test_a_top_that_builders_read_differently_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="builders read it differently"):
        find_images(text)


@pytest.mark.parametrize(
    "line",
    [
        "ONBU\u0130LD COPY --from=evil / /",
        "ONBUILD --x COPY --from=evil / /",
        "ONBUILD ONBUILD COPY --from=evil / /",
        "ONBUILD \u212aOPY --from=evil / /",
    ],
)
def test_an_instruction_is_made_of_ascii_letters(line: str) -> None:
    with pytest.raises(UsageError, match="line 2"):
        find_images(f"FROM a AS a\n{line}\nFROM a\n")


@pytest.mark.parametrize(
    "body", ["F\\\nROM evil", "F\\\n# why\n\nROM evil", "x \\\\\nF\\\nROM evil"]
)
def test_a_heredoc_hides_no_continued_instruction(body: str) -> None:
    with pytest.raises(UsageError):
        find_images(f"FROM a\nRUN <<EOF\n{body}\nEOF\n")
    assert names("FROM a\nRUN <<EOF\nset -e \\\n  -x\n# FROM\nEOF\nFROM b\n") == ["a", "b"]


@pytest.mark.parametrize(
    "flag",
    ["--mount=type=bind,$F", "--mount=$F", "--mount=type=cache,id=$F", "--$F", "--m${F}=x",
     "--mount=type=bind,from=0,target=/y"],
)  # fmt: skip
def test_a_mount_hides_no_image(flag: str) -> None:
    with pytest.raises(UsageError, match="line 3"):
        find_images(f"FROM a\nENV F=from=evil\nRUN {flag} id\n")


@pytest.mark.parametrize(
    "line",
    ["COPY --from=evil /x /y", "COPY --from=EVIL /x /y", "RUN --mount=from=evil,target=/y id"],
)
def test_a_stage_is_an_image_within_itself(line: str) -> None:
    found = names(f"FROM a AS evil\nFROM b AS Evil\n{line}\n")
    assert [name.lower() for name in found] == ["a", "b", "evil"]
    assert names("FROM a\nCOPY --from=0 /x /y") == ["a", "0"]


def test_stages_are_written_as_they_are_spelled() -> None:
    text = (
        "ARG X=scratch\nFROM a AS Evil\nFROM evil\nCOPY --from=EVIL x y\nFROM $X\nFROM ${Y:-evil}\n"
    )
    found = find_images(text)
    replaced = replace_images(text, {i: i.name if i.is_stage else "N@D" for i in found})
    assert replaced == (
        "ARG X=scratch\nFROM N@D AS Evil\nFROM Evil\nCOPY --from=Evil x y\n"
        "FROM scratch\nFROM Evil\n"
    )
