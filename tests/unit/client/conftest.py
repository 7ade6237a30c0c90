from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from unit.client.engine_recorder import Recorder


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("ENGINE_LOG", str(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execvp", _became)
    return Recorder(tmp_path)


def _became(file: str, words: list[str]) -> NoReturn:
    """Fail: in this very process it would end the whole test run, with the engine's status."""
    raise AssertionError(f"became {file} {words}")
