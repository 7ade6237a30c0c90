"""However the demo ends, its server and its folder are gone."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {key: value for key, value in os.environ.items() if "TABELLION" not in key}
    with subprocess.Popen(
        [sys.executable, "-m", "tabellion.cli", "demo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment, "TMPDIR": str(tmp_path)},
        text=True,
    ) as running:
        yield running
        running.kill()


def read_until(demo: subprocess.Popen[str], words: str) -> str:
    assert demo.stdout is not None
    shown = ""
    for line in demo.stdout:
        shown += line
        if words in line:
            return shown
    raise AssertionError(f"the demo ended without {words!r}: {shown}")


def port_of(text: str) -> int:
    found = re.search(r"http://127\.0\.0\.1:([0-9]+)", text)
    assert found, text
    return int(found[1])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_closed(port: int) -> None:
    deadline = time.monotonic() + 15
    while is_open(port):
        assert time.monotonic() < deadline, "the server outlived the demo"
        time.sleep(0.1)


def test_a_proxy_in_the_environment_is_not_asked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tabellion.cli", "demo", "--exit"],
        env={**os.environ, "http_proxy": "http://127.0.0.1:1", "NO_PROXY": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_after_the_story_ends_all_with_status_0(
    demo: subprocess.Popen[str], tmp_path: Path
) -> None:
    port = port_of(read_until(demo, "Ctrl-C ends it"))
    assert is_open(port)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(20) == 0
    wait_until_closed(port)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_story_leaves_nothing(
    demo: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    port = port_of(read_until(demo, "A trust server"))
    demo.send_signal(number)
    assert demo.wait(20) == 128 + number
    wait_until_closed(port)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a killed parent")
def test_the_server_goes_even_if_the_demo_is_killed(demo: subprocess.Popen[str]) -> None:
    port = port_of(read_until(demo, "A trust server"))
    demo.kill()
    demo.wait(20)
    wait_until_closed(port)
