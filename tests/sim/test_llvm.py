"""Without llvmlite the emulator's modules say in one line how to get it."""

from __future__ import annotations

import sys

import pytest


def test_the_fast_modules_name_the_extra_that_brings_llvmlite(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("halfulp.sim.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    for name in ("quantise", "emulator"):
        with pytest.raises(ModuleNotFoundError, match=r"llvmlite is not installed: pip install 'halfulp\[emulator\]'"):
            __import__(f"halfulp.sim.{name}")
