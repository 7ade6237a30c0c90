"""The tables of flags against what the installed engines say of themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from integration import engines
from tabellion.docker.flags import global_flags, verb_flags

pytestmark = pytest.mark.system

# "  -a, --attach list   Attach to ..." and "      --pull string[="true"]  Always ..."
_LINE = re.compile(r"^\s{2,6}(?:(-\w), )?(--[a-z0-9-]+)(?: (\S+))?(?:\s{2,}|$)", re.MULTILINE)


def flags_of(engine: engines.Engine, *verb: str) -> dict[str, bool]:
    """Give each flag's names, and whether a value has to follow as a word of its own."""
    found = {}
    for short, long, kind in _LINE.findall(engine.run(*verb, "--help").stdout):
        needs_value = bool(kind) and "[=" not in kind
        found |= {name: needs_value for name in (short, long) if name}
    assert len(found) > 3
    return found


@pytest.mark.parametrize("verb", ["", "pull", "run", "create", "build"])
@pytest.mark.parametrize("name", ["docker", "podman"])
def test_every_flag_of_the_engine_takes_a_value_as_its_table_says(
    name: str, verb: str, tmp_path: Path
) -> None:
    engines.need(name)
    env = engines.plain_environment(tmp_path) | {"DOCKER_BUILDKIT": "0"}
    engine = engines.Engine((name,), env)
    table = verb_flags(verb, name) if verb else global_flags(name)
    assert not table.alone & table.valued
    for flag, needs_value in flags_of(engine, *verb.split()).items():
        assert flag in (table.valued if needs_value else table.alone), flag
