"""Documents say what is: commands are CI's, named tests exist."""

from __future__ import annotations

import re
from pathlib import Path

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
