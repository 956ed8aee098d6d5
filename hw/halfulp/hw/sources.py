"""The digest of the Python files that a process runs, for keys of what it makes. No dependencies.

A module stays as it was when it was imported, whatever becomes of its file. What a process makes must not be found
under the digest of files that it does not run. So packages note their files when they are imported, by size and time of
change, and the digest is the one of those.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator

__all__ = ["note_sources", "sources_digest"]

_Stamp = tuple[int, int, int]
"""Time of change, size and number of a file."""


def note_sources(package: str) -> None:
    """Note a package's files as they are: called where it is imported, before its modules are.

    Parameters
    ----------
    package
        A name such as ``halfulp.hw``; it is located but not imported.

    Raises
    ------
    ValueError
        Where there is no such package.
    """
    _noted[package] = _Package(package)


def sources_digest(*packages: str) -> str:
    """Hash of all Python files of these packages as they were noted, or are now where they were not.

    Where they have been changed in between, and modules may have been imported before as well as after, nothing tells
    what the process runs: the hash is one of this process alone then.

    Parameters
    ----------
    packages
        Names such as ``halfulp.hw``; they are located but not imported beyond their own ``__init__``.

    Raises
    ------
    ValueError
        Where there is no such package.
    """
    from halfulp.hw.cache import digest

    for package in packages:
        if package not in _noted:
            note_sources(package)
    return digest(*(_noted[package].digest() for package in packages))


class _Package:
    """The files of a package, noted when this was made."""

    def __init__(self, name: str) -> None:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{name!r} is not an installed package")
        self._name, self._root = name, spec.submodule_search_locations[0]
        self._stamps = self._stamps_now()
        self._digest = ""
        # Files of modules that had been imported when the files were last seen to be as noted.
        self._imported: set[str] = set()

    def digest(self) -> str:
        from halfulp.hw.cache import digest

        imported = self._imported_now()
        sources = self._digest or digest(*self._contents())
        # Looked at after they were read, so that what was read is what was noted.
        now = self._stamps_now()
        changed = {path for path, stamp in self._stamps.items() if now.get(path) != stamp}
        if not changed:
            self._digest, self._imported = sources, imported
        return self._digest if self._digest and changed <= self._imported else _own_digest()

    def _imported_now(self) -> set[str]:
        modules = [*sys.modules.items()]  # in one step, for other threads may import
        return {str(getattr(each, "__file__", "")) for name, each in modules if f"{name}.".startswith(f"{self._name}.")}

    def _stamps_now(self) -> dict[str, _Stamp]:
        found = {entry.path: entry.stat() for entry in _python_files(self._root)}
        return {path: (seen.st_mtime_ns, seen.st_size, seen.st_ino) for path, seen in found.items()}

    def _contents(self) -> Iterator[str | bytes]:
        for path in sorted(self._stamps):
            yield os.path.relpath(path, self._root)
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                yield file.read()


_noted: dict[str, _Package] = {}


def _python_files(folder: str) -> Iterator[os.DirEntry[str]]:
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _python_files(entry.path)
            elif entry.name.endswith(".py"):
                yield entry


@functools.cache
def _own_digest() -> str:
    """What no other process has."""
    return os.urandom(16).hex()
