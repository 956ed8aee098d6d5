"""What the boards' tests share: tools that take no time, and a cache of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fake_tools import FakeTools


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTools:
    """Fake tools in the place of the real ones, and an empty cache."""
    monkeypatch.setenv("HALFULP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tools"
    folder.mkdir()
    return FakeTools(folder, monkeypatch)
