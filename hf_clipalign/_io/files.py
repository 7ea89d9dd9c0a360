"""Writing so that a reader never meets a half-written result."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io import lock_files as _lock_files
from hf_clipalign._io.replacing import files_below, flush, flush_tree, replace_folder
from hf_clipalign._io.staging import remove_stale, remove_stale_once, staging_path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_folder(path: str | Path, keep: bool | Callable[[str], bool] = True) -> Iterator[Path]:
    """Gives a temporary folder beside `path`; when the block ends well, it becomes `path`, as a whole.

    A reader finds the old folder or the new one, also when the process is killed, and when the block fails, `path` is
    as before. What killed processes left beside `path` is removed.

    Args:
        path (`str` or `Path`): the folder; links are followed.
        keep (`bool` or `Callable[[str], bool]`, *optional*, defaults to `True`): which files that `path` holds already
            stay beside the new ones: all, none, or those whose relative path (with slashes) is accepted.

    Raises:
        `ClipAlignError`: `path` cannot be written to, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    with explained_write(path):
        if target.exists() and not target.is_dir():
            raise ClipAlignError(f"cannot write to {str(path)!r}: a file of that name exists. Give a folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target.parent)
        staging = staging_path(target)
        staging.mkdir()
    try:
        with explained_write(path):
            yield staging
            _publish_folder(staging, target, keep)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish_folder(staging: Path, target: Path, keep: bool | Callable[[str], bool]) -> None:
    fresh = staging.stat().st_mode
    for name in files_below(staging):
        if not (staging / name).is_symlink():
            os.chmod(staging / name, fresh & 0o666)
    if target.is_dir():
        os.chmod(staging, target.stat().st_mode & 0o7777)
    flush_tree(staging)
    replace_folder(staging, target, keep if callable(keep) else lambda name: keep)
    flush(target.parent)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; when the block ends well, the file is renamed to `path`.

    Raises:
        `ClipAlignError`: `path` cannot be written to, or the disk is full.
    """
    target = Path(path)
    with explained_write(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_once(target.parent.absolute())
        staging = staging_path(target, target.suffix)
        os.close(os.open(staging, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        mode = staging.stat().st_mode & 0o777
    try:
        with explained_write(target):
            yield staging
            os.chmod(staging, mode)
            flush(staging)
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
        patience (`float`, *optional*, defaults to `0`): seconds to wait for it.

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
def explained_content(target: str | Path) -> Iterator[None]:
    """Turns what a library raises on a damaged file inside the block into a `ClipAlignError` that names `target`.

    For files that a library reads whose errors are of many types: parquet, gzip, safetensors, adapters of PEFT.
    """
    try:
        yield
    except ClipAlignError:
        raise
    except Exception as error:
        raise ClipAlignError(f"{str(target)!r} cannot be read ({short_reason(error)}): replace it.") from error


@contextlib.contextmanager
def explained_write(target: str | Path) -> Iterator[None]:
    """Turns what the disk refuses inside the block into a `ClipAlignError` that names `target`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, UnicodeEncodeError)) and type(error).__name__ != "SafetensorError":
            raise
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, UnicodeEncodeError):
            reason = "the name is not UTF-8, which weights and tokenizers need"
        full = getattr(error, "errno", None) in _NO_ROOM or any(os.strerror(code) in reason for code in _NO_ROOM)
        advice = "Make room, or choose another disk." if full else "Choose a folder that you may write to."
        raise ClipAlignError(f"cannot write to {str(target)!r}: {reason}. {advice}") from error
