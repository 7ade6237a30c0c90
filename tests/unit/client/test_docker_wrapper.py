"""The wrapper on an engine that only writes down what it is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tabellion.docker import Sources, run_engine
from tabellion.errors import ConfigurationError, TabellionError, UsageError, VerificationError
from unit.client.engine_recorder import DIGEST, SOURCES, Image, Recorder, process, run_process


async def test_pull_tells_the_engine_the_digest_only(recorder: Recorder) -> None:
    status = await run_engine(
        ["--debug", "pull", "-q", "r.io/a:1"], engine=recorder.program(), sources=SOURCES
    )
    assert status == 0
    assert recorder.told == [
        ["--debug", "pull", "-q", f"r.io/a@{DIGEST}"],
        ["--debug", "tag", f"r.io/a@{DIGEST}", "r.io/a:1"],
    ]


async def test_podman_gets_full_names_and_may_pull_several(recorder: Recorder) -> None:
    engine = recorder.program("podman")
    await run_engine(["pull", "alpine", "docker://r.io/b:2"], engine=engine, sources=SOURCES)
    assert recorder.told == [
        ["pull", f"docker.io/library/alpine@{DIGEST}"],
        ["tag", f"docker.io/library/alpine@{DIGEST}", "docker.io/library/alpine:latest"],
        ["pull", f"r.io/b@{DIGEST}"],
        ["tag", f"r.io/b@{DIGEST}", "r.io/b:2"],
    ]


async def test_a_digest_reference_gets_no_tag(recorder: Recorder) -> None:
    await run_engine(["pull", f"a@{DIGEST}"], engine=recorder.program(), sources=SOURCES)
    assert recorder.told == [["pull", f"a@{DIGEST}"]]


async def test_a_failed_pull_tags_nothing_and_keeps_its_status(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_PULL", "18")
    assert await run_engine(["pull", "a"], engine=recorder.program(), sources=SOURCES) == 18
    assert len(recorder.told) == 1


@pytest.mark.parametrize(
    "line",
    [
        "pull unsigned",
        "pull signed unsigned",
        "run unsigned",
        "create --rm unsigned",
        "run --mount type=image,source=unsigned,target=/x signed",
        "build --build-context x=docker-image://unsigned .",
        "build --build-arg BUILDKIT_SYNTAX=unsigned .",
        "build --build-arg WHICH=unsigned .",
        "build -f Other .",
        "pull --all-tags signed",
        "run --odd signed",
        "build https://host.example/x.git",
        "build -f Absent .",
        "pull dir:/x",
        "run UPPER",
    ],
)
async def test_a_refusal_starts_nothing(recorder: Recorder, line: str) -> None:
    (recorder.folder / "Dockerfile").write_text("ARG WHICH=signed\nFROM $WHICH\n")
    (recorder.folder / "Other").write_text("FROM signed\nCOPY --from=unsigned /x /y\n")
    with pytest.raises(TabellionError):
        await run_engine(line.split(), engine=recorder.program(), sources=SOURCES)
    assert recorder.told == []


def test_run_fetches_tags_and_becomes_the_command(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_STATUS", "0")
    words = (
        "--debug",
        "run",
        "-it",
        "--platform",
        "linux/arm64",
        "r.io/a:1",
        "sh",
        "-c",
        "r.io/a:1",
    )
    assert run_process(recorder, *words) == 0
    pinned = f"r.io/a@{DIGEST}"
    assert recorder.told == [
        ["--debug", "image", "inspect", pinned],
        ["--debug", "pull", "--platform=linux/arm64", pinned],
        ["--debug", "tag", pinned, "r.io/a:1"],
        ["--debug", "run", "-it", "--platform", "linux/arm64", pinned, "sh", "-c", "r.io/a:1"],
    ]


def test_run_does_not_pull_what_is_here(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_INSPECT", "0")
    assert run_process(recorder, "create", "--mount=type=image,src=r.io/b,dst=/b", "r.io/a") == 0
    assert [words for words in recorder.told if "pull" in words] == []
    assert recorder.told[-1] == [
        "create",
        f"--mount=type=image,src=r.io/b@{DIGEST},dst=/b",
        f"r.io/a@{DIGEST}",
    ]


def test_pull_never_asks_for_nothing(recorder: Recorder) -> None:
    assert run_process(recorder, "run", "--pull=never", "r.io/a") == 0
    assert recorder.told == [["run", "--pull=never", f"r.io/a@{DIGEST}"]]


def test_other_commands_keep_words_and_status(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_STATUS", "42")
    assert run_process(recorder, "exec", "-it", "x", "sh", "--odd", "") == 42
    assert recorder.told == [["exec", "-it", "x", "sh", "--odd", ""]]


async def test_build_gets_a_copy_with_digests_and_leaves_the_file(recorder: Recorder) -> None:
    file = recorder.folder / "Dockerfile"
    text = "ARG V=1\nFROM r.io/a:$V AS x\nFROM x\nRUN true\n"
    file.write_text(text)
    words = ["build", "--build-arg", "V=2", "-t", "mine", "."]
    assert await run_engine(words, engine=recorder.program(), sources=SOURCES) == 0
    ((told, (built,)),) = recorder.lines
    assert [word for word in told if not word.startswith("--file=")] == words
    assert built == text.replace("r.io/a:$V", f"r.io/a@{DIGEST}")
    assert file.read_text() == text
    copy = next(word for word in told if word.startswith("--file="))
    assert not Path(copy.removeprefix("--file=")).exists()


async def test_build_points_a_named_file_to_the_copy(recorder: Recorder) -> None:
    (recorder.folder / "Other").write_text("FROM r.io/a")
    words = ["build", "--file=Other", "."]
    await run_engine(words, engine=recorder.program(), sources=SOURCES)
    ((told, (built,)),) = recorder.lines
    assert told[0::2] == ["build", "."]
    assert built == f"FROM r.io/a@{DIGEST}"


def test_a_dockerfile_from_standard_input_is_verified_too(recorder: Recorder) -> None:
    subprocess.run(process(recorder, "build", "-"), check=True, input=b"FROM r.io/a:1\n")
    ((told, (built,)),) = recorder.lines
    assert (told, built) == (["build", "-"], f"FROM r.io/a@{DIGEST}\n")


async def test_an_unknown_or_absent_engine_is_said_so(recorder: Recorder) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await run_engine(["pull", "a"], engine="rocket", sources=SOURCES)
    absent = str(recorder.folder / "absent" / "docker")
    assert (caught.value.exit_status, "--engine" in caught.value.hint) == (2, True)
    with pytest.raises(ConfigurationError, match="can't be started"):
        await run_engine(["pull", "a"], engine=absent, sources=SOURCES)


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08\xff", b"FROM a\0"])
async def test_an_archive_is_no_dockerfile(recorder: Recorder, data: bytes) -> None:
    (recorder.folder / "Dockerfile").write_bytes(data)
    with pytest.raises(UsageError):
        await run_engine(["build", "."], engine=recorder.program(), sources=SOURCES)
    assert recorder.told == []


async def build(recorder: Recorder, line: str, engine: str = "docker") -> tuple[list[str], str]:
    status = await run_engine(line.split(), engine=recorder.program(engine), sources=SOURCES)
    assert status == 0
    ((told, texts),) = recorder.lines
    return told, texts[0] if texts else ""


async def test_podman_reads_a_containerfile_and_its_from_flag(recorder: Recorder) -> None:
    (recorder.folder / "Containerfile").write_text("FROM unsigned\nCOPY --from=r.io/b /x /y\n")
    told, built = await build(recorder, "build --from r.io/a", "podman")
    assert told[2:] == ["--from", f"r.io/a@{DIGEST}"]
    assert built == f"FROM unsigned\nCOPY --from=r.io/b@{DIGEST} /x /y\n"


async def test_a_stage_that_engines_find_differently_is_written_plainly(recorder: Recorder) -> None:
    text = "FROM r.io/a AS Base-arm64\nFROM base-arm64\nFROM Base-$TARGETARCH\n"
    (recorder.folder / "Dockerfile").write_text(text)
    _, built = await build(recorder, "build --platform linux/arm64 .")
    assert built == f"FROM r.io/a@{DIGEST} AS Base-arm64\n" + "FROM Base-arm64\n" * 2


@pytest.mark.parametrize(
    "flags", ["--platform linux/amd64,linux/arm", "--arch arm", "--variant v7"]
)
async def test_a_stage_is_not_chosen_by_a_platform_that_is_not_known(
    recorder: Recorder, flags: str
) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM r.io/a AS x\nFROM x$TARGETVARIANT\n")
    with pytest.raises(UsageError, match=r"line 2 .* \$TARGETVARIANT has no single value"):
        await run_engine(
            f"build {flags} .".split(), engine=recorder.program("podman"), sources=SOURCES
        )
    assert recorder.told == []


@pytest.mark.parametrize("engine", ["docker", "podman", "nerdctl"])
async def test_an_odd_character_in_a_dockerfile_starts_nothing(
    recorder: Recorder, engine: str
) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM r.io/a\nCMD x \\\n\v# y\nFROM unsigned\n")
    with pytest.raises(VerificationError, match=r"line 3 .* U\+000B"):
        await run_engine(["build", "."], engine=recorder.program(engine), sources=SOURCES)
    assert recorder.told == []


async def test_named_contexts_and_frontends_are_pinned(recorder: Recorder) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM one\nCOPY --from=two /x /y\n")
    told, built = await build(
        recorder,
        "build --build-context one=docker-image://r.io/a --build-context=two=./dir"
        " --build-arg BUILDKIT_SYNTAX=r.io/front .",
    )
    assert f"one=docker-image://r.io/a@{DIGEST}" in told
    assert "--build-context=two=./dir" in told
    assert f"BUILDKIT_SYNTAX=r.io/front@{DIGEST}" in told
    assert built == "FROM one\nCOPY --from=two /x /y\n"


async def test_platform_arguments_and_the_environment_fill_names(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM", "team")
    asked: list[str] = []

    async def note(text: str) -> Image:
        asked.append(text)
        return Image()

    (recorder.folder / "Dockerfile").write_text("ARG TEAM\nFROM r.io/$TEAM/a-$TARGETARCH:1\n")
    words = ["build", "--platform", "linux/arm64", "--build-arg", "TEAM", "."]
    await run_engine(words, engine=recorder.program(), sources=Sources(note))
    assert asked == ["r.io/team/a-arm64:1"]


async def test_the_ignore_file_of_a_dockerfile_goes_with_its_copy(recorder: Recorder) -> None:
    (recorder.folder / "Other").write_text("FROM r.io/a")
    (recorder.folder / "Other.dockerignore").write_text("secret\n")
    engine = recorder.folder / "docker"
    recorder.program()
    engine.write_text(
        '#!/bin/sh\nfor word in "$@"; do\n'
        'case "$word" in --file=*) f="${word#--file=}";; esac; done\n'
        'grep -q secret "$f.dockerignore"\n'
    )
    assert (
        await run_engine(["build", "--file=Other", "."], engine=str(engine), sources=SOURCES) == 0
    )


@pytest.mark.parametrize(
    "line",
    [
        "build",
        "build --build-arg-file F .",
        "build absent",
        "build -f . .",
        "buildx --builder x build .",
    ],
)
async def test_a_build_that_cannot_be_judged_is_a_usage_error(
    recorder: Recorder, line: str
) -> None:
    (recorder.folder / "F").write_text("FROM r.io/a")
    with pytest.raises(UsageError):
        await run_engine(line.split(), engine=recorder.program(), sources=SOURCES)
    assert recorder.told == []


@pytest.mark.parametrize(
    "line",
    [
        "pull -a r.io/a",
        "pull -qa r.io/a",
        "build https://host.example/x.git",
        "build -f https://host.example/F .",
        "build -f - -",
        "build -f F -",
    ],
)
async def test_what_would_be_fetched_unverified_is_refused(recorder: Recorder, line: str) -> None:
    (recorder.folder / "F").write_text("FROM r.io/a")
    with pytest.raises(VerificationError) as caught:
        await run_engine(line.split(), engine=recorder.program(), sources=SOURCES)
    assert caught.value.hint
    assert recorder.told == []
