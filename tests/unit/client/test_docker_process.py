"""Signals, status, terminal and standard input belong to the user's command."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tabellion.core.names import Digest
from tabellion.docker import pull_image, run_engine
from tabellion.errors import EngineError, NotSignedError
from unit.client.engine_recorder import SOURCES, Recorder, process

# Says "ready", then waits; what a signal does is chosen by the first line.
WAITS = """#!{python}
import os, signal, sys, time
if "inspect" in sys.argv: sys.exit(1)
{reaction}
print("ready", flush=True)
time.sleep(60)
"""
DIES = "signal.signal(signal.SIGINT, signal.SIG_DFL)"
LEAVES = """for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda *_: os._exit(7))"""


def engine(recorder: Recorder, text: str, name: str = "docker") -> None:
    path = Path(recorder.program(name))
    path.write_text(text.replace("{python}", sys.executable))


def scripted(recorder: Recorder, text: str, *words: str) -> list[str]:
    """Give a wrapper's process on an engine of that text."""
    started = process(recorder, *words)
    engine(recorder, text)
    return started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("words", ["pull r.io/a", "run --pull=never r.io/a@{d}", "build .", "ps"])
@pytest.mark.parametrize("reaction", [DIES, LEAVES])
def test_a_signal_reaches_the_engine_and_its_end_is_the_status(
    recorder: Recorder, number: signal.Signals, words: str, reaction: str
) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM r.io/a\n")
    typed = words.replace("{d}", str(Digest.of(b"signed"))).split()
    started = scripted(recorder, WAITS.replace("{reaction}", reaction), *typed)
    with subprocess.Popen(started, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as wrapper:
        assert wrapper.stdout is not None
        assert wrapper.stdout.readline() == b"ready\n"
        time.sleep(0.05)  # handlers are set right after the start
        wrapper.send_signal(number)
        status = wrapper.wait(timeout=20)
    if reaction == LEAVES:
        assert status == 7
    else:  # as a shell says it, or truly by the signal where this process became the engine
        assert status in {128 + number, -number}


@pytest.mark.parametrize("words", ["pull r.io/a", "run r.io/a", "create r.io/a", "build .", "ps"])
@pytest.mark.parametrize("status", [1, 42, 125])
def test_the_status_of_the_users_command_is_handed_on(
    recorder: Recorder, words: str, status: int
) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM r.io/a\n")
    verb = words.split(maxsplit=1)[0]
    text = (
        f'#!/bin/sh\ntest "$1" = {verb} && echo said && exit {status}\n'
        'test "$1" = image && exit 1\necho noise\n'
    )
    done = subprocess.run(
        scripted(recorder, text, *words.split()), check=False, capture_output=True
    )
    assert (done.returncode, done.stdout) == (status, b"said\n")


@pytest.mark.parametrize("words", ["run -it r.io/a", "exec -it x sh", "pull r.io/a", "build ."])
def test_the_terminal_is_the_engines_own(recorder: Recorder, words: str) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM r.io/a\n")
    verb = words.split(maxsplit=1)[0]
    text = (
        f'#!/bin/sh\ntest "$1" = {verb} || exit 0\n'
        "test -t 0 && test -t 1 && test -t 2 && exit 9\nexit 8\n"
    )
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            scripted(recorder, text, *words.split()),
            stdin=slave, stdout=slave, stderr=slave, check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 9


@pytest.mark.parametrize("words", ["run -i r.io/a", "exec -i x cat", "build -t x ."])
def test_standard_input_reaches_the_users_command_whole(recorder: Recorder, words: str) -> None:
    (recorder.folder / "Dockerfile").write_text("FROM r.io/a\n")
    # Each step of ours reads all it gets: the user's command must get it all the same.
    text = '#!/bin/sh\ncase "$*" in *inspect*) cat >/dev/null; exit 1;; esac\nexec cat\n'
    data = os.urandom(200_000)
    started = scripted(recorder, text, *words.split())
    done = subprocess.run(started, check=True, input=data, stdout=subprocess.PIPE)
    assert done.stdout == data


@pytest.mark.parametrize("step", ["pull", "tag"])
@pytest.mark.parametrize("verb", ["run", "create"])
def test_a_failed_fetch_is_our_error_and_runs_nothing(
    recorder: Recorder, verb: str, step: str
) -> None:
    text = (
        '#!/bin/sh\necho "$*" >> "$ENGINE_LOG"\n'
        'test "$1" = image && exit 1\n'
        f'test "$1" = {step} || exit 0\n'
        'echo first >&2; printf "no \\033[31mroom\\n\\n" >&2; exit 125\n'
    )
    started = scripted(recorder, text, verb, "r.io/a")
    done = subprocess.run(started, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert "failed with status 125" in done.stderr
    assert done.stderr.endswith("docker said: no ?[31mroom\n")
    told = (recorder.folder / "log").read_text().splitlines()
    assert not any(line.startswith(verb) for line in told)


async def test_pull_image_says_the_engines_last_words_bounded(recorder: Recorder) -> None:
    engine(recorder, '#!/bin/sh\nhead -c 100000 /dev/zero | tr "\\0" x >&2\nexit 125\n', "podman")
    program = str(recorder.folder / "podman")
    with pytest.raises(EngineError) as caught:
        await pull_image("r.io/a", engine=program, sources=SOURCES, platform=None, quiet=True)
    assert caught.value.exit_status == 3
    assert caught.value.hint == "podman said: " + "x" * 200 + "..."


async def test_pull_image_pulls_nothing_unverified(recorder: Recorder) -> None:
    program = recorder.program()
    with pytest.raises(NotSignedError):
        await pull_image("unsigned", engine=program, sources=SOURCES, platform=None, quiet=True)
    assert recorder.told == []


@pytest.mark.parametrize(
    ("line", "verb"),
    [
        ("compose -f x up", "compose up"),
        ("stack deploy x", "stack deploy"),
        ("buildx --builder x bake", "buildx bake"),
        ("auto-update", "auto-update"),
        ("pod create x", "pod create"),
        ("volume create --driver image x", "volume image"),
    ],
)
def test_what_fetches_unverified_passes_with_one_loud_line(
    recorder: Recorder, line: str, verb: str
) -> None:
    started = process(recorder, *line.split())
    done = subprocess.run(started, check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert recorder.told == [line.split()]
    (said,) = done.stderr.splitlines()
    for part in (f"docker {verb} ", "NOT VERIFIED", "tabellion docker pull IMAGE"):
        assert part in said


def test_an_interrupted_step_of_ours_runs_nothing(recorder: Recorder) -> None:
    text = WAITS.replace("{reaction}", DIES).replace(
        'print("ready"', 'print("ready", file=sys.stderr'
    )
    started = scripted(recorder, text, "run", "r.io/a")
    with subprocess.Popen(started, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as wrapper:
        assert wrapper.stderr is not None
        assert wrapper.stderr.readline() == b"ready\n"
        time.sleep(0.05)
        wrapper.terminate()
        assert wrapper.wait(timeout=20) == 128 + signal.SIGTERM


async def test_a_missing_program_is_a_matter_of_configuration(recorder: Recorder) -> None:
    (recorder.folder / "docker").write_text("not a program")
    with pytest.raises(Exception, match="can't be started") as caught:
        await run_engine(
            ["pull", "r.io/a"], engine=str(recorder.folder / "docker"), sources=SOURCES
        )
    assert getattr(caught.value, "exit_status", None) == 2


async def test_a_signal_while_the_engine_is_being_started_reaches_it(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine(recorder, "#!/bin/sh\nexec sleep 60\n")
    real = subprocess.Popen

    def popen(words: list[str], **rest: Any) -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(words, **rest)

    monkeypatch.setattr("tabellion.docker.engine.subprocess.Popen", popen)
    program = str(recorder.folder / "docker")
    status = await run_engine(["pull", "r.io/a"], engine=program, sources=SOURCES)
    assert status == 128 + signal.SIGTERM
