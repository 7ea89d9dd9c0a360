"""Shards without deleted rows, and few large ones instead of many small ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_clipalign.features.storage.headers import mapped_arrays
from hf_clipalign.search.collection.manifest import Manifest, next_generation
from hf_clipalign.search.collection.shards import insert_shard, next_number, read_content, shard_name, write_rows

DELETED_SHARE = 0.25
"""Above this share of deleted rows an update compacts by itself."""

SMALL_SHARDS = 64
"""Above this number of shards that are less than half full, too."""


@dataclass
class _Live:
    """A shard, and its rows that some file still is: place, image, digest, size, and a name of the image."""

    number: int
    stored: int
    rows: list[tuple[int, int, bytes, int, tuple[int, bytes]]]


def is_due(connection: sqlite3.Connection, shard_size: int) -> bool:
    """Whether so much is deleted, or so many shards are small, that compaction is worth its time."""
    stored = connection.execute("SELECT count(*) FROM images").fetchone()[0]
    alive = connection.execute("SELECT count(DISTINCT image) FROM files").fetchone()[0]
    small = connection.execute("SELECT count(*) FROM shards WHERE rows * 2 < ?", (shard_size,)).fetchone()[0]
    return stored - alive > DELETED_SHARE * stored or small > SMALL_SHARDS


def compact(manifest: Manifest, key: str, width: int, shard_size: int) -> int:
    """Writes shards with deleted rows, and neighbouring small ones, anew: one transaction for each new one.

    Killed at any moment, the index is as before or has one more new shard.

    Returns:
        `int`: how many deleted rows are gone.

    Raises:
        `DamagedShard`: a shard is not as it was written; nothing of it was copied.
        `ClipAlignError`: the disk refuses.
    """
    with manifest.reading() as connection:
        shards = _live_rows(connection)
    removed = 0
    for group in _groups(shards, shard_size):
        _replace(manifest, key, width, group)
        removed += sum(shard.stored - len(shard.rows) for shard in group)
    return removed


def _live_rows(connection: sqlite3.Connection) -> list[_Live]:
    shards = [
        _Live(number, rows, []) for number, rows in connection.execute("SELECT id, rows FROM shards ORDER BY id")
    ]
    by_number = {shard.number: shard for shard in shards}
    query = (
        "SELECT shard, row, images.id, digest, images.size, root, name FROM images "
        "JOIN files ON files.image = images.id ORDER BY shard, row, root, name"
    )
    before = None
    for number, row, image, digest, size, root, name in connection.execute(query):
        if image != before:
            by_number[number].rows.append((row, image, digest, size, (root, name)))
        before = image
    return shards


def _groups(shards: Sequence[_Live], shard_size: int) -> Iterator[list[_Live]]:
    """Shards that become one."""
    group: list[_Live] = []
    for shard in shards:
        is_whole = len(shard.rows) == shard.stored
        if is_whole and 2 * shard.stored >= shard_size:
            continue
        if group and sum(len(other.rows) for other in group) + len(shard.rows) > shard_size:
            yield from [group] if _is_worth_it(group) else []
            group = []
        group.append(shard)
    if _is_worth_it(group):
        yield group


def _is_worth_it(group: Sequence[_Live]) -> bool:
    return len(group) > 1 or any(len(shard.rows) < shard.stored for shard in group)


def _replace(manifest: Manifest, key: str, width: int, group: Sequence[_Live]) -> None:
    folder = manifest.folder
    values = np.concatenate([_values(folder, key, width, shard) for shard in group])
    rows = [row for shard in group for row in shard.rows]
    digests, sizes, names = [row[2] for row in rows], [row[3] for row in rows], [row[4] for row in rows]
    with manifest.reading() as connection:
        number = next_number(connection)
    if rows:
        import torch

        write_rows(folder, number, key, torch.from_numpy(values), digests, sizes, names, [])
    with manifest.writing() as connection:
        old = [(shard.number,) for shard in group]
        if rows:
            insert_shard(connection, folder, number, key, digests, sizes, known=set(digests))
            moved = [(number, place, row[1]) for place, row in enumerate(rows)]
            connection.executemany("UPDATE images SET shard = ?, row = ? WHERE id = ?", moved)
        connection.executemany("DELETE FROM images WHERE shard = ?", old)
        connection.executemany("DELETE FROM shards WHERE id = ?", old)
        next_generation(connection)
    for shard in group:
        (folder / shard_name(shard.number, key)).unlink(missing_ok=True)


def _values(folder: Path, key: str, width: int, shard: _Live) -> np.ndarray:
    """The rows that stay, of a proven shard."""
    if not shard.rows:
        return np.empty((0, width), np.float32)
    read_content(folder, shard.number, key, width)
    places = np.array([row[0] for row in shard.rows], dtype=np.int64)
    return mapped_arrays(folder / shard_name(shard.number, key))["values"][places]
