"""Documents say what is: commands are CI's, named tests exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click

from tabellion.cli.app import cli
from tabellion.core.limits import Limits
from tabellion_server.cli import commands as server_commands
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


def test_no_index_is_told_to_have_it() -> None:
    """None does, and the name may be anybody's there: it's installed from a clone."""
    texts = list(ROOT.glob("*.md"))
    for folder in ("server", "client"):
        texts += [*(ROOT / folder).rglob("*.md"), *(ROOT / folder).rglob("*.py")]
    assert len(texts) > 100
    for path in texts:
        assert "tabellion[" not in path.read_text(), path
        for line in path.read_text().splitlines():
            assert not re.search(r"pip install (-\S+ )*'?tabellion", line), f"{path}: {line}"


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
        f"{section}.{key}": str(value).lower() if isinstance(value, bool) else str(value)
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


def migrating() -> str:
    return (ROOT / "server" / "MIGRATING.md").read_text()


def shown_commands(text: str) -> list[list[str]]:
    """Give the words of each command of ours in indented lines, comments and shells' signs off."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^ {4,}(tabellion(?:-server)? .*)$", joined, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def parsed(words: list[str]) -> click.Context:
    """Have the command line read by the real parser; nothing is run."""
    group: click.Group = server_commands if words[0] == "tabellion-server" else cli
    context = group.make_context(words[0], words[1:], resilient_parsing=False)
    rest = [*context._protected_args, *context.args]
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, rest, parent=context)
        rest = [*context._protected_args, *context.args]
    return context


def options_of(command: click.Command) -> set[str]:
    """Give every option of a command and of those below it."""
    found = {option for parameter in command.params for option in parameter.opts}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            found |= options_of(below) if below is not None else set()
    return found


def test_every_command_of_the_migration_page_is_one_that_the_parsers_take() -> None:
    shown = shown_commands(migrating())
    assert len(shown) > 9
    verbs = {parsed(words).command_path for words in shown}
    assert verbs == {
        *("tabellion-server import-notary", "tabellion-server mirror"),
        *("tabellion key import", "tabellion key list", "tabellion key export"),
        *("tabellion rotate", "tabellion convert"),
    }


def test_every_option_that_the_migration_page_names_exists() -> None:
    named = set(re.findall(r"(?<![-\w])--[a-z][-a-z]*", migrating()))
    others = {"--tlscacert", "--format", "--hex-blob", "--single-transaction", "--pretty"}
    ours = options_of(cli) | options_of(server_commands)
    assert named - others <= ours, f"no such options: {sorted(named - others - ours)}"


def test_every_setting_that_the_migration_page_names_exists() -> None:
    tables = migrating().partition("\n## Configuration, key by key\n")[2]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]*) \|$", tables, re.MULTILINE)
    named = {
        name
        for row in rows
        for cell in row
        for name in re.findall(r"`((?:server|keys|storage|auth|notary)\.[a-z_.]+)`", cell)
    }
    assert len(named) > 15
    assert named <= {f"{section}.{key}" for section, keys in _KNOWN.items() for key in keys}
