"""What is new, changed, gone, renamed or a copy, by comparing a scan with the database."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from hf_clipalign.features.content import file_content_hash
from hf_clipalign.search.collection.manifest import FileRow, next_generation, put_files, remove_files, remove_skipped
from hf_clipalign.search.collection.scanning import RACY, Scan

LOST = "its features were lost, and it was not there to be read again"
"""Why files are skipped whose images are to be embedded again."""

_OTHERS = ("changed", "renamed", "duplicate", "reused", "embedded_again", "skipped", "not_looked_at")
_READERS = 8


@dataclass
class UpdateReport:
    """What an update did, in files.

    Attributes:
        added (`int`): new images.
        changed (`int`): files with other content than before.
        renamed (`int`): files that were found under another name; their images were not embedded again.
        deleted (`int`): files that are gone, without those that were renamed.
        duplicate (`int`): new names of images that are there already.
        reused (`int`): files that are as they were, or have come back.
        embedded_again (`int`): images whose features were lost by damage to the index.
        skipped (`int`): files that cannot be read, those of earlier updates included.
        not_looked_at (`int`): known files whose folder is not there or cannot be read; none of them was forgotten.
        missing_roots (`list[str]`): folders that are not there or not mounted; none of their files was forgotten.
        embedded (`int`): images that went through the model.
        notes (`list[str]`): what else the user should know, one line each.

    Example:
        ```python
        >>> from hf_clipalign.search import UpdateReport
        >>> print(UpdateReport(added=2, skipped=1))
        +2, 1 skipped
        ```
    """

    added: int = 0
    changed: int = 0
    renamed: int = 0
    deleted: int = 0
    duplicate: int = 0
    reused: int = 0
    embedded_again: int = 0
    skipped: int = 0
    not_looked_at: int = 0
    missing_roots: list[str] = field(default_factory=list)
    embedded: int = 0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"+{self.added}", f"−{self.deleted}"] if self.deleted else [f"+{self.added}"]
        parts += [f"{count} {name.replace('_', ' ')}" for name in _OTHERS if (count := getattr(self, name))]
        return ", ".join(parts)


@dataclass
class Candidate:
    """A file that is new or may have changed.

    Attributes:
        root (`int`), name (`bytes`), size (`int`), mtime (`int`), settled (`int`): as in `FileRow`.
        old (`int`, *optional*): the image that it was.
        is_lost (`bool`): its features were lost by damage to the index.
        digest (`bytes`, *optional*): of its content, where that had to be known.
    """

    root: int
    name: bytes
    size: int
    mtime: int
    settled: int
    old: int | None = None
    is_lost: bool = False
    digest: bytes | None = None

    def row(self, image: int) -> FileRow:
        """As a row of the database."""
        return FileRow(self.root, self.name, self.size, self.mtime, self.settled, image)


@dataclass
class Changes:
    """What there is to do.

    Attributes:
        candidates (`list[Candidate]`): files that are new or may have changed, in the order of root and name.
        vanished (`dict[tuple[int, bytes], int]`): files that are gone, and their images.
        forgotten (`list[tuple[int, bytes]]`): skipped files that are gone or can be read now.
        unchanged (`int`): how many files are as they were.
        skipped (`int`): how many are skipped as before.
        not_looked_at (`int`): how many lie where the pass could not look.
    """

    candidates: list[Candidate] = field(default_factory=list)
    vanished: dict[tuple[int, bytes], int] = field(default_factory=dict)
    forgotten: list[tuple[int, bytes]] = field(default_factory=list)
    unchanged: int = 0
    skipped: int = 0
    not_looked_at: int = 0


def compare(
    connection: sqlite3.Connection, root: int, scanned: Scan, reader: str, began: int, retry: bool, changes: Changes
) -> None:
    """Adds what differs between one root and the database to `changes`.

    Args:
        connection (`sqlite3.Connection`): of the database.
        root (`int`): number of the root.
        scanned (`Scan`): what lies there now.
        reader (`str`): versions of the libraries that read images: others may read what these cannot.
        began (`int`): when the scan began, in nanoseconds.
        retry (`bool`): try skipped files again.
        changes (`Changes`): of all roots.
    """
    query = "SELECT name, size, mtime, settled, image FROM files WHERE root = ?"
    known = {name: row for name, *row in connection.execute(query, (root,))}
    query = "SELECT name, size, mtime, settled, reader, reason FROM skipped WHERE root = ?"
    skipped = {name: tuple(row) for name, *row in connection.execute(query, (root,))}
    for name, size, mtime in scanned.files:
        row = known.pop(name, None)
        if row is not None and row[0] == size and row[1] == mtime and row[2]:
            changes.unchanged += 1
            continue
        before = skipped.pop(name, None) if row is None else None
        if before is not None and before[:-1] == (size, mtime, 1, reader) and not retry:
            changes.skipped += 1
            continue
        settled = int(mtime < began - RACY)
        is_lost = before is not None and (before[0], before[-1]) == (size, LOST)
        old = None if row is None else row[3]
        changes.candidates.append(Candidate(root, name, size, mtime, settled, old, is_lost))
    for name, row in known.items():
        if scanned.is_unknown(name):
            changes.not_looked_at += 1
        else:
            changes.vanished[root, name] = row[3]
    for name in skipped:
        if scanned.is_unknown(name):
            changes.not_looked_at += 1
        else:
            changes.forgotten.append((root, name))


def find_known(
    connection: sqlite3.Connection, changes: Changes, path_of: Callable[[int, bytes], str]
) -> list[Candidate]:
    """Hashes the candidates that may have known content, by their sizes; gives back those that are to be embedded.

    Only a file of the size of a known image, or of another candidate, is read here. What has content that is known
    keeps its digest and is not among the results; of several equal files all are.
    """
    sizes = {size for (size,) in connection.execute("SELECT DISTINCT size FROM images")}
    counts = Counter(candidate.size for candidate in changes.candidates)
    doubtful = [c for c in changes.candidates if c.size in sizes or counts[c.size] > 1]
    paths = [path_of(c.root, c.name) for c in doubtful]
    for candidate, path, digest in zip(doubtful, paths, _hashes(paths), strict=True):
        candidate.digest = digest
        settle(candidate, path)
    known = known_images(connection, [c.digest for c in doubtful if c.digest is not None])
    return [candidate for candidate in changes.candidates if candidate.digest not in known]


def known_images(connection: sqlite3.Connection, digests: Iterable[bytes]) -> dict[bytes, int]:
    """The images of these digests that are in the database."""
    found: dict[bytes, int] = {}
    for digest in digests:
        row = connection.execute("SELECT id FROM images WHERE digest = ?", (digest,)).fetchone()
        if row is not None:
            found[digest] = row[0]
    return found


def settle(candidate: Candidate, path: str) -> bool:
    """Notes whether a file was written to since the scan; whether it is still there."""
    try:
        status = os.stat(path)
    except OSError:
        candidate.settled = 0
        return False
    if (status.st_size, status.st_mtime_ns) != (candidate.size, candidate.mtime):
        candidate.size, candidate.mtime, candidate.settled = status.st_size, status.st_mtime_ns, 0
    return True


class Bookkeeper:
    """Counts and stores what becomes of the files, in the words of the report.

    Args:
        changes (`Changes`): what there is to do.
        report (`UpdateReport`): is added to.
    """

    def __init__(self, changes: Changes, report: UpdateReport) -> None:
        self.changes, self.report = changes, report
        self.left: dict[int, int] = defaultdict(int)  # vanished files of each image that no new name was found for
        for image in changes.vanished.values():
            self.left[image] += 1

    def link(self, connection: sqlite3.Connection, candidates: list[Candidate]) -> None:
        """Stores candidates whose content is known."""
        digests = [c.digest for c in candidates if c.digest is not None]
        known = known_images(connection, digests)
        alive = _alive(connection, known.values())
        rows = []
        for candidate in candidates:
            image = known[candidate.digest or b""]
            self._count(candidate, image, image in alive)
            alive.add(image)
            rows.append(candidate.row(image))
        put_files(connection, rows)

    def add(self, connection: sqlite3.Connection, candidate: Candidate, image: int) -> None:
        """Stores a candidate whose image is new."""
        if candidate.is_lost:
            self.report.embedded_again += 1
        elif candidate.old is None:
            self.report.added += 1
        else:
            self.report.changed += 1
        put_files(connection, [candidate.row(image)])

    def forget(self, connection: sqlite3.Connection) -> None:
        """Removes what is gone."""
        remove_files(connection, self.changes.vanished)
        remove_skipped(connection, self.changes.forgotten)
        self.report.deleted += sum(self.left.values())

    def _count(self, candidate: Candidate, image: int, is_alive: bool) -> None:
        if candidate.old == image or candidate.is_lost:
            self.report.reused += 1
        elif candidate.old is not None:
            self.report.changed += 1
        elif self.left[image]:
            self.left[image] -= 1
            self.report.renamed += 1
        elif is_alive:
            self.report.duplicate += 1
        else:
            self.report.reused += 1


def apply_known(connection: sqlite3.Connection, book: Bookkeeper, to_embed: list[Candidate]) -> None:
    """In one transaction: what has known content is linked to it, and what is gone is forgotten."""
    pending = {id(candidate) for candidate in to_embed}
    known = [candidate for candidate in book.changes.candidates if id(candidate) not in pending]
    book.link(connection, known)
    book.forget(connection)
    if known or book.changes.vanished or book.changes.forgotten:
        next_generation(connection)


def now() -> int:
    """Nanoseconds since the epoch, as files have them."""
    return time.time_ns()


def _alive(connection: sqlite3.Connection, images: Iterable[int]) -> set[int]:
    query = "SELECT 1 FROM files WHERE image = ? LIMIT 1"
    return {image for image in images if connection.execute(query, (image,)).fetchone()}


def _hashes(paths: list[str]) -> Iterable[bytes | None]:
    """The content hash of each file; None where it cannot be read."""
    if len(paths) < _READERS:
        return map(_hash, paths)
    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        return list(pool.map(_hash, paths, chunksize=64))


def _hash(path: str) -> bytes | None:
    try:
        return file_content_hash(path)
    except (OSError, ValueError):
        return None
