from __future__ import annotations

from pathlib import Path

import pytest

from unit.client.engine_recorder import Recorder


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("ENGINE_LOG", str(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)
    return Recorder(tmp_path)
