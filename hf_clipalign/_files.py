"""Writing so that a reader never meets a half-written result."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hf_clipalign import _lock_files
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
def exclusive_lock(path: str | Path, message: str, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock file `path` until the block ends; the operating system frees it when the process dies.

    The lock belongs to this process alone: worker processes do not inherit it, so a killed run leaves none behind.
    Where the file system has no locks (ENOLCK, ENOTSUP, ENOSYS), a file `PATH.held` stands for it: one that a killed
    run of this machine left is removed with a warning, one of another machine is named in the error.

    Args:
        path (`str` or `Path`): the lock file.
        message (`str`): the error if another process holds it.
        patience (`float`): seconds to wait for it. Default 0.

    Raises:
        `ClipAlignError`: with `message`, if it is held already; or `path` cannot be written to.
    """
    target = Path(path)
    with explained_write(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        release = _acquired(target, message, patience)
    try:
        yield
    finally:
        release()


_HELD: set[str] = set()
"""Lock files that this process holds: the operating system does not keep a process out of its own lock."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_PAUSE = 0.05


def _acquired(target: Path, message: str, patience: float) -> Callable[[], None]:
    """What gives the lock back."""
    end = time.monotonic() + patience
    while True:
        found = _take(target)
        if callable(found):
            return found
        if time.monotonic() >= end:
            raise ClipAlignError(f"{message} ({found})" if found else message)
        time.sleep(_PAUSE)


def _take(target: Path) -> Callable[[], None] | str:
    """What gives the lock back, or who has it, if that is known."""
    name = os.path.realpath(target)
    if name in _HELD:
        return ""
    handle = os.open(target, os.O_RDWR | os.O_CREAT, 0o666)
    stand_in: Path | None = None
    try:
        locked = _try_lock(handle)
        if locked is None:
            stand_in = target.with_name(f"{target.name}.held")
            if (holder := _lock_files.take(stand_in)) is not None:
                os.close(handle)
                return holder
        elif not locked:
            os.close(handle)
            return ""
    except BaseException:
        os.close(handle)
        raise
    _HELD.add(name)

    def release() -> None:
        _HELD.discard(name)
        if stand_in is not None:
            _lock_files.release(stand_in)
        os.close(handle)

    return release


def _try_lock(handle: int) -> bool | None:
    """Whether the lock is ours now; None where the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
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
def explained_read(target: str | Path) -> Iterator[None]:
    """Turns what the disk refuses inside the block into a `ClipAlignError` that names `target` and the cause."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClipAlignError(
            f"cannot read {str(target)!r}: {reason}. Nothing was changed: run again when the disk answers."
        ) from error


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
