"""Writing so that a reader never meets a half-written result."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hf_clipalign._errors import ClipAlignError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`; when the block ends well, its files are moved to `path` one by one.

    Files already in `path` stay unless a new one has the same name. When the block fails, `path` is as before.

    Raises:
        `ClipAlignError`: `path` cannot be written to, or the disk is full.
    """
    target = Path(path)
    with explained_write(target):
        if target.exists() and not target.is_dir():
            raise ClipAlignError(f"cannot write to {str(target)!r}: a file of that name exists. Give a folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with explained_write(target):
            yield staging
            for file in sorted(file for file in staging.rglob("*") if file.is_file()):
                destination = target / file.relative_to(staging)
                destination.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; when the block ends well, the file is renamed to `path`.

    Raises:
        `ClipAlignError`: `path` cannot be written to, or the disk is full.
    """
    target = Path(path)
    with explained_write(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    staging = Path(name)
    try:
        with explained_write(target):
            yield staging
            os.chmod(staging, 0o666 & ~_umask())
            _flush(staging)
            os.replace(staging, target)
    finally:
        staging.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(path: str | Path, message: str) -> Iterator[None]:
    """Holds the lock file `path` until the block ends; the operating system frees it when the process dies.

    The lock belongs to this process alone: worker processes do not inherit it, so a killed run leaves none behind.

    Raises:
        `ClipAlignError`: with `message`, if it is held already; or `path` cannot be written to.
    """
    target = Path(path)
    with explained_write(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        name = os.path.realpath(target)
        if name in _HELD:
            raise ClipAlignError(message)
        handle = os.open(target, os.O_RDWR | os.O_CREAT, 0o666)
    _HELD.add(name)
    try:
        if not _try_lock(handle):
            raise ClipAlignError(message)
        yield
    finally:
        _HELD.discard(name)
        os.close(handle)


_HELD: set[str] = set()
"""Lock files that this process holds: the operating system does not keep a process out of its own lock."""


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _flush(path: Path) -> None:
    """Brings a file to the disk, so that a power cut after the renaming does not leave an empty one."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def explained_write(target: str | Path) -> Iterator[None]:
    """Turns what the disk refuses inside the block into a `ClipAlignError` that names `target`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        reason = getattr(error, "strerror", None) or str(error)
        full = getattr(error, "errno", None) in _NO_ROOM or any(os.strerror(code) in reason for code in _NO_ROOM)
        advice = "Make room, or choose another disk." if full else "Choose a folder that you may write to."
        raise ClipAlignError(f"cannot write to {str(target)!r}: {reason}. {advice}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
