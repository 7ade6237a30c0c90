"""What the terminal rules promise beyond what the scenarios show."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from forge import Forge
from tabellion.cli import app, output
from tabellion.publish.keystore import KeyStore

PROGRAM = [sys.executable, "-m", "tabellion.cli"]


def on_a_terminal(arguments: list[str], **variables: str) -> str:
    """Run with stderr on a pseudo-terminal and give what it shows."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    child = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**environment, "TERM": "xterm", **variables},
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(ours)
    assert child.wait(30) == 2
    return shown.decode()


def test_an_error_is_coloured_on_a_terminal() -> None:
    assert "\x1b[31mtabellion: error:\x1b[0m" in on_a_terminal(["nonsense"])


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(variables: dict[str, str]) -> None:
    assert "\x1b" not in on_a_terminal(["nonsense"], **variables)


def test_text_from_outside_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.error("bad \x1b[2J\r\nname\u202e", "a\x07b")
    assert capsys.readouterr().err == ("tabellion: error: bad ?[2J? name?\nhint: a?b\n")


def test_a_cell_cannot_fake_another_column(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("A", "B"), [("x\ty", "z\nw")])
    assert capsys.readouterr().out == "x?y\tz w\n"


def test_digests_are_short_only_where_a_terminal_is_too_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ("1.2", "sha256:" + "12" * 32, "cafe")
    output.table(("TARGET", "DIGEST", "BY"), [row])
    assert capsys.readouterr().out == "\t".join(row) + "\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for columns, digest in (("90", row[1]), ("60", "12121212...")):
        monkeypatch.setenv("COLUMNS", columns)
        output.table(("TARGET", "DIGEST", "BY"), [row])
        assert capsys.readouterr().out.splitlines()[-1].split() == ["1.2", digest, "cafe"]


def test_a_table_without_rows_has_no_head(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.table(("GUN", "BY"), [])
    assert capsys.readouterr().out == ""


def test_keys_are_listed_whole_within_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABELLION_SIGNER_PASSPHRASE", "long enough")
    home = ["--home", str(tmp_path)]
    assert (
        app.run([*home, "key", "generate", "--name", "alice", "--gun", "a.example/team/app"]) == 0
    )
    made = capsys.readouterr()
    info = KeyStore(tmp_path).find("alice")
    assert f"fingerprint {info.fingerprint}" in made.err
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert app.run([*home, "key", "list"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for each in ("alice", info.keyid, info.fingerprint, info.canonical_id, "a.example/team/app"):
        assert each in shown


@pytest.mark.parametrize("verb", ["", "verify", "list", "inspect", "history", "sign", "status"])
def test_help_imports_nothing_heavy(verb: str) -> None:
    script = (
        f"import sys, tabellion.cli.app as app; app.run([*{verb.split()}, '--help']);"
        "heavy = {'aiohttp', 'tuf', 'cryptography', 'rich', 'securesystemslib', 'asyncio'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_full_disk_under_stdout_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [*PROGRAM, "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            check=False,
            timeout=30,
        )
    assert done.returncode == 3
    assert done.stderr.startswith("tabellion: error: this machine refuses")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "content", [b"junk\n", b"\x89PNG\xff", b"-----BEGIN PRIVATE KEY-----\nAAA"]
)
@pytest.mark.parametrize("use", ["import", "passphrase", "note"])
def test_a_key_file_that_is_none_is_told_without_the_words_of_a_library(
    tmp_path: Path, use: str, content: bytes
) -> None:
    given = tmp_path / "given"
    given.write_bytes(content)
    variables = {"TABELLION_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path)}
    arguments = ["key", "generate"]
    if use == "import":
        arguments = ["key", "import", str(given)]
        variables["TABELLION_SIGNER_PASSPHRASE"] = "long enough"
    elif use == "note":
        arguments = ["key", "list"]
        keys = tmp_path / "home" / "keys"
        keys.mkdir(parents=True)
        (keys / ("0" * 64 + ".json")).write_bytes(content)
    else:
        missing = tmp_path / "missing" if content == b"junk\n" else given
        variables["TABELLION_SIGNER_PASSPHRASE_FILE"] = str(
            tmp_path if content.startswith(b"-") else missing
        )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TABELLION_")}
    done = subprocess.run(
        [*PROGRAM, *arguments],
        env={**kept, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    for leak in ("Errno", "ASN.1", "codec", "cryptography.io", "Expecting value", "char 0"):
        assert leak not in done.stderr


@pytest.mark.parametrize("verb", ["", "verify", "list", "inspect", "history", "completion"])
def test_help_fits_eighty_columns(verb: str) -> None:
    done = subprocess.run(
        [*PROGRAM, *verb.split(), "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(("said", "status"), [("y\n", 0), ("n\n", 2), ("\n", 2), ("", 130)])
def test_a_root_is_replaced_after_a_plain_yes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int
) -> None:
    roots = [tmp_path / "old.json", tmp_path / "new.json"]
    for root in roots:
        root.write_bytes(Forge().release()["root"])
    monkeypatch.setenv("TABELLION_HOME", str(tmp_path / "home"))
    assert app.run(["trust", "add", "x.example/app", "--root", str(roots[0])]) == 0
    (pin,) = (tmp_path / "home" / "pins" / "guns").iterdir()
    before = pin.read_bytes()
    monkeypatch.setattr(output, "can_ask", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    assert app.run(["trust", "replace", "x.example/app", "--root", str(roots[1])]) == status
    assert (pin.read_bytes() == before) == (status != 0)
