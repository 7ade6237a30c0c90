"""Documents say what is: commands are CI's, named tests exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tabellion.core.limits import Limits
from tabellion_server.settings import _KNOWN

ROOT = Path(__file__).parents[2]


def test_every_test_that_security_md_names_exists() -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "SECURITY.md").read_text()))
    assert len(named) > 15
    defined: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined.update(re.findall(r"def (test_[a-z0-9_]+)", path.read_text()))
    assert named <= defined, f"no such tests: {sorted(named - defined)}"


def test_readme_prints_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    venv = "python3 -m venv .venv && .venv/bin/pip install"
    assert f"{venv} '.[server]' && .venv/bin/tabellion demo" in readme
    assert f"{venv} -e '.[test]' && .venv/bin/python -m pytest" in readme


def test_ci_takes_its_test_command_from_the_readme() -> None:
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_no_registry_host_is_named() -> None:
    for path in ("pyproject.toml", "README.md", ".ci/run"):
        assert "pypi.org" not in (ROOT / path).read_text()


def test_every_rule_of_the_checklist_has_a_test_named_after_it() -> None:
    defined = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"def test_((?:[ab]\d\d_)+)", defined)
    found = {rule for name in names for rule in name.strip("_").split("_")}
    expected = {f"a{number:02}" for number in range(1, 20)}
    expected |= {f"b{number}" for number in range(20, 50)}
    assert expected <= found, f"rules without a test: {sorted(expected - found)}"


def server_readme(heading: str) -> str:
    text = (ROOT / "server" / "README.md").read_text()
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_the_servers_readme_lists_every_key_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `([a-z_.]+)` \| `?(.*?)`? \|", server_readme("Configure"), re.MULTILINE)
    )
    assert rows.keys() == {f"{section}.{key}" for section, keys in _KNOWN.items() for key in keys}
    shipped = tomllib.loads((ROOT / "config" / "server.toml").read_text())
    defaults = {
        f"{section}.{key}": str(value)
        for section, values in shipped.items()
        for key, value in values.items()
    }
    assert rows == dict.fromkeys(rows, "none") | defaults


def test_the_shipped_configuration_shows_every_key() -> None:
    text = (ROOT / "config" / "server.toml").read_text()
    text = re.sub("^# ", "", text, flags=re.MULTILINE)
    for section, keys in _KNOWN.items():
        body = text.partition(f"[{section}]")[2].partition("\n[")[0]
        for key in keys:
            assert re.search(rf"^{key} +=", body, re.MULTILINE), f"{section}.{key}"


def test_the_servers_readme_lists_every_event_it_logs() -> None:
    rows = re.findall(r"^\| (`.*?) \|", server_readme("Logs"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    call = re.compile(r'(?:log\(\)\.(?:debug|info|warning|error|exception)|write)\(\s*"([a-z_.]+)"')
    source = (ROOT / "server" / "tabellion_server").rglob("*.py")
    assert listed == {name for path in source for name in call.findall(path.read_text())}


def test_the_servers_readme_tells_the_limits() -> None:
    limits = Limits()
    assert (
        f"root {limits.root_bytes}, timestamp {limits.timestamp_bytes}, snapshot "
        f"{limits.snapshot_bytes}, a targets role {limits.targets_bytes}"
    ) in server_readme("Limits")
    assert f"visits {limits.delegations} roles" in server_readme("Limits")
