"""What ``client/README.md`` says is what happens."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tabellion.errors
from tabellion.cli import app
from tabellion.cli.embedded import EmbeddedServer

SOURCE = Path(tabellion.errors.__file__).parent
MANUAL = SOURCE.parent / "README.md"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {},
        "layers": [],
    }
).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
NEW_KEY = "key generate --role root --type ecdsa --name c > made"
PENDING_ID = "$(tabellion --json pending list manual.example/app | grep -o '[0-9a-f]\\{64\\}')"
ABOUT_TRUST = {
    "anchors set, anchors revoke", "anchors remove", "anchors list", "trust add, trust list",
    "trust show", "trust replace", "trust remove",
}  # fmt: skip
BY_ROLE = {"awaited", "holders", "versions", "expires", "missing", "custom", "pem", "signed_for"}
BY_ROLE |= {"behind", "removed", "still_trusted"}
Run = Callable[..., subprocess.CompletedProcess[str]]


class Registry(BaseHTTPRequestHandler):
    """Has one manifest, under every name."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        self.send_header("Content-Length", str(len(MANIFEST)))
        self.end_headers()
        self.wfile.write(MANIFEST)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def run(server: EmbeddedServer, tmp_path: Path, quick_commands: Path) -> Run:
    """Run a shell command in a scratch home; it must end well."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TABELLION_")}
    passphrases = {
        f"TABELLION_{role}_PASSPHRASE": f"{role}-secret"
        for role in ("ROOT", "TARGETS", "SIGNER", "BACKUP")
    }

    def shell(command: str, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", command],  # noqa: S607  # bash is where the system keeps it
            cwd=tmp_path,
            env={
                **kept,
                **passphrases,
                "PATH": f"{quick_commands}:{Path(sys.executable).parent}:{kept['PATH']}",
                "HOME": str(tmp_path),
                "XDG_CONFIG_HOME": str(tmp_path),
                "TABELLION_HOME": str(tmp_path / "home"),
                "TABELLION_SERVER": server.url,
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
        return done

    return shell


def commands(section: str) -> list[str]:
    """Give the commands shown in a section, with what its comments say."""
    text = MANUAL.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2]
    shown = text.partition("\n## ")[0].splitlines()
    return [line.strip() for line in shown if line.startswith("    tabellion ")]


def test_every_command_of_the_manual_works(run: Run, registry: str, tmp_path: Path) -> None:
    fingerprint = ""
    seen = 0
    for section in ("Publish", "What ends when", "Look", "Verify before you use"):
        for shown in commands(section):
            verb = shown.split()[1]
            if verb in {"docker", "pull"}:  # with a real engine: tests/integration
                continue
            command = shown.replace("registry.example", registry)
            command = command.replace("sha256:...", DIGEST).replace("1234", str(len(MANIFEST)))
            home = tmp_path / ("alice" if "Alice" in shown else "home")
            pin = {"TABELLION_ROOT_KEY": fingerprint} if fingerprint else {}
            done = run(command, TABELLION_HOME=str(home), **pin)
            if verb == "init":
                fingerprint = done.stdout.strip()
                run(f"tabellion sign {registry}/team/app:1.1", TABELLION_HOME=str(home))
            if verb == "verify":
                assert done.stdout == f"{DIGEST}\n"
            seen += 1
    assert seen > 12


def test_every_verb_is_in_the_manual() -> None:
    manual = MANUAL.read_text(encoding="utf-8")
    for section in app.Tabellion.verbs.values():
        for verb in section:
            assert re.search(rf"(tabellion |`){verb}\b", manual) or verb == "demo", verb


def test_the_manual_lists_every_variable() -> None:
    documented = set(re.findall(r"[A-Z]+_[A-Z_]*[A-Z]|TERM", MANUAL.read_text(encoding="utf-8")))
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"(?<![A-Z_])TABELLION_[A-Z_]*[A-Z]", text))
        found.update(re.findall(r"environ\.get\(\"([A-Z_]+)\"", text))
    found = {name.partition("__")[0] if "__" in name else name for name in found}
    documented = {name.partition("__")[0] if "__" in name else name for name in documented}
    assert found <= documented, f"not in the manual: {sorted(found - documented)}"
    ours = {name for name in documented if name.startswith("TABELLION_")}
    assert ours <= found, f"not in the code: {sorted(ours - found)}"


def test_the_manual_lists_every_exit_status() -> None:
    documented = {int(n) for n in re.findall(r"\n\| (\d+) \|", MANUAL.read_text("utf-8"))}
    kinds = [tabellion.errors.TabellionError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    statuses = {value for name, value in vars(app).items() if name.startswith("_") and
                type(value) is int}  # fmt: skip
    assert documented == {0, *(kind.exit_status for kind in kinds), *statuses}


def json_table() -> dict[str, set[str]]:
    rows = re.findall(
        r"^\| ([a-z][^|]*) \| (.*) \|$",
        MANUAL.read_text(encoding="utf-8").partition("\n## JSON\n")[2].partition("\n## ")[0],
        re.MULTILINE,
    )
    return {name: set(re.findall(r"`([a-z_0-9]+)`", text)) for name, text in rows if "`" in text}


def members(content: Any) -> set[str]:
    """Give the names of all members, but those that are themselves data; hold moments to form."""
    if isinstance(content, list):
        return set().union(*(members(item) for item in content))
    if not isinstance(content, dict):
        return set()
    found = set(content)
    for name, value in content.items():
        moments = value.values() if name == "expires" and isinstance(value, dict) else [value]
        if name in {"expires", "at", "created"}:
            assert all(moment is None or MOMENT.fullmatch(moment) for moment in moments), value
        if name not in BY_ROLE:
            found |= members(value)
    return found


@pytest.mark.timeout(420)  # some 60 starts of the command line
def test_the_members_of_json_answers_are_those_in_the_manual(run: Run) -> None:
    gun = "manual.example/app"
    old, other = "manual.example/old", f"sha256:{'1' * 64}"
    signed = f"--digest {DIGEST} --length 5"
    run("tabellion key generate --name a && tabellion key export a > a.pub")
    run("openssl genpkey -algorithm ed25519 -out plain.pem")
    how_to_convert = ("--dry-run", "--yes")
    for line in (
        f"init {old} --dialect notary",
        f"sign {old}:1 {signed}",
        f"signer add {old} alice a.pub",
        f"sign {old}:1 --digest {other} --length 6",
    ):
        run(f"tabellion {line}")
    run("openssl pkey -in plain.pem -pubout -out other.pub")
    answers = {
        "init": [f"init {gun}"],
        "sign, revoke, publish, cosign, witness, rotate, root prepare, root publish, signer add, "
        "signer remove": [
            f"sign {gun}:1 {signed}",
            f"sign {gun}:2 {signed}",
            f"revoke {gun}:2",
            f"signer add {gun} qa a.pub",
            f"signer add {gun} out a.pub",
            f"signer remove {gun} out",
            f"sign {gun}:qa {signed} --role qa",
            f"sign {gun}:3 {signed} --no-publish",
            f"publish {gun}",
            f"rotate {gun} targets",
            f"witness {gun} targets",
            f"root prepare {gun} --add-key other.pub --threshold 2",
            f"root prepare {gun} --add-key other.pub --threshold 2 --out root.json",
        ],
        "signer request": [f"signer request {gun} more --key a"],
        "verify, inspect IMAGE": [
            f"verify {gun}:1",
            f"inspect {gun}:1",
            f"verify 1 --gun {gun}",
        ],
        "inspect GUN": [f"inspect {gun}"],
        "list": [f"list {gun}"],
        "history": [f"history {gun}", f"history {gun}:1"],
        "status": [f"status {gun}"],
        "recover lost": [f"recover lost {gun}"],
        "recover signer": [f"recover signer {gun} qa --since 2026-01-01"],
        "reset": [f"sign {gun}:4 {signed} --no-publish > staged; tabellion --json reset {gun}"],
        "signer list": [f"signer list {gun}"],
        "signer add, signer remove with --gun-prefix": [
            "signer add --gun-prefix 'manual.example/**' all a.pub --dry-run",
            "signer add --gun-prefix 'manual.example/**' all a.pub",
        ],
        "signer declared": ["signer declared --check", "signer declared"],
        "convert": [f"convert {old} --to tuf --vouch releases {how}" for how in how_to_convert],
        "pending list": [f"pending list {gun}"],
        "pending show, root show, root sign FILE": [f"pending show {gun}", "root show root.json"],
        "pending withdraw": [f"pending withdraw {gun} {PENDING_ID}"],
        "pending audit": [f"pending audit {gun}"],
        "root certificate": [f"{NEW_KEY}; tabellion --json root certificate {gun} c"],
        "key list, key generate, key import": [
            "key list",
            "key generate --name b",
            "key import plain.pem --role targets",
            "key export a --notary theirs",
        ],
        "key backup": ["key backup stick"],
        "key restore": ["key restore stick"],
    }
    documented = json_table()
    # pull needs an engine: tests/integration has it
    assert set(documented) == {*answers, *ABOUT_TRUST, "any error", "pull"}
    for name, lines in answers.items():
        found = [members(json.loads(run(f"tabellion --json {line}").stdout)) for line in lines]
        assert set().union(*found) == documented[name], name
        if "verify" not in name and "sign," not in name:
            assert all(each == documented[name] for each in found), name
    failed = run("tabellion --json verify nobody.example/app:1", status=1)
    assert members(json.loads(failed.stdout)) == documented["any error"]
    plain = json.loads(run(f"tabellion --json verify 1 --gun {gun}").stdout)
    assert plain["reference"] is None


def test_the_members_of_json_answers_about_trust_are_those_in_the_manual(
    server: EmbeddedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("ROOT", "TARGETS"):
        monkeypatch.setenv(f"TABELLION_{name}_PASSPHRASE", "a secret")
    monkeypatch.setenv("TABELLION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TABELLION_SERVER", server.url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    gun, anchors, pinned = (f"trusted.example/{name}" for name in ("app", "anchors", "pinned"))
    root = str(tmp_path / "root.json")

    def answer(*words: str) -> Any:
        capsys.readouterr()
        assert app.run(["--json", *words]) == 0, words
        return json.loads(capsys.readouterr().out)

    made = answer("init", "--gun", anchors, "--root-out", root)
    answer("init", gun)
    key = made["root_keys"][0]["fingerprint"]
    collection = ["--anchors", f"{server.url}/{anchors}", "--root", root, "--for", gun]
    answers = {
        "anchors set, anchors revoke": [
            ["anchors", "revoke", "--gun", anchors, "other"],
            ["anchors", "set", "--gun", anchors, gun, key],
        ],
        "anchors remove": [["anchors", "remove", "--gun", anchors, "other"]],
        "anchors list": [["anchors", "list", "--gun", anchors]],
        "trust add, trust list": [
            ["trust", "add", pinned, "--root", root],
            ["trust", "add", *collection],
            ["trust", "list"],
        ],
        "trust show": [["trust", "show", gun]],
        "trust replace": [["trust", "replace", pinned, "--root", root, "--fingerprint", key]],
        "trust remove": [["trust", "remove", pinned]],
    }
    assert set(answers) == ABOUT_TRUST
    documented = json_table()
    for name, lines in answers.items():
        for line in lines:
            assert members(answer(*line)) == documented[name], line
