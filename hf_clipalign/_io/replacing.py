"""Replacing a folder as a whole: readers find all of the old one or all of the new one."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import errno
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hf_clipalign._io.staging import aside_path

_BUSY = (errno.EBUSY, errno.EXDEV)
_FILLED_MEANWHILE = (errno.ENOTEMPTY, errno.EEXIST)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2
_CONFIGS = ".json"


def replace_folder(staging: Path, target: Path, keep: Callable[[str], bool]) -> None:
    """Makes `staging` the folder `target`; what the old one held besides and `keep` accepts stays in it.

    Two directory entries are exchanged in one call of the system (Linux, macOS). Elsewhere there are two renamings,
    and the next writer puts back the old folder of a process that was killed between them. A mount point or the
    current folder cannot be renamed: its files are replaced one by one, configurations last, so that a folder of
    mixed weights and configurations cannot be loaded.

    Args:
        staging (`Path`): the new folder, complete; beside `target`.
        target (`Path`): a folder, or a name that is free.
        keep (`Callable[[str], bool]`): called with the path of each old file, relative and with slashes.
    """
    if _in_use(target):
        _replace_files(staging, target, keep)
        return
    while True:
        try:
            if target.exists():
                _carry_over(target, staging, keep)
                _exchange(staging, target)
                _carry_over(staging, target, keep)  # what another process added meanwhile
            else:
                os.rename(staging, target)
            return
        except OSError as error:
            if error.errno in _BUSY:
                _replace_files(staging, target, keep)
                return
            if error.errno not in _FILLED_MEANWHILE:
                raise


def flush_tree(folder: Path) -> None:
    """Brings all files and directory entries of a folder to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            flush(Path(root, name))
        flush(Path(root))


def flush(path: Path) -> None:
    """Brings a file, or the entries of a folder, to the disk: a power cut after a renaming leaves no empty file."""
    if not path.is_dir():
        handle = os.open(path, os.O_RDWR)
    elif sys.platform == "win32":
        return
    else:
        handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot flush a folder
            raise
    finally:
        os.close(handle)


def files_below(folder: Path) -> Iterator[str]:
    """All that is no folder, by relative path with slashes, sorted; links are not followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in sorted([*names, *links]):
            yield Path(root, name).relative_to(folder).as_posix()


def _in_use(target: Path) -> bool:
    """Whether the process stands in the folder: a person's shell there would be left in a removed one."""
    with contextlib.suppress(OSError):
        return target.is_dir() and (Path.cwd() == target or target in Path.cwd().parents)
    return False


def _carry_over(old: Path, new: Path, keep: Callable[[str], bool]) -> None:
    """Gives `new` the files of `old` that it lacks, as links to the same data where the file system has links."""
    for name in files_below(old):
        destination = new / name
        if os.path.lexists(destination) or not keep(name):
            continue
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            destination.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(old / name, destination, follow_symlinks=False)
            except FileNotFoundError:
                raise
            except (OSError, NotImplementedError):
                shutil.copy2(old / name, destination, follow_symlinks=False)


def _exchange(staging: Path, target: Path) -> None:
    try:
        _exchange_call()(os.fsencode(staging), os.fsencode(target))
        return
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
    aside = aside_path(target)
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(aside, target)
        raise
    os.rename(aside, staging)


@functools.cache
def _exchange_call() -> Callable[[bytes, bytes], None]:
    """The system's call that exchanges two names; it raises `ENOSYS` where there is none."""
    library: Any = None if sys.platform == "win32" else ctypes.CDLL(None, use_errno=True)
    linux, mac = getattr(library, "renameat2", None), getattr(library, "renamex_np", None)

    def exchange(one: bytes, other: bytes) -> None:
        if linux is not None:
            failed = linux(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)
        elif mac is not None:
            failed = mac(one, other, _RENAME_SWAP)
        else:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if failed:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fsdecode(other))

    return exchange


def _replace_files(staging: Path, target: Path, keep: Callable[[str], bool]) -> None:
    carried = {name for name in files_below(target) if keep(name) and _same(staging / name, target / name)}
    new = sorted(set(files_below(staging)) - carried, key=lambda name: (name.endswith(_CONFIGS), name))
    gone = [name for name in files_below(target) if name not in new and not keep(name)]
    for name in [*(name for name in new if name.endswith(_CONFIGS)), *gone]:
        (target / name).unlink(missing_ok=True)
    for name in new:
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, destination)


def _same(one: Path, other: Path) -> bool:
    return os.path.lexists(one) and os.path.samestat(one.lstat(), other.lstat())
