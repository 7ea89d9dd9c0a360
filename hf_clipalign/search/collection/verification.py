"""Whether an index is as it was written, and mending it where it is not."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from hf_clipalign._checks.quoting import printable, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.features.storage.headers import DamagedShard
from hf_clipalign.search.collection.changes import LOST, known_images
from hf_clipalign.search.collection.manifest import (
    FILE,
    DamagedManifest,
    FileRow,
    Manifest,
    SkippedRow,
    broken_settings,
    get_setting,
    next_generation,
    proof_of,
    put_files,
    put_setting,
    put_skipped,
    roots_of,
)
from hf_clipalign.search.collection.shards import (
    ShardContent,
    insert_shard,
    is_shard,
    read_content,
    shard_name,
    shard_number,
)

logger = logging.getLogger(__name__)


@dataclass
class Findings:
    """What is wrong with an index.

    Attributes:
        problems (`list[str]`): one line each.
        database (`bool`): the database has to be made anew.
        settings (`list[str]`): broken settings.
        files (`list[FileRow]`), skipped (`list[SkippedRow]`): rows that are not as they were written.
        shards (`list[int]`): shards that are missing or not as they were written.
        images (`list[int]`): images that point to another image's features, or to none.
    """

    problems: list[str] = field(default_factory=list)
    database: bool = False
    settings: list[str] = field(default_factory=list)
    files: list[FileRow] = field(default_factory=list)
    skipped: list[SkippedRow] = field(default_factory=list)
    shards: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)


def inspect(manifest: Manifest, description: Mapping[str, Any], key: str) -> Findings:
    """Reads all of an index and compares it with its checksums.

    Raises:
        `ClipAlignError`: the index is of a newer format, or the disk refuses to read.
    """
    found = Findings()
    try:
        with manifest.reading() as connection:
            _inspect_database(connection, description, found)
            if not found.database:
                _inspect_rows(connection, found)
                _inspect_shards(connection, manifest.folder, key, description["width"], found)
    except DamagedManifest as damage:
        found.database, found.problems = True, [str(damage)]
    except ClipAlignError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        found.database, found.problems = True, [f"{FILE}: its rows make no sense ({short_reason(error)})"]
    return found


def _inspect_database(connection: sqlite3.Connection, description: Mapping[str, Any], found: Findings) -> None:
    faults = [" ".join(text.split()) for (text,) in connection.execute("PRAGMA integrity_check(5)") if text != "ok"]
    lost = Counter(table for table, *_ in connection.execute("PRAGMA foreign_key_check"))
    faults += [
        f"a row of {table} points nowhere" if count == 1 else f"{count:,} rows of {table} point nowhere"
        for table, count in sorted(lost.items())
    ]
    if not faults and list(roots_of(connection)) != description["roots"]:
        faults.append("its folders are not those of the index")
    if faults:
        found.database = True
        found.problems += [f"{FILE}: {fault}" for fault in faults]


def _inspect_rows(connection: sqlite3.Connection, found: Findings) -> None:
    found.settings = broken_settings(connection)
    if get_setting(connection, "generation") is None and "generation" not in found.settings:
        found.settings.append("generation")
    found.problems += [f"{FILE}: the setting {name!r} is not as it was written" for name in found.settings]
    for row_type, rows, table in ((FileRow, found.files, "files"), (SkippedRow, found.skipped, "skipped")):
        columns = ", ".join((*row_type._fields, "proof"))
        types = list(get_type_hints(row_type).values())
        for *values, proof in connection.execute(f"SELECT {columns} FROM {table}"):
            row = row_type(*values)
            if [type(value) for value in row] != types:
                raise TypeError(f"a row of {table} holds values of other types")
            if proof_of(row) != proof:
                rows.append(row)  # type: ignore[arg-type]
                name = printable(os.fsdecode(row.name))
                found.problems.append(f"{FILE}: the row of {name!r} is not as it was written")


def _inspect_shards(connection: sqlite3.Connection, folder: Path, key: str, width: int, found: Findings) -> None:
    recorded = connection.execute("SELECT id, file, rows, bytes, sha256 FROM shards ORDER BY id").fetchall()
    for number, file, rows, size, sha256 in recorded:
        path = folder / shard_name(number, key)
        try:
            content = read_content(folder, number, key, width)
        except (DamagedShard, FileNotFoundError) as damage:
            problem = "it is missing" if isinstance(damage, FileNotFoundError) else str(damage)
            found.shards.append(number)
            found.problems.append(f"{path.name}: {problem}")
            continue
        if (file, rows, size, sha256) != (path.name, len(content.digests), path.stat().st_size, content.sha256):
            found.shards.append(number)
            found.problems.append(f"{path.name}: it is another one than {FILE} says")
            continue
        _inspect_images(connection, number, content, found)
    known = {shard_name(number, key) for number, *_ in recorded}
    for name in sorted(os.listdir(folder)):
        if is_shard(name) and name not in known:
            found.problems.append(f"{name}: it is not recorded (a run was killed): the next update uses or removes it")


def _inspect_images(connection: sqlite3.Connection, number: int, content: ShardContent, found: Findings) -> None:
    query = "SELECT id, row, digest, size FROM images WHERE shard = ? ORDER BY row"
    for image, row, digest, size in connection.execute(query, (number,)):
        is_there = 0 <= row < len(content.digests)
        if not is_there or (content.digests[row], content.sizes[row]) != (digest, size):
            found.images.append(image)
            found.problems.append(f"{FILE}: image {image} is not row {row} of shard {number}")


def mend(manifest: Manifest, description: Mapping[str, Any], key: str) -> list[str]:
    """Removes what is damaged, so that the next update makes it again; nothing that could be read is lost.

    Files that are not there now, and whose features are lost, stay recorded: they are embedded when they are back.

    Returns:
        `list[str]`: what was wrong.
    """
    found = inspect(manifest, description, key)
    if found.database:
        _rebuild(manifest, description, key)
    elif found.problems:
        with manifest.writing() as connection:
            _mend_rows(connection, found)
            _drop_shards(connection, found)
            put_setting(connection, "description", dict(description))
            next_generation(connection)
        for number in found.shards:
            (manifest.folder / shard_name(number, key)).unlink(missing_ok=True)
    return found.problems


def _mend_rows(connection: sqlite3.Connection, found: Findings) -> None:
    for name in found.settings:
        put_setting(connection, name, None)
    if "generation" in found.settings:
        put_setting(connection, "generation", int(time.time()))  # above all that were ever given
    images = {image for (image,) in connection.execute("SELECT id FROM images")}
    for row in found.files:
        if row.image in images:
            put_files(connection, [row._replace(settled=0)])
    put_skipped(connection, [row._replace(settled=0) for row in found.skipped])


def _drop_shards(connection: sqlite3.Connection, found: Findings) -> None:
    """Forgets images whose features are lost; their files become skipped ones that are tried again."""
    lost = list(found.images)
    for number in found.shards:
        lost += [image for (image,) in connection.execute("SELECT id FROM images WHERE shard = ?", (number,))]
    for image in lost:
        rows = connection.execute("SELECT root, name, size, mtime FROM files WHERE image = ?", (image,)).fetchall()
        put_skipped(connection, [SkippedRow(root, name, size, mtime, 0, "", LOST) for root, name, size, mtime in rows])
        connection.execute("DELETE FROM images WHERE id = ?", (image,))
    connection.executemany("DELETE FROM shards WHERE id = ?", [(number,) for number in found.shards])


def _rebuild(manifest: Manifest, description: Mapping[str, Any], key: str) -> None:
    """A new database from the shards; what can be read of the old one's settings is kept."""
    settings, files = _salvaged(manifest.path), _salvaged_files(manifest.path)
    generation = max(int(time.time()), int(settings.get("generation", 0)) + 1)
    settings |= {"generation": generation, "description": dict(description)}

    def fill(fresh: Manifest) -> None:
        for number, content in _sound_shards(manifest.folder, key, description["width"]):
            with fresh.writing() as connection:
                _record(connection, manifest.folder, number, key, content)
        with fresh.writing() as connection:
            _record_lost(connection, files)

    manifest.create(map(os.fsencode, description["roots"]), settings, fill)


def _record(connection: sqlite3.Connection, folder: Path, number: int, key: str, content: ShardContent) -> None:
    """A shard, its images, and the files that they were read from."""
    known = known_images(connection, content.digests)
    images = insert_shard(connection, folder, number, key, content.digests, content.sizes, known) | known
    rows = zip(content.names, content.sizes, content.digests, strict=True)
    put_files(connection, [FileRow(*name, size, 0, 0, images[digest]) for name, size, digest in rows])
    put_skipped(connection, content.skipped)


def _record_lost(connection: sqlite3.Connection, files: list[tuple[str, FileRow, bytes | None]]) -> None:
    """Files of the old database whose features are in no shard become skipped ones that are tried again."""
    numbers = roots_of(connection)
    known = known_images(connection, {digest for *_, digest in files if digest is not None})
    recorded = set(connection.execute("SELECT root, name FROM files"))
    lost = [
        SkippedRow(numbers[root], row.name, row.size, row.mtime, 0, "", LOST)
        for root, row, digest in files
        if root in numbers and (digest is None or digest not in known) and (numbers[root], row.name) not in recorded
    ]
    put_skipped(connection, lost)


def _sound_shards(folder: Path, key: str, width: int) -> Iterator[tuple[int, ShardContent]]:
    for name in sorted(os.listdir(folder)):
        number = shard_number(name, key)
        if number is None:
            continue
        try:
            yield number, read_content(folder, number, key, width)
        except DamagedShard as damage:
            logger.warning("%s is damaged (%s): its images are embedded again", folder / name, damage)
            (folder / name).unlink()


def _salvaged(path: Path) -> dict[str, Any]:
    """The settings of a damaged database that can be read and are as they were written."""
    settings: dict[str, Any] = {}
    with (
        contextlib.suppress(sqlite3.Error, ClipAlignError, ValueError),
        contextlib.closing(sqlite3.connect(path)) as connection,
    ):
        for (name,) in connection.execute("SELECT name FROM settings").fetchall():
            value = get_setting(connection, name)
            if value is not None:
                settings[name] = value
    return settings


def _salvaged_files(path: Path) -> list[tuple[str, FileRow, bytes | None]]:
    """Folder, row and digest of the files in a damaged database that can be read and are as they were written."""
    files: list[tuple[str, FileRow, bytes | None]] = []
    columns = ", ".join(f"files.{name}" for name in (*FileRow._fields, "proof"))
    query = f"SELECT {columns}, digest FROM files LEFT JOIN images ON images.id = files.image"
    with (
        contextlib.suppress(sqlite3.Error, ValueError, TypeError),
        contextlib.closing(sqlite3.connect(path)) as connection,
    ):
        roots = {number: root for root, number in roots_of(connection).items()}
        for *values, proof, digest in connection.execute(query):
            row = FileRow(*values)
            if proof_of(row) == proof and row.root in roots:
                files.append((roots[row.root], row, digest))
    return files
