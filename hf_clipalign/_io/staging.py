"""Where results are written before they are published: named so that the next run finds what a killed one left."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

_OLDEST = 24 * 3600.0
"""Seconds after which staging files of another host count as left behind: whether they are in use cannot be asked."""

_NAME = re.compile(
    r"\.(?P<target>.+)~(?P<host>[\w-]*)~(?P<pid>\d+)~[0-9a-f]{8}(-(?P<began>\d+))?(?P<aside>\.aside)?(\.\w+)?"
)


def staging_path(target: Path, suffix: str = "") -> Path:
    """A new hidden name beside `target` that says which process writes there."""
    began = started(os.getpid())
    unique = secrets.token_hex(4) + (f"-{began}" if began else "")
    return target.parent / f".{target.name}~{host_name()}~{os.getpid()}~{unique}{suffix}"


def aside_path(target: Path) -> Path:
    """A new hidden name for what `target` held, while it is replaced in two steps."""
    return staging_path(target, ".aside")


@contextlib.contextmanager
def staging_folder(parent: str | Path, name: str) -> Iterator[Path]:
    """A folder of this process alone, removed at the end; those of killed processes below `parent` are removed too.

    Args:
        parent (`str` or `Path`): where to make it, for example `tempfile.gettempdir()`.
        name (`str`): what it is for; part of its name.
    """
    remove_stale(Path(parent))
    folder = staging_path(Path(parent) / name)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(parent: Path) -> None:
    """Removes what killed processes left in `parent`, and puts back a folder that one had moved aside."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(parent)):
            match = _NAME.fullmatch(entry.name)
            if match is not None and _is_stale(entry, match):
                _remove(Path(entry.path), parent / match["target"], aside=match["aside"] is not None)


@functools.cache
def remove_stale_once(parent: Path) -> None:
    """`remove_stale`, at most once for each folder: cheap enough to be called for each of many files."""
    remove_stale(parent)


def _remove(left: Path, target: Path, aside: bool) -> None:
    with contextlib.suppress(OSError):
        if aside and not target.exists():
            os.rename(left, target)
        elif left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()


def _is_stale(entry: os.DirEntry[str], match: re.Match[str]) -> bool:
    if match["host"] == host_name():
        return not _lives(int(match["pid"]), match["began"])
    with contextlib.suppress(OSError):
        now = file_system_time(Path(entry.path).parent)
        return now is not None and now - entry.stat(follow_symlinks=False).st_mtime > _OLDEST
    return False


def file_system_time(folder: Path) -> float | None:
    """What a new file in a folder gets for its time: several machines may share a disk, and none of their clocks.

    None if no file can be made there.
    """
    probe = staging_path(folder / "time")
    with contextlib.suppress(OSError):
        try:
            probe.touch(exist_ok=False)
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
    return None


def _lives(pid: int, began: str | None) -> bool:
    """Whether the process that wrote still runs; a later one may have its number."""
    if started(os.getpid()) is not None:
        now = started(pid)
        return now is not None and began in (None, now)
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def started(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; None if it is dead, and where there is no `/proc`."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if facts[0] in ("Z", "X") else facts[19]  # dead, and only not yet waited for
    except (OSError, IndexError):
        return None


@functools.cache
def host_name() -> str:
    """The host and, on Linux, the name space of its process numbers: containers may share the rest."""
    space = ""
    with contextlib.suppress(OSError):
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    return re.sub(r"[^\w-]", "-", f"{socket.gethostname()}-{space}")
