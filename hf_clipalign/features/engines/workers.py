"""Who works on a folder: the locks of shares, and what each worker notes about the shards that it has made.

A note is a hidden file of JSON lines, one for each shard. It decides about nothing: what is done is seen from the
shards. Times in it are durations, which do not depend on what a machine takes for the present time; how long ago a
worker wrote is the difference of two times that the file system gave.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import exclusive_lock
from hf_clipalign._io.limited_json import BadJson, checked_json, natural, number
from hf_clipalign._io.staging import file_system_time, host_name, started
from hf_clipalign.features.rows import FEATURES
from hf_clipalign.features.storage.folder import folder_lock

_LOCK = re.compile(r"\.features-(\d+)-of-(\d+)\.lock")
_NOTE = re.compile(r"\.features-worker-.+\.jsonl")
_WORKER = {"way": str, "host": str, "pid": natural, "started": (str, None)}
_SHARD = {"shard": natural, "images": natural, "seconds": number}
_PATIENCE = 5.0
"""Seconds to wait for a lock that somebody may only look at."""


def share_lock(folder: Path, index: int, count: int) -> AbstractContextManager[None]:
    """Holds one of `count` shares of a folder.

    Raises:
        `ClipAlignError`: another process has it, or the folder cannot be written to.
    """
    message = f"another process makes share {index}/{count} of the features in {str(folder)!r}: give it another share."
    return exclusive_lock(folder / f".features-{index}-of-{count}.lock", message, _PATIENCE)


def whole_lock(folder: Path, patience: float = 0.0) -> AbstractContextManager[None]:
    """Holds a folder as a whole: to begin a run in it, to make all of it, or to finish it."""
    return folder_lock(folder, FEATURES, patience=patience)


def at_work(folder: Path, own: tuple[int, int] | None = None) -> str | None:
    """Another process that makes a share of a folder now, in words; None if there is none.

    Args:
        folder (`Path`): the folder.
        own (`tuple[int, int]`, *optional*): the share of this process, and of how many.
    """
    for file in sorted(folder.glob(".features-*-of-*.lock")):
        match = _LOCK.fullmatch(file.name)
        if match and (share := (int(match[1]), int(match[2]))) != own and _is_held(file):
            return f"share {share[0]}/{share[1]}"
    return None


def refuse_shares(folder: Path, own: tuple[int, int] | None = None) -> None:
    """Refuses a folder that another process makes a share of.

    Raises:
        `ClipAlignError`: naming the share.
    """
    if busy := at_work(folder, own):
        raise ClipAlignError(
            f"another run is writing features to {str(folder)!r} ({busy}): wait for it, or use another folder."
        )


def _is_held(file: Path) -> bool:
    try:
        with exclusive_lock(file, "held"):
            return False
    except ClipAlignError:
        return True


class Note:
    """What one worker writes about its shards, one line each.

    Args:
        folder (`Path`): the folder.
        way (`str`): how it works, such as "share 2/8".
    """

    def __init__(self, folder: Path, way: str) -> None:
        began = started(os.getpid())
        self._file = folder / f".features-worker-{host_name()}-{os.getpid()}-{began or time.time_ns()}.jsonl"
        self._about = {"way": way, "host": socket.gethostname(), "pid": os.getpid(), "started": began}
        self._since = time.monotonic()

    def wrote(self, shard: int, images: int) -> None:
        """Adds a line. A disk that refuses it costs the line alone."""
        now = time.monotonic()
        entry = {"shard": shard, "images": images, "seconds": round(now - self._since, 3)}
        self._since = now
        lines = [self._about, entry] if self._about else [entry]
        with contextlib.suppress(OSError), open(self._file, "a", encoding="ascii") as stream:
            stream.write("".join(json.dumps(line) + "\n" for line in lines))
            self._about = {}


@dataclass(frozen=True)
class Worker:
    """What a worker has noted.

    Args:
        name (`str`): host and process.
        way (`str`): how it works.
        shards (`dict[int, int]`): images of each shard that it has made.
        seconds (`float`): how long it took.
        ended (`bool`): whether it is known to have ended; of another machine that cannot be known.
        silent (`float`, *optional*): seconds since it wrote, by the clock of the file system.
    """

    name: str
    way: str
    shards: dict[int, int]
    seconds: float
    ended: bool
    silent: float | None

    @property
    def rate(self) -> float:
        """Images per second."""
        return sum(self.shards.values()) / self.seconds if self.seconds > 0 else 0.0


def workers(folder: Path) -> list[Worker]:
    """All workers that have made a shard of the unfinished run in a folder."""
    files = [file for file in sorted(folder.iterdir()) if _NOTE.fullmatch(file.name)]
    now = file_system_time(folder) if files else None
    return [worker for file in files if (worker := _worker(file, now))]


def remove_notes(folder: Path) -> None:
    """Removes all notes."""
    for file in list(folder.iterdir()):
        if _NOTE.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _worker(file: Path, now: float | None) -> Worker | None:
    """The worker of a note; None if the note makes no sense."""
    about: dict[str, Any] | None = None
    entries: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, BadJson):
        for line in _lines(file):
            if about is None:
                about = checked_json(line, _WORKER)
            else:
                entries.append(checked_json(line, _SHARD))
    if about is None:
        return None
    return Worker(
        name=f"{about['host']}:{about['pid']}",
        way=about["way"],
        shards={entry["shard"]: entry["images"] for entry in entries},
        seconds=sum(entry["seconds"] for entry in entries),
        ended=_has_ended(about),
        silent=_silent(file, now),
    )


def _silent(file: Path, now: float | None) -> float | None:
    with contextlib.suppress(OSError):
        return None if now is None else max(0.0, now - file.stat().st_mtime)
    return None


def _lines(file: Path) -> Iterator[bytes]:
    """The complete lines: the last one may be cut off, if its writer was killed."""
    yield from (line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))


def _has_ended(about: dict[str, Any]) -> bool:
    if about["host"] != socket.gethostname() or about["started"] is None:
        return False
    return started(about["pid"]) != about["started"]
