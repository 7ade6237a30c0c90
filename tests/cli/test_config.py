"""Where a setting comes from, and that the example file is right."""

from pathlib import Path

import click
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from issuer import Issuer
from tabellion.cli.app import cli
from tabellion.cli.config import ClientConfig, load_config
from tabellion.cli.context import Options, settle
from tabellion.errors import ConfigurationError, UsageError

EXAMPLE = Path(__file__).parents[2] / "config" / "client.toml"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "SERVER",
        "HOME",
        "CA",
        "CONFIG",
        "ROOT",
        "ROOT_KEY",
        "ENGINE",
        "OFFLINE",
        "TRUST_PINNING",
    ):
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
            line.removeprefix("# ")
            if line.startswith(
                ("# home =", "# ca =", "# trust_pinning_file =", "# [", '# "', "# dis")
            )
            else line
            for line in lines
        ),
        encoding="utf-8",
    )
    bundle = Issuer().certificate
    (tmp_path / "root-authorities.pem").write_bytes(bundle.public_bytes(Encoding.PEM))
    config = load_config(path, {})
    assert config.ca == str(tmp_path / "ca.pem")
    assert str(config.trust_pinning_file).endswith("/.notary/config.json")
    assert config.trust_pinning is not None
    assert config.trust_pinning.disable_tofu
    assert len(config.trust_pinning.certs) == 2
    assert config.trust_pinning.ca == {"registry.example/": (bundle,)}
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


GUNS = '"Registry.example/App" = ["' + "ab" * 32 + '"]'


def test_pins_keep_their_capitals_and_come_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text(f"[trust_pinning]\ndisable_tofu = true\n[trust_pinning.certs]\n{GUNS}\n")
    pinning = settle(Options(config=str(path))).trust_pinning
    assert pinning is not None
    assert pinning.disable_tofu
    assert pinning.certs == {"Registry.example/App": frozenset({"ab" * 32})}
    path.write_text("[trust_pinning]\ntofu = true\n[client]\nengine = 'x'\n")
    with pytest.raises(ConfigurationError, match=r"engine is 'x'.*trust_pinning\.tofu"):
        load_config(path, {})


def test_pins_come_from_notarys_file_by_option_variable_or_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {}
    for name in ("option", "variable", "key"):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(f'{{"trust_pinning": {{"certs": {{"{name}": []}}}}}}')
    path = tmp_path / "client.toml"
    path.write_text('[client]\ntrust_pinning_file = "key.json"\n')

    def pinned(**typed: str) -> list[str]:
        found = settle(Options(config=str(path), **typed)).trust_pinning  # type: ignore[arg-type]
        assert found is not None
        return list(found.certs)

    assert pinned() == ["key"]
    monkeypatch.setenv("TABELLION_TRUST_PINNING", str(files["variable"]))
    assert pinned() == ["variable"]
    assert pinned(trust_pinning_file=str(files["option"])) == ["option"]


def test_pins_given_twice_are_refused_rather_than_one_being_dropped(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text(f"[trust_pinning.certs]\n{GUNS}\n")
    other = tmp_path / "config.json"
    other.write_text('{"trust_pinning": {}}')
    with pytest.raises(ConfigurationError, match="trust_pinning"):
        settle(Options(config=str(path), trust_pinning_file=str(other)))


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
