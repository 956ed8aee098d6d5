"""The cache of what takes long to make: a folder an entry, named by what it was made from. No dependencies.

An entry is built in a folder of its own and renamed when it is whole, so an interrupted build leaves no
entry. It carries a manifest of its files; an entry that does not agree with it (a full disk, a power cut, a
curious hand) is built again. A file lock keeps two processes from building the same thing twice.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["CacheError", "cache_folder", "cached", "digest", "is_disk_full"]

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class CacheError(OSError):
    """The cache's folder cannot be written; the message is one line and says what to do."""


def cache_folder() -> Path:
    """Folder of all caches: $HALFULP_CACHE, else $XDG_CACHE_HOME/halfulp, else ~/.cache/halfulp."""
    if chosen := os.environ.get("HALFULP_CACHE"):
        return Path(chosen).expanduser().absolute()
    # The XDG base directory specification has relative paths ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "halfulp"


def digest(*parts: str | bytes) -> str:
    """Hash of the parts, in hexadecimal: the key of what was made from them."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.hexdigest()[:32]


def is_disk_full(error: OSError) -> bool:
    """Whether there was no room: the disk's end, a quota or a file-size limit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Folder of the entry `key` among the entries of this `kind`, built first where it is missing or damaged.

    Parameters
    ----------
    kind, key
        Folder names: letters, digits and ``._+-``. The key must tell apart all that `build` depends on.
    build
        Fills the empty folder it is given; whatever it raises is passed on, and nothing of the entry stays.

    Returns
    -------
    Path
        Folder with the files that `build` made, unchanged since. Nobody may write into it.

    Raises
    ------
    CacheError
        Where the disk is full or the folder cannot be written.
    """
    for name in (kind, key):
        if not _NAME.fullmatch(name):
            raise ValueError(f"a cache's kind and key must be letters, digits and ._+-, not {name!r}")
    parent = cache_folder() / kind
    entry = parent / key
    if _is_whole(entry):
        return entry
    with _explained(parent):
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent / f".{key}.lock"):
            # While this process waited for the lock, another may have built the entry.
            if not _is_whole(entry):
                _replace(entry, build)
    return entry


def _replace(entry: Path, build: Callable[[Path], None]) -> None:
    """Build the entry beside its place, then rename; called with the entry's lock held."""
    prefix = f".{entry.name}."
    # Under the lock no other process builds this entry: what lies here was left by one that was killed.
    for left in entry.parent.glob(f"{prefix}*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=entry.parent))
    try:
        content = folder / "new"
        content.mkdir()
        build(content)
        _write_manifest(content)
        if entry.exists():
            entry.rename(folder / "damaged")
        content.rename(entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix(), path


def _fingerprint(path: Path) -> list[int | str]:
    if path.is_symlink():
        return [0, f"{os.readlink(path)} {path.exists()}"]
    raw = path.read_bytes()
    return [len(raw), hashlib.sha256(raw).hexdigest()]


def _write_manifest(folder: Path) -> None:
    manifest = {name: _fingerprint(path) for name, path in _files(folder)}
    with open(folder / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(manifest, file)
        file.flush()
        # On the disk before the rename: a power cut must not leave a whole-looking entry. Whether the other
        # files got there, the manifest tells.
        os.fsync(file.fileno())


def _is_whole(entry: Path) -> bool:
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        return manifest == {name: _fingerprint(path) for name, path in _files(entry) if name != MANIFEST}
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock; it ends with the process at the latest. The file stays: removing it would race."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line with the remedy; a build's other errors pass."""
    remedy = "or set HALFULP_CACHE to another folder"
    try:
        yield
    except CacheError:
        raise
    except OSError as error:
        if is_disk_full(error):
            raise CacheError(f"no room left for the cache in {folder}: free some, {remedy}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise CacheError(f"the cache {folder} cannot be written: allow it, {remedy}") from error
        raise
