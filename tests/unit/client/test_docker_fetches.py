"""Every way by which an engine fetches an image through a verb that is verified."""

from __future__ import annotations

import pytest

from tabellion.docker import Sources, run_engine
from tabellion.errors import NotSignedError, TabellionError
from unit.client.engine_recorder import DIGEST, SOURCES, Recorder, run_process

PINNED = f"r.io/b@{DIGEST}"


async def refused(recorder: Recorder, line: str, engine: str = "docker") -> TabellionError:
    with pytest.raises(TabellionError) as caught:
        await run_engine(line.split(), engine=recorder.program(engine), sources=SOURCES)
    assert recorder.told == []
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "line",
    [
        "run --mount Type=Image,Source=unsigned,target=/x r.io/a",
        "run --mount type=bind,type=image,src=unsigned,dst=/x r.io/a",
        "run --mount type=image,type=bind,src=unsigned,dst=/x r.io/a",
        "run --rootfs --mount type=image,src=unsigned,dst=/x /rootfs",
        "run --mount=type=image,src=r.io/b,source=unsigned,dst=/x r.io/a",
        "run --mount type=image,dst=/x r.io/a",
        "run --mount type=volume,volume-driver=image,src=v,dst=/x r.io/a",
        "run --volume-driver image r.io/a",
        "run --pod new:x r.io/a",
        "container create --pod=new:x r.io/a",
        "container run unsigned",
        "image pull unsigned",
        "pod create --infra-image unsigned x",
        "pod create --name x --infra-image=unsigned",
    ],
)
async def test_podman_fetches_nothing_unverified_beside_the_image(
    recorder: Recorder, line: str
) -> None:
    assert (await refused(recorder, line, "podman")).exit_status == 1


@pytest.mark.parametrize(
    "value", ['"type=image",src=r.io/b,dst=/x', 'type=bind,"src=a,b"', "type=image\nsrc=r.io/b"]
)
async def test_a_quoted_mount_is_refused(recorder: Recorder, value: str) -> None:
    words = ["run", "--mount", value, "r.io/a"]
    with pytest.raises(TabellionError, match="quoted"):
        await run_engine(words, engine=recorder.program("podman"), sources=SOURCES)
    assert recorder.told == []


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("run --mount Type=Image,SRC=r.io/b,dst=/x r.io/a", f"Type=Image,SRC={PINNED},dst=/x"),
        ("pod create --name p --infra-image r.io/b", PINNED),
        ("pod create --infra-image=r.io/b p", f"--infra-image={PINNED}"),
    ],
)
def test_such_images_are_fetched_by_digest_first(
    recorder: Recorder, line: str, changed: str
) -> None:
    assert run_process(recorder, *line.split(), engine="podman") == 0
    assert ["pull", PINNED] in recorder.told
    assert changed in recorder.told[-1]
    assert not any("r.io/b" in words for words in recorder.told)


@pytest.mark.parametrize(
    "flags",
    [
        "--sbom=true",
        "--sbom unsigned",
        "--sbom=generator=unsigned",
        "--attest type=sbom",
        "--attest Type=SBOM",
        "--attest type=sbom,disabled=false",
        "--attest type=sbom,disabled=true,disabled=false",
        "--attest type=sbom,generator=unsigned",
        "--attest Type=SBOM,generator=r.io/a,Generator=r.io/b",
        "--cache-from unsigned",
        "--cache-from r.io/a,unsigned",
        "--cache-from type=registry,ref=unsigned",
        "--cache-from type=registry",
        "--cache-from type=gha",
        "--cache-from ref=r.io/a",
        "--build-context x=docker-image://unsigned",
        "--build-arg BUILDKIT_SYNTAX=unsigned",
        "--new-scanner-image=unsigned",
    ],
)
async def test_a_build_fetches_nothing_unverified_by_its_flags(
    recorder: Recorder, flags: str
) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM r.io/a\n")
    for verb in ("build", "image build", "builder build", "buildx build", "buildx b", "builder b"):
        await refused(recorder, f"{verb} {flags} .")


@pytest.mark.parametrize(
    "flags",
    [
        "--cache-from r.io/b",
        "--cache-from type=local,src=x",
        "--sbom=syft",
        "--sbom-scanner-image=r.io/b",
        "--sbom-scanner-command=x",
        "--from unsigned",
    ],
)
async def test_podman_build_fetches_nothing_unverified_by_its_flags(
    recorder: Recorder, flags: str
) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM r.io/a\n")
    await refused(recorder, f"build {flags} .", "podman")
    await refused(recorder, f"image build {flags} .", "podman")


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ("--sbom=false", "--sbom=false"),
        ("--attest=type=provenance,mode=max", "--attest=type=provenance,mode=max"),
        ("--attest=type=sbom,disabled=true", "--attest=type=sbom,disabled=true"),
        ("--sbom=generator=r.io/b", f"--sbom=generator={PINNED}"),
        ("--attest=type=sbom,generator=r.io/b", f"--attest=type=sbom,generator={PINNED}"),
        ("--cache-from=r.io/b:1,r.io/b", f"--cache-from={PINNED},{PINNED}"),
        ("--cache-from=type=registry,ref=r.io/b", f"--cache-from=type=registry,ref={PINNED}"),
        ("--cache-from=type=local,src=x", "--cache-from=type=local,src=x"),
        ("--build-context=x=docker-image://r.io/b", f"--build-context=x=docker-image://{PINNED}"),
    ],
)
async def test_what_a_builds_flags_name_is_pinned(
    recorder: Recorder, flags: str, changed: str
) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM r.io/a\n")
    words = ["build", flags, "."]
    assert await run_engine(words, engine=recorder.program(), sources=SOURCES) == 0
    ((told, _),) = recorder.lines
    assert [word for word in told if not word.startswith("--file=")] == ["build", changed, "."]


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("build --from= .", {"Containerfile": "FROM unsigned\n"}),
        ("build --from r.io/b --from= .", {"Containerfile": "FROM unsigned\n"}),
        ("build --from r.io/b .", {"Containerfile": "FROM scratch\nFROM unsigned\n"}),
        ("build --from r.io/b -f A -f B .", {"A": "FROM unsigned\n", "B": "FROM unsigned\n"}),
    ],
)
async def test_podmans_from_flag_hides_the_first_image_only(
    recorder: Recorder, line: str, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (recorder.folder / name).write_text(text)
    await refused(recorder, line, "podman")


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("build .", {"Containerfile": "FROM r.io/a AS evil.io/x\nFROM EVIL.io/x\n"}),
        ("build .", {"Containerfile": "FROM r.io/a\nCOPY --from=\u00b2 /x /y\n"}),
        ("build .", {"Containerfile": "BZh91AY\nFROM r.io/a\n"}),
        ("build -f A,B .", {"A,B": "FROM r.io/a\n", "A": "FROM unsigned\n"}),
        ("build --compat-volumes x", {"x": "FROM unsigned", "Containerfile": "FROM r.io/a"}),
    ],
)
async def test_a_dockerfile_hides_no_image_from_podman(
    recorder: Recorder, line: str, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (recorder.folder / name).write_text(text)
    await refused(recorder, line, "podman")


@pytest.mark.parametrize(
    "line",
    [
        "image --foo pull unsigned",
        "image --help=false pull unsigned",
        "buildx --builder x build .",
        "pod --x create --infra-image=unsigned",
        "run --brand-new unsigned r.io/a",
        "run --brand-image=unsigned r.io/a",
    ],
)
async def test_a_command_line_that_cannot_be_told_for_sure_is_refused(
    recorder: Recorder, line: str
) -> None:
    assert (await refused(recorder, line)).exit_status == 2


@pytest.mark.parametrize(
    ("line", "image_at"),
    [
        ("run -itd r.io/a r.io/a", -2),
        ("run -itd --name=unsigned r.io/a", -1),
        ("run -itd --name unsigned r.io/a", -1),
        ("run -itdname r.io/a", -1),
        ("run -- r.io/a unsigned", -2),
        ("-H unix:///x --context c run r.io/a", -1),
        ("-- create r.io/a", -1),
        ("container run -e=A r.io/a", -1),
        ("run --env -- r.io/a --env", -2),
    ],
)
def test_only_the_image_is_replaced(recorder: Recorder, line: str, image_at: int) -> None:
    words = line.split()
    engine = "docker"
    if "-itdname" in words:  # -n is nerdctl's
        engine = "nerdctl"
    assert run_process(recorder, *words, engine=engine) == 0
    words[image_at] = f"r.io/a@{DIGEST}"
    assert recorder.told[-1] == words


async def test_rootfs_is_a_folder_and_no_image(recorder: Recorder) -> None:
    assert run_process(recorder, "run", "--rootfs", "unsigned", "sh", engine="podman") == 0
    assert recorder.told == [["run", "--rootfs", "unsigned", "sh"]]
    with pytest.raises(NotSignedError):
        await run_engine(
            ["run", "--rootfs=false", "unsigned"],
            engine=recorder.program("podman"),
            sources=SOURCES,
        )


async def test_podman_is_told_of_http_exactly_where_it_is_allowed(recorder: Recorder) -> None:
    async def speaks_http(registry: str) -> bool:
        return registry.startswith("plain")

    sources = Sources(SOURCES.verify, None, speaks_http)
    engine = recorder.program("podman")
    flag = "--tls-verify=false"
    (recorder.folder / "F").write_text("FROM plain.io/a\nFROM r.io/b\n")
    (recorder.folder / "G").write_text("FROM plain.io/a\n")
    cases = {
        "pull plain.io/a r.io/b": [True, False],
        "pull --tls-verify plain.io/a": [False],
        "pull --tls-verify=true plain.io/a": [False],
        "build -f F .": [False],
        "build -f G .": [True],
        "build --tls-verify=true -f G .": [False],
    }
    for line, expected in cases.items():
        (recorder.folder / "log").unlink(missing_ok=True)
        assert await run_engine(line.split(), engine=engine, sources=sources) == 0
        told = [flag in words for words in recorder.told if "tag" not in words]
        assert told == expected, line
    docker = recorder.program()
    (recorder.folder / "log").unlink()
    await run_engine(["pull", "plain.io/a"], engine=docker, sources=sources)
    assert all(flag not in words for words in recorder.told)
