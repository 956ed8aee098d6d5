"""The package: what it says it needs is what it imports, and a wheel holds every file of every layer."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
LAYERS = ["numerics", "hw", "sim", "boards", "host", "models", "cli"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(extras: list[str] | None = None) -> list[Requirement]:
    """The requirements of the base package and of the extras (all if None), less those on our own extras."""
    optional = PROJECT["optional-dependencies"]
    lines = list(PROJECT["dependencies"])
    for extra in optional if extras is None else extras:
        lines += optional[extra]
    return [line for line in map(Requirement, lines) if line.name != PROJECT["name"]]


def imported_packages(layer: str) -> dict[str, Path]:
    """Top-level names from outside that a layer imports, each with a file that does."""
    found = {}
    for path in (ROOT / layer).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != PROJECT["name"]:
                    found[top] = path.relative_to(ROOT)
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_imported_is_declared(layer: str):
    allowed = {canonicalize_name(line.name) for line in declared([] if layer == "numerics" else None)}
    providers = importlib.metadata.packages_distributions()
    undeclared = {}
    for name, path in imported_packages(layer).items():
        distributions = {canonicalize_name(each) for each in providers.get(name, [name])}
        if not distributions & allowed:
            undeclared[name] = str(path)
    assert undeclared == {}


def test_every_extra_is_in_dev_and_every_runtime_extra_in_all():
    optional = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, optional["all"])
    assert everything.extras == set(optional) - {"all", "dev", "test", "lint"}
    assert {"all", "test", "lint"} <= {extra for line in map(Requirement, optional["dev"]) for extra in line.extras}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_constraints_pin_every_requirement_once(python: str):
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        (specifier,) = pin.specifier
        assert specifier.operator == "==", line
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pins.setdefault(canonicalize_name(pin.name), specifier.version) == specifier.version, line
    for line in declared():
        if line.marker is None or line.marker.evaluate(environment):
            assert line.specifier.contains(pins[canonicalize_name(line.name)]), str(line)


def test_constraints_are_sorted():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = [canonicalize_name(re.split("==", line)[0]) for line in lines if not line.startswith("#")]
    assert names == sorted(names)


def test_the_wheel_holds_every_file_of_the_layers(tmp_path: Path):
    program = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    source = {
        str(path.relative_to(ROOT / layer))
        for layer in LAYERS
        for suffix in ("py", "cpp", "h", "toml", "json", "vlt", "v", "typed")
        for path in (ROOT / layer).rglob(f"*.{suffix}")
        if not {"sim_build", "__pycache__"} & set(path.parts)
    }
    shipped = {name for name in names if ".dist-info/" not in name}
    assert source <= shipped
    assert {name.split("/")[0] for name in shipped} == {"halfulp"}
    assert {name.split("/")[1] for name in shipped} <= set(LAYERS), "halfulp is a namespace: nothing lies in itself"
    assert "halfulp = halfulp.cli.main:main" in entry_points
