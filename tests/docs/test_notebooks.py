"""The notebooks run from top to bottom on the virtual board, and are stored without what they once printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_clean(path: Path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.timeout(600)  # a core may have to be compiled
def test_getting_started_multiplies_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (path,) = (path for path in NOTEBOOKS if path.stem == "pynq_getting_started")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALFULP_DEVICE", "pynq-sim:4x4")
    plots: list[str] = []
    monkeypatch.setattr(plt, "show", lambda: plots.append(plt.gca().get_title()) or plt.close("all"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}[{cell['id']}]", "exec"), names)
    told = capsys.readouterr().out
    assert "equal to the golden model: True" in told
    assert abs(sum(names["samples"]) / len(names["samples"]) - names["exact"]) < 0.05 * abs(names["exact"]) + 0.1
    assert names["run"].accuracy > 0.7
    assert names["losses"][-1] < names["losses"][0]
    assert len(plots) == 2
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
