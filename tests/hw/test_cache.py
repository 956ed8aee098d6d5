"""The cache: built once, whole or not at all, and built again when it is damaged."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from halfulp.hw.cache import CacheError, cache_folder, cached, digest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALFULP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Builder:
    """A build that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "data").write_bytes(b"x" * 1000)
        (folder / "text").write_text("hello")
        (folder / "link").symlink_to("text")


def left_behind(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if not p.name.endswith(".lock")]


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("HALFULP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "halfulp"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "halfulp"


def test_an_entry_is_built_once():
    build = Builder()
    first = cached("kind", "key", build)
    assert cached("kind", "key", build) == first
    assert build.calls == 1
    assert (first / "deep" / "data").read_bytes() == b"x" * 1000
    assert cached("kind", "other", build) != first
    assert build.calls == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "extra", "manifest", "manifest gone", "link"])
def test_a_damaged_entry_is_built_again(damage: str):
    build = Builder()
    entry = cached("kind", "key", build)
    data = entry / "deep" / "data"
    if damage == "truncate":
        data.write_bytes(b"x" * 999)
    elif damage == "flip":
        data.write_bytes(b"x" * 500 + b"y" + b"x" * 499)
    elif damage == "remove":
        data.unlink()
    elif damage == "extra":
        (entry / "stray").touch()
    elif damage == "manifest":
        (entry / "manifest.json").write_text('{"text": [5')
    elif damage == "manifest gone":
        (entry / "manifest.json").unlink()
    else:
        (entry / "link").unlink()
        (entry / "link").symlink_to("nowhere")
    assert cached("kind", "key", build) == entry
    assert build.calls == 2
    assert data.read_bytes() == b"x" * 1000
    assert cached("kind", "key", build) == entry
    assert build.calls == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no such gate")], ids=["Ctrl-C", "failure"])
def test_an_interrupted_build_leaves_nothing(own_cache: Path, error: BaseException):
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(type(error)):
        cached("kind", "key", build)
    assert left_behind(own_cache / "kind") == []
    whole = Builder()
    cached("kind", "key", whole)
    assert whole.calls == 1


def test_a_killed_build_leaves_no_entry_and_the_next_one_clears_up(own_cache: Path):
    program = """
        import os
        from halfulp.hw.cache import cached

        def build(folder):
            (folder / "half").write_text("half")
            os._exit(9)

        cached("kind", "key", build)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=60)
    assert killed.returncode == 9
    assert left_behind(own_cache / "kind") != [], "the test should have left a half-built folder"
    entry = cached("kind", "key", Builder())
    assert [p.name for p in (own_cache / "kind").iterdir() if not p.name.endswith(".lock")] == [entry.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_gives_one_line_and_leaves_nothing(own_cache: Path, code: int):
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(CacheError, match=r"^no room left for the cache in .*HALFULP_CACHE") as caught:
        cached("kind", "key", build)
    assert "\n" not in str(caught.value)
    assert left_behind(own_cache / "kind") == []


def test_a_cache_that_cannot_be_written_says_so(own_cache: Path):
    own_cache.write_text("a file where the folder should be")
    with pytest.raises(CacheError, match="cannot be written: allow it, or set HALFULP_CACHE"):
        cached("kind", "key", Builder())


def test_threads_build_one_entry_once():
    build = Builder()
    threads = [threading.Thread(target=cached, args=("kind", "key", build)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.calls == 1


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_names_stay_in_the_cache(name: str):
    with pytest.raises(ValueError, match="must be letters, digits"):
        cached("kind", name, Builder())


def test_keys_tell_parts_apart():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a") == digest(b"a")
