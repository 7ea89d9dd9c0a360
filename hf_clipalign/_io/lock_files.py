"""A lock for file systems without locks of their own: a file that exists while the lock is held.

The file names process, machine and start time of its holder, so that one left by a process that is gone is known.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hf_clipalign._io.limited_json import BadJson, checked_json, natural
from hf_clipalign._io.staging import staging_path, started

logger = logging.getLogger(__name__)

_SCHEMA = {"pid": natural, "host": str, "system": (str, None), "process": (str, None), "since": str}


def take(path: Path) -> str | None:
    """Makes the lock file; None if it is held now, else who holds it, in words.

    A file left by a process of this machine that is gone is removed, with a warning.
    """
    for _ in range(3):
        if _create(path):
            return None
        holder = _read(path)
        if holder is None:
            continue
        if not _is_gone(holder):
            return _told(path, holder)
        if _remove(path, holder):
            logger.warning("%s was left by a process that is gone (%s): removed", path, _who(holder))
    return f"{path} changes hands"


def release(path: Path) -> None:
    """Removes the lock file if it is this process's own."""
    if _read(path) == _own(path):
        path.unlink(missing_ok=True)
    _SINCE.pop(str(path), None)


_SINCE: dict[str, str] = {}


def _own(path: Path) -> dict[str, Any]:
    since = _SINCE.setdefault(str(path), datetime.now(timezone.utc).isoformat(timespec="microseconds"))
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "system": _system(), "process": started(pid), "since": since}


def _create(path: Path) -> bool:
    """Links a finished file to the name, so that nobody reads half of it."""
    staging = staging_path(path)
    try:
        staging.write_text(json.dumps(_own(path)), encoding="utf-8")
        return _link(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def _link(source: Path, path: Path) -> bool:
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError:  # no links either: a reader may meet an empty file, and takes it for one that is held
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
                stream.write(source.read_bytes())
        except FileExistsError:
            return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """What a lock file says, empty if that cannot be understood, None if there is none."""
    try:
        return checked_json(path.read_bytes(), _SCHEMA, size=2**16)
    except FileNotFoundError:
        return None
    except BadJson:
        return {}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine, since it started, that is no longer there."""
    if holder.get("host") != socket.gethostname() or holder["system"] is None or holder["system"] != _system():
        return False
    return started(holder["pid"]) != holder["process"]


def _remove(path: Path, holder: dict[str, Any]) -> bool:
    """Moves the file aside first: if another process has taken the lock meanwhile, it gets it back."""
    aside = path.with_name(f"{path.name}-{os.getpid()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    if _read(aside) == holder:
        aside.unlink()
        return True
    os.rename(aside, path)
    return False


def _system() -> str | None:
    """Names this start of this machine, and the room in which process numbers count; None where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "unreadable"


def _told(path: Path, holder: dict[str, Any]) -> str:
    return f"{str(path)!r} says: {_who(holder)}; if it is gone, delete that file"
