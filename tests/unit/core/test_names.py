"""References, GUNs, digests, role names and patterns: what is taken and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabellion.core.names import Digest, parse_gun, parse_reference
from tabellion.core.roles import check_path_pattern, check_role_name
from tabellion.errors import InvalidNameError

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "gun", "tag"),
    [
        ("alpine", "docker.io/library/alpine", "latest"),
        ("alpine:3.20", "docker.io/library/alpine", "3.20"),
        ("team/app", "docker.io/team/app", "latest"),
        ("docker.io/alpine", "docker.io/library/alpine", "latest"),
        ("index.docker.io/team/app:1", "docker.io/team/app", "1"),
        ("localhost/app:1", "localhost/app", "1"),
        ("localhost:5000/app:1.2", "localhost:5000/app", "1.2"),
        ("registry.example/a/b/c:v1", "registry.example/a/b/c", "v1"),
        ("[::1]:5000/app", "[::1]:5000/app", "latest"),
        (f"reg.example/app@{SHA}", "reg.example/app", None),
        (f"reg.example/app:1@{SHA}", "reg.example/app", "1"),
    ],
)
def test_references_are_normalized_as_docker_does(text: str, gun: str, tag: str | None) -> None:
    reference = parse_reference(text)
    assert (reference.gun, reference.tag) == (gun, tag)
    assert reference.digest == (Digest.parse(SHA) if "@" in text else None)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    ["", ":", "UPPER", "a/UPPER", "app:", "app:-x", "app:" + "x" * 129, "app@sha256:short", "app@",
     "a//b", "/app", "app/", "a b", "reg.example:99999999/app", "../app", "app@md5:" + "a" * 32],
)  # fmt: skip
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        parse_reference(text)
    assert caught.value.hint


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_our_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidNameError:
        return
    assert parse_gun(reference.gun) == reference.gun


@pytest.mark.parametrize(
    "text",
    ["", "a//b", "/a", "a/", "a/../b", "a/_trust/tuf", "a b", "a*", "a%2Fb", "a\n", "x" * 256],
)
def test_malformed_guns_are_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        parse_gun(text)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "a" * 32, "a" * 64])
def test_malformed_digests_are_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        Digest.parse(text)


@pytest.mark.parametrize("name", ["alice", "releases", "team/alice", "a.b-c_d+e@f"])
def test_portable_role_names_are_taken(name: str) -> None:
    check_role_name(name)


@pytest.mark.parametrize(
    "name", ["root", "timestamp", "", "../x", "a//b", "a b", "1.alice", "é", "x" * 256, "?"]
)
def test_unportable_role_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidNameError):
        check_role_name(name)


@pytest.mark.parametrize("pattern", ["*", "v1.*", "release-??", "team/*", "1.2"])
def test_portable_patterns_are_taken(pattern: str) -> None:
    check_path_pattern(pattern)


@pytest.mark.parametrize(
    "text",
    [
        "docker.io/evil.io/x:1",
        "docker.io/library/a/b:1",
        "docker.io/localhost/x",
        "docker.io/library/localhost/x",
        "docker.io/library/library:2",
        "docker.io/library/evil.io/x",
        "index.docker.io/a/b",
        "alpine",
        "team/app@sha256:" + "ab" * 32,
        "evil.io/x",
    ],
)
def test_a_reference_means_the_same_when_it_is_written_and_read(text: str) -> None:
    parsed = parse_reference(text)
    assert parse_reference(str(parsed)).gun == parsed.gun
    assert parse_reference(parsed.name).gun == parsed.gun


def test_what_lies_on_the_hub_under_a_hosts_name_is_not_of_that_host() -> None:
    assert parse_reference("docker.io/evil.io/x:1").name == "docker.io/evil.io/x"
    assert parse_reference("docker.io/library/alpine").name == "alpine"
    assert parse_reference("docker.io/team/app").name == "team/app"
