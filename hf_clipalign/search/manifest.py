"""The manifest of an index: which file shows which image, and where its features are.

SQLite in WAL mode. An image is its content: files with the same bytes share one image and one row of features. A shard
and the rows of its images enter in one transaction, so a killed update leaves whole shards or none.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hf_clipalign._errors import ClipAlignError

MANIFEST_FILE = "index.sqlite"
FORMAT = 1
_BUSY_SECONDS = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS roots (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS shards (
    id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS images (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, shard INTEGER REFERENCES shards(id), place INTEGER,
    width INTEGER, height INTEGER, problem TEXT,
    UNIQUE (shard, place)
);
CREATE TABLE IF NOT EXISTS files (
    root INTEGER NOT NULL REFERENCES roots(id), path TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    image INTEGER NOT NULL REFERENCES images(id),
    PRIMARY KEY (root, path)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_image ON files(image);
"""


class FileRow(NamedTuple):
    """A file of the collection.

    Attributes:
        root (`int`), path (`str`): where it is: the root's number, and the path below it with forward slashes.
        size (`int`): bytes.
        mtime_ns (`int`): time of the last change; -1 if it is too recent to tell later changes from it.
        image (`int`): number of the image that it shows.
    """

    root: int
    path: str
    size: int
    mtime_ns: int
    image: int


class ImageRow(NamedTuple):
    """An image, whatever files show it.

    Attributes:
        id (`int`): its number.
        digest (`str`): SHA-256 of the file's bytes.
        shard (`int`, *optional*), place (`int`, *optional*): where its features are; None if it cannot be read.
        problem (`str`, *optional*): why it cannot be read.
    """

    id: int
    digest: str
    shard: int | None
    place: int | None
    problem: str | None


class Manifest:
    """The manifest of one index.

    Args:
        folder (`Path`): the index.
        readonly (`bool`): open it without writing anything, for a folder that may not be written to. Defaults to False.

    Raises:
        `ClipAlignError`: the file is no manifest, of a newer format, or damaged.
    """

    def __init__(self, folder: Path, readonly: bool = False) -> None:
        self.path = folder / MANIFEST_FILE
        try:
            self._connection = _connect(self.path, readonly)
            if not readonly:
                self._connection.executescript(_SCHEMA)
            self._check_format(readonly)
        except sqlite3.DatabaseError as error:
            raise ClipAlignError(
                f"{str(self.path)!r} cannot be opened: {error}. If it is damaged, run `clipalign index` with --repair."
            ) from error

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside the block happen together, or none of them."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def fact(self, name: str) -> Any:
        """A value of the description of the index, None if it was never set."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_fact(self, name: str, value: Any) -> None:
        """Sets a value of the description, anything that JSON can hold."""
        self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def roots(self) -> dict[int, str]:
        """The folders of the collection, by number."""
        return dict(self._connection.execute("SELECT id, path FROM roots ORDER BY id"))

    def add_root(self, path: str) -> int:
        """The number of a folder, which is added if it is new."""
        self._connection.execute("INSERT OR IGNORE INTO roots (path) VALUES (?)", (path,))
        return self._connection.execute("SELECT id FROM roots WHERE path = ?", (path,)).fetchone()[0]

    def files(self, root: int | None = None) -> Iterator[FileRow]:
        """All files, or those of one root, ordered by root and path."""
        where, values = ("", ()) if root is None else (" WHERE root = ?", (root,))
        query = f"SELECT root, path, size, mtime_ns, image FROM files{where} ORDER BY root, path"
        return map(FileRow._make, self._connection.execute(query, values))

    def put_files(self, files: Iterable[FileRow]) -> None:
        """Adds files, or replaces what was known of them."""
        self._connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", files)

    def remove_files(self, files: Iterable[tuple[int, str]]) -> None:
        """Forgets files; their images stay until `compact`."""
        self._connection.executemany("DELETE FROM files WHERE root = ? AND path = ?", files)

    def images(self) -> Iterator[ImageRow]:
        """All images, ordered by number."""
        query = "SELECT id, digest, shard, place, problem FROM images ORDER BY id"
        return map(ImageRow._make, self._connection.execute(query))

    def image_of(self, digest: str) -> ImageRow | None:
        """The image with this content."""
        query = "SELECT id, digest, shard, place, problem FROM images WHERE digest = ?"
        row = self._connection.execute(query, (digest,)).fetchone()
        return None if row is None else ImageRow._make(row)

    def put_image(
        self, digest: str, shard: int | None, place: int | None, size: tuple[int, int] | None, problem: str | None
    ) -> int:
        """Adds an image, or says anew where its features are; gives its number."""
        width, height = size or (None, None)
        self._connection.execute(
            "INSERT INTO images (digest, shard, place, width, height, problem) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET shard = excluded.shard, place = excluded.place, "
            "width = excluded.width, height = excluded.height, problem = excluded.problem",
            (digest, shard, place, width, height, problem),
        )
        row = self.image_of(digest)
        assert row is not None
        return row.id

    def put_shard(self, number: int, file: str, rows: int, size: int, sha256: str) -> None:
        """Adds a shard of features."""
        self._connection.execute(
            "INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?, ?)", (number, file, rows, size, sha256)
        )

    def shards(self) -> list[tuple[int, str, int, int, str]]:
        """Number, file name, rows, bytes and checksum of every shard."""
        return list(self._connection.execute("SELECT id, file, rows, bytes, sha256 FROM shards ORDER BY id"))

    def problems(self) -> list[str]:
        """What SQLite itself finds wrong with the file; empty if nothing."""
        found = [row[0] for row in self._connection.execute("PRAGMA integrity_check")]
        dangling = self._connection.execute("PRAGMA foreign_key_check").fetchall()
        return [line for line in found if line != "ok"] + [f"{row[0]}: row without its {row[2]}" for row in dangling]

    def _check_format(self, readonly: bool) -> None:
        stored = self.fact("format")
        if stored is None and not readonly:
            self.set_fact("format", FORMAT)
        elif not isinstance(stored, int) or stored > FORMAT:
            raise ClipAlignError(
                f"{str(self.path)!r} has format {stored!r}, this version reads up to {FORMAT}: upgrade hf_clipalign."
            )


def _connect(path: Path, readonly: bool) -> sqlite3.Connection:
    if readonly:
        if not path.is_file():
            raise ClipAlignError(f"{str(path.parent)!r} holds no index: make one with `clipalign index`.")
        # immutable: a folder that may not be written to cannot hold SQLite's shared-memory file either
        options = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True, isolation_level=None)
        return connection
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection
