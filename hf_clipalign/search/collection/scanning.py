"""What lies in a folder: every file that may be an image, with size and time, in one pass."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_clipalign._checks.quoting import printable, readable_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.file_kinds import image_extensions, is_skipped, other_kind, special_kind

RACY = 2_000_000_000
"""Nanoseconds: a file whose time is so close to now may be written again without a change of its time."""

Place = tuple[int, int]
"""Device and inode of a folder."""


class Found(NamedTuple):
    """A file: its name below the root, its size in bytes, and its time in nanoseconds."""

    name: bytes
    size: int
    mtime: int


@dataclass
class Scan:
    """What one pass over a root found.

    Attributes:
        files (`list[Found]`): in the order of their names.
        unread (`list[bytes]`): folders, each ending in a slash, that could not be read or are no longer mounted: what
            lies below them is unknown. The empty name is the root itself.
        mounts (`list[bytes]`): folders on other devices than the root, now or at the last pass.
        device (`int`): of the root.
        others (`dict[str, list[str]]`): names by kind of what cannot be read here: videos, broken links and the like.
        reasons (`list[str]`): why folders could not be read.
    """

    files: list[Found] = field(default_factory=list)
    unread: list[bytes] = field(default_factory=list)
    mounts: list[bytes] = field(default_factory=list)
    device: int = 0
    others: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    reasons: list[str] = field(default_factory=list)

    @property
    def is_missing(self) -> bool:
        """Whether the root itself is not there."""
        return b"" in self.unread

    def is_unknown(self, name: bytes) -> bool:
        """Whether a file lies where the pass could not look."""
        return any(name.startswith(folder) for folder in self.unread)


def ignore_rule(patterns: Sequence[str]) -> Callable[[str], bool] | None:
    """Whether a relative path is ignored, by patterns as in a `.gitignore`; None for no patterns.

    Raises:
        `ClipAlignError`: a pattern that cannot be understood.
    """
    if not patterns:
        return None
    import pathspec

    try:
        spec = pathspec.GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise ClipAlignError(f"ignore: {error}; write patterns as in a .gitignore file.") from None
    return spec.match_file


def scan(
    root: str,
    ignore: Callable[[str], bool] | None = None,
    leave_out: Place | None = None,
    before: dict[str, Any] | None = None,
) -> Scan:
    """Looks through a folder. Links to folders are followed, and each folder is visited once.

    Args:
        root (`str`): the folder.
        ignore (`Callable`, *optional*): whether a path, relative and with slashes, is ignored; folders end in one.
        leave_out (`Place`, *optional*): a folder that is not looked into: the index itself.
        before (`dict`, *optional*): `device`, `mounts` and `filled` of the last pass, to tell an empty folder from one
            that is not mounted.
    """
    return _Pass(root, ignore, leave_out, before or {}).result()


class _Pass:
    def __init__(
        self, root: str, ignore: Callable[[str], bool] | None, leave_out: Place | None, before: dict[str, Any]
    ) -> None:
        self.root, self.ignore, self.before = root, ignore, before
        self.visited: set[Place] = set() if leave_out is None else {leave_out}
        self.scan = Scan()
        self.extensions = image_extensions()

    def result(self) -> Scan:
        try:
            status = os.stat(self.root)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(20, os.strerror(20))
        except OSError as error:
            return self._missing(error.strerror or str(error))
        self.scan.device = status.st_dev
        # folders first, then links to folders: a file has the name that needs no link, if there is one
        folders, links = [""], list[str]()
        while folders or links:
            if not folders:
                links.sort(reverse=True)
                folders.append(links.pop())
            self._visit(folders.pop(), folders, links)
        is_empty = not (self.scan.files or self.scan.mounts or self.scan.unread)
        if is_empty and self.before.get("filled") and self.before.get("device") != status.st_dev:
            return self._missing("it is empty and on another device than before: it seems not to be mounted")
        self._note_unmounted()
        self.scan.files.sort()
        return self.scan

    def _missing(self, reason: str) -> Scan:
        self.scan = Scan(unread=[b""], reasons=[f"{printable(self.root)}: {reason}"])
        return self.scan

    def _visit(self, folder: str, folders: list[str], links: list[str]) -> None:
        """Notes the files of a folder (its name is empty or ends in a slash) and the folders to visit next."""
        path = os.path.join(self.root, folder)
        try:
            status = os.stat(path)
            place = status.st_dev, status.st_ino
            if place in self.visited:
                return
            with os.scandir(path) as entries:
                listed = list(entries)
            self.visited.add(place)
        except OSError as error:
            self.scan.unread.append(os.fsencode(folder))
            self.scan.reasons.append(f"{printable(path)}: cannot be read ({error.strerror})")
            return
        if folder and status.st_dev != self.scan.device:
            self.scan.mounts.append(os.fsencode(folder))
        for entry in listed:
            if not is_skipped(entry.name):
                self._note(entry, folder + entry.name, folders, links)

    def _note(self, entry: os.DirEntry[str], name: str, folders: list[str], links: list[str]) -> None:
        from hf_clipalign.data.images.folders import file_or_folder  # imports PIL, which a query does not need

        is_file, is_folder = file_or_folder(entry)
        if self.ignore is not None and self.ignore(f"{name}/" if is_folder else name):
            return
        if is_folder:
            (links if entry.is_symlink() else folders).append(f"{name}/")
        elif is_file and entry.name.lower().endswith(self.extensions):
            with contextlib.suppress(OSError):  # it has just gone
                status = entry.stat()
                self.scan.files.append(Found(os.fsencode(name), status.st_size, status.st_mtime_ns))
        elif kind := other_kind(entry.name) if is_file else special_kind(entry):
            self.scan.others[kind].append(readable_name(name))

    def _note_unmounted(self) -> None:
        """Folders that were on another device and are now empty or gone."""
        for folder in map(os.fsencode, self.before.get("mounts", [])):
            path = os.path.join(os.fsencode(self.root), folder)
            try:
                is_there = os.stat(path).st_dev != self.scan.device or any(True for _ in os.scandir(path))
            except OSError:
                is_there = False
            if not is_there and not self.scan.is_unknown(folder):
                self.scan.unread.append(folder)
                self.scan.mounts.append(folder)
                self.scan.reasons.append(f"{printable(os.fsdecode(path))}: seems not to be mounted")


def state_of(scanned: Scan) -> dict[str, Any]:
    """What the next pass wants to know about this one."""
    mounts = list(map(os.fsdecode, sorted(scanned.mounts)))
    return {"device": scanned.device, "mounts": mounts, "filled": bool(scanned.files or mounts)}
