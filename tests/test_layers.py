"""The layers: each imports only from those below it, and what a board runs imports nothing but NumPy.

The order is the one of the architecture::

    cli > models > host > {sim, boards} > hw > numerics

Imports are read from the source: one inside a function or under ``TYPE_CHECKING`` counts as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

RANK = {"numerics": 0, "hw": 1, "sim": 2, "boards": 2, "host": 3, "models": 4, "cli": 5}

# What a PYNQ image imports: there is NumPy, but neither Amaranth nor torch.
NUMPY_ONLY = [
    "halfulp.numerics",
    "halfulp.hw.config",
    "halfulp.hw.registers",
    "halfulp.hw.handoff",
    "halfulp.host.driver",
    "halfulp.host.pynq_device",
]


def source_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Each Python file of the layers under `root`, with its layer; a layer that is not there has none."""
    for layer in RANK:
        for path in sorted((root / layer).rglob("*.py")):
            yield layer, path


def imported_names(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import in a file.

    ``from a import b`` gives ``a.b``, which is a module or a name in one; calls of ``import_module`` with a
    constant name count too.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - (node.level - 1)]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(name, ast.Constant):
                yield node.lineno, str(name.value)


def violations(root: Path) -> list[str]:
    """What in the tree under `root` breaks the layers, a line each: ``file:line: reason``."""
    found = []
    for layer, path in source_files(root):
        where = path.relative_to(root)
        if where.parts[1:3] != ("halfulp", layer):
            found.append(f"{where}:1: lies outside {layer}/halfulp/{layer}/")
            continue
        module = ".".join(where.with_suffix("").parts[1:]).removesuffix(".__init__")
        for line, name in imported_names(path, module):
            parts = name.split(".")
            if parts[0] != "halfulp":
                continue
            target = parts[1] if len(parts) > 1 else ""
            if target not in RANK:
                found.append(f"{where}:{line}: imports {name}, which is in no layer")
            elif target != layer and RANK[target] >= RANK[layer]:
                found.append(f"{where}:{line}: {layer} imports {name}, and {target} is not below it")
    return found


def test_each_layer_imports_only_from_layers_below():
    assert list(source_files(ROOT)), "no source found: the test would hold anything to be right"
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("numerics/halfulp/numerics/x.py", "import halfulp.hw.pe", "numerics imports halfulp.hw.pe"),
        ("numerics/halfulp/numerics/x.py", "from halfulp import hw", "numerics imports halfulp.hw"),
        (
            "hw/halfulp/hw/x.py",
            "from halfulp.host.driver import Driver",
            "hw imports halfulp.host.driver.Driver",
        ),
        ("sim/halfulp/sim/x.py", "from halfulp import boards", "sim imports halfulp.boards"),
        ("boards/halfulp/boards/x.py", "import halfulp.sim as s", "boards imports halfulp.sim"),
        (
            "sim/halfulp/sim/deep/x.py",
            "from ...host import open_device",
            "sim imports halfulp.host.open_device",
        ),
        ("sim/halfulp/sim/__init__.py", "from ..models import mlp", "sim imports halfulp.models.mlp"),
        ("host/halfulp/host/x.py", "def f():\n    import halfulp.models", "host imports halfulp.models"),
        ("host/halfulp/host/x.py", "import_module('halfulp.cli.main')", "host imports halfulp.cli.main"),
        ("models/halfulp/models/x.py", "import numpy, halfulp.cli", "models imports halfulp.cli"),
        ("cli/halfulp/cli/x.py", "import halfulp.utils", "imports halfulp.utils, which is in no layer"),
        ("cli/halfulp/cli/x.py", "from halfulp import *", "imports halfulp.*, which is in no layer"),
        ("hw/halfulp/__init__.py", "", "lies outside hw/halfulp/hw/"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, source: str, message: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = violations(tmp_path)
    assert found.startswith(f"{file}:")
    assert message in found


def test_imports_from_below_and_from_outside_are_allowed(tmp_path: Path):
    for file, source in {
        "hw/halfulp/hw/a.py": "import numpy\nfrom . import b\nfrom halfulp.numerics.gemm import GemmSpec",
        "sim/halfulp/sim/deep/a.py": "from .. import b\nfrom ..b import c\nfrom ...hw import config",
        "cli/halfulp/cli/main.py": "from halfulp import models, host\nimport halfulp.boards, halfulp.sim.rtl",
    }.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True)
        path.write_text(source)
    assert violations(tmp_path) == []


def import_with_numpy_only(module: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Import a module in an interpreter that finds nothing but the standard library, NumPy and halfulp."""
    program = f"""
        import sys

        class NothingElse:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] not in {{*sys.stdlib_module_names, "numpy", "halfulp"}}:
                    raise ModuleNotFoundError(f"{{name!r}} is neither NumPy nor standard library", name=name)

        sys.meta_path.insert(0, NothingElse())
        sys.path[:0] = {[str(path) for path in paths]!r}
        import {module}
        foreign = {{"amaranth", "torch"}} & set(sys.modules)
        if foreign:
            raise SystemExit(f"loaded before the import could be watched: {{foreign}}")
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("module", NUMPY_ONLY)
def test_what_a_board_runs_needs_only_numpy(module: str):
    result = import_with_numpy_only(module)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("line", ["import torch", "from amaranth import Module", "import halfulp.x.deep"])
def test_an_import_of_anything_else_is_noticed(tmp_path: Path, line: str):
    package = tmp_path / "halfulp" / "x"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "deep.py").write_text("import scipy")
    (package / "top.py").write_text(line)
    result = import_with_numpy_only("halfulp.x.top", tmp_path)
    assert result.returncode != 0
    assert "is neither NumPy nor standard library" in result.stderr
