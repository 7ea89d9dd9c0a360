"""One state of an index in memory: which images can be found, where their features lie, and which files they are."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.search.collection.manifest import get_setting, roots_of
from hf_clipalign.search.files import Files, decoded_name


@dataclass(frozen=True)
class Snapshot:
    """What is found here belongs together, whatever other processes do meanwhile.

    Attributes:
        generation (`int`): of the index.
        shard_files (`list[str]`): names of the shards.
        shard (`np.ndarray [N]`): for each image the position of its shard in `shard_files`, ascending.
        place (`np.ndarray [N]`): its row there.
        files (`Files`): all files.
        settings (`dict`): what `ImageIndex.put_setting` stored.
    """

    generation: int
    shard_files: list[str]
    shard: NDArray[np.int64]
    place: NDArray[np.int64]
    files: Files
    settings: dict[str, Any]


def read_snapshot(connection: sqlite3.Connection, roots: list[str]) -> Snapshot:
    """The newest state."""
    shards = connection.execute("SELECT id, file FROM shards ORDER BY id").fetchall()
    images = _columns(
        connection.execute(
            "SELECT id, shard, row FROM images WHERE id IN (SELECT image FROM files) ORDER BY shard, row"
        ),
        3,
    )
    numbers = roots_of(connection)
    rows = connection.execute("SELECT root, name, size, mtime, image FROM files ORDER BY root, name").fetchall()
    raw = [row[1] for row in rows]
    others = _columns(((row[0], row[2], row[3], row[4]) for row in rows), 4)
    order = np.argsort(images[0], kind="stable")
    files = Files(
        roots=roots,
        root=np.searchsorted([numbers[root] for root in roots], others[0]),
        names=[decoded_name(name) for name in raw],
        sizes=others[1],
        modified=others[2] / 1e9,
        images=order[np.searchsorted(images[0][order], others[3])] if len(rows) else np.empty(0, np.int64),
        raw=raw,
    )
    settings = {
        name.removeprefix("user."): get_setting(connection, name)
        for (name,) in connection.execute("SELECT name FROM settings WHERE name LIKE 'user.%'").fetchall()
    }
    shard = np.searchsorted([number for number, _ in shards], images[1])
    generation = int(get_setting(connection, "generation", 0))
    return Snapshot(generation, [file for _, file in shards], shard, images[2], files, settings)


def _columns(rows: Any, n: int) -> list[NDArray[np.int64]]:
    table = np.array(list(rows), dtype=np.int64).reshape(-1, n)
    return [np.ascontiguousarray(column) for column in table.T]
