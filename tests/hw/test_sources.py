"""The digest of sources is of those that a process runs, though their files change meanwhile."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from halfulp.hw.sources import note_sources, sources_digest

ROOT = Path(__file__).parents[2]

OTHERS_DIGEST = "from halfulp.hw.sources import sources_digest; print(sources_digest({name!r}))"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A package of two modules, `early` and `late`, noted and not yet imported; no other test has one of its name."""
    folder = tmp_path / f"package_of_{request.node.name}"
    (folder / "deep").mkdir(parents=True)
    for name in ("__init__.py", "early.py", "late.py", "deep/__init__.py"):
        (folder / name).write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    note_sources(folder.name)
    return folder


def fresh(package: Path) -> str:
    """What another process has that is started now."""
    command = [sys.executable, "-c", OTHERS_DIGEST.format(name=package.name)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def change(path: Path) -> None:
    path.write_text("VALUE = 'another one'\n")


def test_it_is_of_all_files_and_the_same_everywhere(package: Path):
    digest = sources_digest(package.name)
    assert sources_digest(package.name) == digest == fresh(package)
    for path in ("early.py", "deep/__init__.py"):
        change(package / path)
        assert fresh(package) != digest
        digest = fresh(package)
    (package / "new.py").touch()
    assert fresh(package) != digest
    assert sources_digest("halfulp.numerics") != sources_digest("halfulp.hw")
    assert sources_digest("halfulp.numerics", "halfulp.hw") != sources_digest("halfulp.hw", "halfulp.numerics")


def test_it_stays_that_of_what_was_imported(package: Path):
    module = importlib.import_module(f"{package.name}.early")
    digest = sources_digest(package.name)
    change(package / "early.py")
    assert module.VALUE == 1
    assert sources_digest(package.name) == digest != fresh(package)
    # What is not run does not count.
    (package / "new.py").touch()
    assert sources_digest(package.name) == digest


def test_what_may_be_old_or_new_is_found_by_no_other_process(package: Path):
    digest = sources_digest(package.name)
    change(package / "late.py")
    importlib.import_module(f"{package.name}.late")
    assert sources_digest(package.name) not in (digest, fresh(package))
    assert sources_digest(package.name) == sources_digest(package.name)


def test_what_was_changed_before_it_was_read_is_found_by_no_other_process(package: Path):
    before = fresh(package)
    importlib.import_module(f"{package.name}.early")
    change(package / "early.py")
    assert sources_digest(package.name) not in (before, fresh(package))
    (package / "early.py").unlink()
    assert sources_digest(package.name) not in (before, fresh(package))


def test_a_package_that_is_not_there_is_told():
    with pytest.raises(ValueError, match=r"'halfulp\.nothing' is not an installed package"):
        sources_digest("halfulp.nothing")
    with pytest.raises(ValueError, match=r"'json\.decoder' is not an installed package"):
        note_sources("json.decoder")


def test_verilog_made_after_an_edit_is_not_found_by_who_runs_it(tmp_path: Path):
    """Of a copy of the sources: a process that imported them, an edit, the Verilog it makes; then another process."""
    for layer in ("numerics", "hw", "sim"):
        shutil.copytree(ROOT / layer / "halfulp", tmp_path / layer / "halfulp")
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from halfulp.hw import config, sources, verilog
        from halfulp.sim import rtl
        assert Path(sources.__file__).is_relative_to(sys.argv[1])
        if len(sys.argv) == 4:
            with open(sys.argv[2], "a") as file:
                file.write("# edited\\n")
        verilog.generate_verilog = lambda config: sys.argv[-1]
        print(rtl.core_verilog(config.ArrayConfig()))
        """
    )
    environment = {**os.environ, "HALFULP_CACHE": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join(str(tmp_path / layer) for layer in ("numerics", "hw", "sim"))

    def verilog(*arguments: str) -> str:
        command = [sys.executable, "-c", script, str(tmp_path), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=environment)
        return done.stdout.strip()

    assert verilog("of the old sources") == "of the old sources"
    assert verilog(str(tmp_path / "hw" / "halfulp" / "hw" / "config.py"), "of either") == "of either"
    assert verilog("of the new sources") == "of the new sources"
