"""The database of a folder index: which files there are, which image each one is, and where its features lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.replacing import flush

FORMAT = 1
FILE = "index.sqlite"
_APPLICATION = 0x436C6970
_PATIENCE = 30.0  # seconds that a reader waits for a transaction of the writer

_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL, proof BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE roots (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE TABLE shards (id INTEGER PRIMARY KEY AUTOINCREMENT, file TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE images (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, size INTEGER NOT NULL,
    shard INTEGER NOT NULL REFERENCES shards (id), row INTEGER NOT NULL, UNIQUE (shard, row));
CREATE TABLE files (root INTEGER NOT NULL REFERENCES roots (id), name BLOB NOT NULL, size INTEGER NOT NULL,
    mtime INTEGER NOT NULL, settled INTEGER NOT NULL, image INTEGER NOT NULL REFERENCES images (id),
    proof INTEGER NOT NULL, PRIMARY KEY (root, name)) WITHOUT ROWID;
CREATE INDEX files_of_images ON files (image);
CREATE TABLE skipped (root INTEGER NOT NULL REFERENCES roots (id), name BLOB NOT NULL, size INTEGER NOT NULL,
    mtime INTEGER NOT NULL, settled INTEGER NOT NULL, reader TEXT NOT NULL, reason TEXT NOT NULL,
    proof INTEGER NOT NULL, PRIMARY KEY (root, name)) WITHOUT ROWID;
"""


def damage_of(path: Path, reason: str) -> str:
    """What is said about a damaged file of an index, with the command that mends it.

    Args:
        path (`Path`): the file, in the folder of the index.
        reason (`str`): what is wrong with it.
    """
    return f"{str(path)!r} is damaged ({reason}): {repair_of(path.parent)}."


def repair_of(folder: Path) -> str:
    """How a damaged index is mended."""
    command = f"clipalign index {shlex.quote(printable(str(folder)))} --repair"
    return f"mend it with `{command}` or update(repair=True)"


class FileRow(NamedTuple):
    """What is known about a file.

    Attributes:
        root (`int`), name (`bytes`): which one.
        size (`int`), mtime (`int`): bytes, and nanoseconds since the epoch.
        settled (`int`): 0 if it may have changed without a trace in size and time: its content is compared next time.
        image (`int`): its content.
    """

    root: int
    name: bytes
    size: int
    mtime: int
    settled: int
    image: int


class SkippedRow(NamedTuple):
    """A file that cannot be read, in the state in which it was tried, and by which versions of the libraries."""

    root: int
    name: bytes
    size: int
    mtime: int
    settled: int
    reader: str
    reason: str


class DamagedManifest(ClipAlignError):
    """The database of an index is not as it was written."""


class Manifest:
    """The database in the folder of an index. Connections last for one operation, so threads can share it.

    Args:
        folder (`Path`): the folder of the index.
        file (`str`, *optional*): its name in the folder.
        journal (`str`, *optional*, defaults to `"WAL"`): how SQLite keeps changes apart until they are complete.
    """

    def __init__(self, folder: Path, file: str = FILE, journal: str = "WAL") -> None:
        self.folder, self.path, self._journal = folder, folder / file, journal

    def create(
        self, roots: Iterable[bytes], settings: dict[str, Any], fill: Callable[[Manifest], None] | None = None
    ) -> None:
        """Makes a database under another name and puts it, once it is complete, in the place of what is there.

        Args:
            roots (`Iterable[bytes]`): paths of the folders.
            settings (`dict[str, Any]`): their values.
            fill (`Callable[[Manifest], None]`, *optional*): what else is to be in it.
        """
        fresh = Manifest(self.folder, f"new-{self.path.name}", journal="DELETE")
        for file in fresh._files():
            file.unlink(missing_ok=True)
        fresh.path.touch()
        with fresh.writing(create=True) as change:
            for statement in filter(str.strip, _TABLES.split(";")):
                change.execute(statement)
            change.execute(f"PRAGMA user_version = {FORMAT}")
            change.execute(f"PRAGMA application_id = {_APPLICATION}")
            change.executemany("INSERT INTO roots (path) VALUES (?)", [(path,) for path in roots])
            for name, value in {"generation": 1, **settings}.items():
                put_setting(change, name, value)
        if fill is not None:
            fill(fresh)
        for file in self._files():
            if file != self.path:
                file.unlink(missing_ok=True)  # a log is of the database that it was written for
        os.replace(fresh.path, self.path)
        flush(self.folder)

    def _files(self) -> list[Path]:
        """The database, and what SQLite keeps beside it."""
        return [Path(f"{self.path}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")]

    @contextlib.contextmanager
    def reading(self, check: bool = True) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state and changes nothing.

        Raises:
            `DamagedManifest`: the database cannot be read.
            `ClipAlignError`: it is missing, or of a newer format.
        """
        if not self.path.is_file():
            raise self.damage("it is missing")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._explained())
            connection = stack.enter_context(_read_only(self.path))
            connection.execute("BEGIN")
            if check:
                self._check_format(connection)
            yield connection

    @contextlib.contextmanager
    def writing(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept as a whole if the block ends well, else not at all.

        Raises:
            `DamagedManifest`: the database cannot be read.
            `ClipAlignError`: the disk is full or read-only, or the database is of a newer format.
        """
        with self._explained(), contextlib.closing(self._connected()) as connection:
            if not create:
                self._check_format(connection)
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        if not self.path.is_file():
            raise self.damage("it is missing")
        connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        try:
            connection.execute(f"PRAGMA journal_mode = {self._journal}")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_format(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT:
            raise ClipAlignError(
                f"the index {str(self.folder)!r} has format {version}, this version of hf_clipalign reads {FORMAT}: "
                "update hf_clipalign."
            )
        if version < 1 or connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise self.damage("it is no index of hf_clipalign")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            reason = str(error)
            code = getattr(error, "sqlite_errorname", "")
            if code.startswith("SQLITE_FULL"):
                advice = "Make room and run the same again: what is computed is kept."
                raise ClipAlignError(f"cannot write to {str(self.path)!r}: {reason}. {advice}") from error
            if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR")):
                advice = "Check the disk and the access rights, and run the same again."
                raise ClipAlignError(f"cannot use {str(self.path)!r}: {reason}. {advice}") from error
            if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise ClipAlignError(f"{str(self.path)!r} is in use by another process: try again.") from error
            if isinstance(error, sqlite3.ProgrammingError):
                raise
            raise self.damage(reason) from error

    def damage(self, reason: str) -> DamagedManifest:
        """The error that says that the database is damaged."""
        return DamagedManifest(damage_of(self.path, reason))


@contextlib.contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write; also where the folder is read-only, so that SQLite cannot make its own files."""
    uri = path.absolute().as_uri()
    try:
        connection = _opened(f"{uri}?mode=ro")
    except sqlite3.OperationalError as error:
        if not getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise
        with _never_written(path, uri) as connection:
            yield connection
        return
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def _never_written(path: Path, uri: str) -> Iterator[sqlite3.Connection]:
    """A connection to a database that nobody writes, as it is in a read-only folder.

    What a killed writer left in its log is only read with files beside the database: of copies in another folder.
    """
    log = Path(f"{path}-wal")
    with contextlib.ExitStack() as stack:
        if not log.exists() or not log.stat().st_size:
            yield stack.enter_context(contextlib.closing(_opened(f"{uri}?mode=ro&immutable=1")))
            return
        copies = stack.enter_context(tempfile.TemporaryDirectory(prefix="clipalign-"))
        for name in (path.name, log.name):
            shutil.copyfile(path.with_name(name), Path(copies, name))
        yield stack.enter_context(contextlib.closing(_opened(Path(copies, path.name).as_uri())))


def _opened(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def get_setting(connection: sqlite3.Connection, name: str, default: Any = None) -> Any:
    """A setting's value; `default` if there is none or it is not as it was written."""
    row = connection.execute("SELECT value, proof FROM settings WHERE name = ?", (name,)).fetchone()
    return json.loads(row[0]) if row is not None and _setting_proof(name, row[0]) == row[1] else default


def put_setting(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Stores a value of JSON; None removes it."""
    if value is None:
        connection.execute("DELETE FROM settings WHERE name = ?", (name,))
        return
    text = json.dumps(value, sort_keys=True)
    row = (name, text, _setting_proof(name, text))
    connection.execute("INSERT OR REPLACE INTO settings (name, value, proof) VALUES (?, ?, ?)", row)


def roots_of(connection: sqlite3.Connection) -> dict[str, int]:
    """The numbers of the roots by their paths."""
    return {os.fsdecode(path): number for number, path in connection.execute("SELECT id, path FROM roots ORDER BY id")}


def broken_settings(connection: sqlite3.Connection) -> list[str]:
    """Names of settings that are not as they were written."""
    rows = connection.execute("SELECT name, value, proof FROM settings ORDER BY name")
    return [name for name, value, proof in rows if _setting_proof(name, value) != proof]


def next_generation(connection: sqlite3.Connection) -> int:
    """Counts a change of what can be found."""
    generation = int(get_setting(connection, "generation", 0)) + 1
    put_setting(connection, "generation", generation)
    return generation


def put_files(connection: sqlite3.Connection, rows: Iterable[FileRow]) -> None:
    """Stores files; one of the same name is replaced, and is no longer among the skipped."""
    rows = list(rows)
    _put_proven(connection, "files", FileRow._fields, rows)
    remove_skipped(connection, [(row.root, row.name) for row in rows])


def put_skipped(connection: sqlite3.Connection, rows: Iterable[SkippedRow]) -> None:
    """Records files that cannot be read; they are no longer among those that can be found."""
    rows = list(rows)
    _put_proven(connection, "skipped", SkippedRow._fields, rows)
    remove_files(connection, [(row.root, row.name) for row in rows])


def _put_proven(
    connection: sqlite3.Connection, table: str, fields: tuple[str, ...], rows: Sequence[FileRow | SkippedRow]
) -> None:
    columns, values = ", ".join((*fields, "proof")), ", ".join("?" * (len(fields) + 1))
    proven = [(*row, proof_of(row)) for row in rows]
    connection.executemany(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({values})", proven)


def remove_files(connection: sqlite3.Connection, names: Iterable[tuple[int, bytes]]) -> None:
    """Forgets files; the images stay."""
    connection.executemany("DELETE FROM files WHERE root = ? AND name = ?", names)


def remove_skipped(connection: sqlite3.Connection, names: Iterable[tuple[int, bytes]]) -> None:
    """Forgets skipped files."""
    connection.executemany("DELETE FROM skipped WHERE root = ? AND name = ?", names)


def proof_of(row: FileRow | SkippedRow) -> int:
    """A checksum of a row."""
    return int.from_bytes(hashlib.blake2b(repr(tuple(row)).encode(), digest_size=7).digest(), "little")


def _setting_proof(name: str, text: str) -> bytes:
    return hashlib.blake2b(f"{name}={text}".encode(), digest_size=8).digest()
