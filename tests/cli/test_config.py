"""Where a setting comes from, and that the example file is right."""

from pathlib import Path

import click
import pytest

from tabellion.cli.app import cli
from tabellion.cli.config import ClientConfig, load_config
from tabellion.cli.context import Options, settle
from tabellion.errors import ConfigurationError, UsageError

EXAMPLE = Path(__file__).parents[2] / "config" / "client.toml"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SERVER", "HOME", "CA", "CONFIG", "ROOT", "ROOT_KEY", "ENGINE", "OFFLINE"):
        monkeypatch.delenv(f"TABELLION_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))


def test_the_example_configuration_has_no_faults() -> None:
    assert load_config(EXAMPLE, {}) == ClientConfig(
        server="http://127.0.0.1:4443", engine="docker", offline="deny"
    )


def test_every_key_of_the_example_is_known_when_uncommented(tmp_path: Path) -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "client.toml"
    path.write_text(
        "\n".join(
            line.removeprefix("# ") if line.startswith(("# home =", "# ca =")) else line
            for line in lines
        ),
        encoding="utf-8",
    )
    config = load_config(path, {})
    assert config.ca == str(tmp_path / "ca.pem")
    assert config.home == "/home/me/.local/share/tabellion"


def test_an_option_beats_its_variable_beats_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "client.toml"
    path.write_text('[client]\nserver = "http://file"\n', encoding="utf-8")
    options = Options(config=str(path))
    assert settle(options).server == "http://file"
    monkeypatch.setenv("TABELLION_CLIENT__SERVER", "http://long-variable")
    assert settle(options).server == "http://long-variable"
    monkeypatch.setenv("TABELLION_SERVER", "http://variable/")
    assert settle(options).server == "http://variable"
    assert settle(Options(config=str(path), server="http://option")).server == "http://option"


def test_a_typed_root_key_beats_the_root_file_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABELLION_ROOT", "root.json")
    settings = settle(Options(root_key="ab" * 32))
    assert (settings.root, settings.root_key) == (None, "ab" * 32)


def test_two_bootstrap_variables_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABELLION_ROOT", "root.json")
    monkeypatch.setenv("TABELLION_ROOT_KEY", "ab" * 32)
    with pytest.raises(UsageError):
        settle(Options())


def test_a_faulty_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="TABELLION_CLIENT__OFFLINE: is 'maybe'"):
        load_config(EXAMPLE, {"TABELLION_CLIENT__OFFLINE": "maybe"})
    with pytest.raises(ConfigurationError, match="TABELLION_CLIENT__ENGINE: is 'dockr'"):
        load_config(EXAMPLE, {"TABELLION_CLIENT__ENGINE": "dockr"})


@pytest.mark.parametrize("content", [b"\xff", b"client = 3", b"[client", b"[[client]]\n"])
def test_a_broken_file_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "client.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"client\.toml"):
        load_config(path, {})


def test_every_verb_has_help_with_an_example() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        verbs = command.commands.values() if isinstance(command, click.Group) else [command]
        for verb in verbs:
            help_text = verb.get_help(click.Context(verb, info_name=name))
            assert "\n  Examples:\n    tabellion " in help_text, name
