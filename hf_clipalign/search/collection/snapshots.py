"""One state of an index in memory: which images can be found, where their features lie, and which files they are."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.collection.manifest import Manifest, get_setting, roots_of
from hf_clipalign.search.collection.shards import is_shard
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


def read_snapshot(manifest: Manifest, roots: list[str]) -> Snapshot:
    """The newest state.

    Raises:
        `DamagedManifest`: the database is not as it was written.
    """
    try:
        with manifest.reading() as connection:
            return _read(connection, roots)
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        if isinstance(error, ClipAlignError):
            raise
        raise manifest.damage(short_reason(error)) from error


def _read(connection: sqlite3.Connection, roots: list[str]) -> Snapshot:
    shards = connection.execute("SELECT id, file, rows FROM shards ORDER BY id").fetchall()
    if not all(is_shard(file) for _, file, _ in shards):
        raise ValueError("a shard has no name of a shard")
    query = "SELECT id, shard, row FROM images WHERE id IN (SELECT image FROM files) ORDER BY shard, row"
    images, numbers, places = _columns(connection.execute(query), 3)
    shard = _positions([number for number, _, _ in shards], numbers)
    if np.any(places < 0) or np.any(places >= np.array([rows for *_, rows in shards], np.int64)[shard]):
        raise ValueError("an image lies behind the end of its shard")
    settings = {
        name.removeprefix("user."): get_setting(connection, name)
        for (name,) in connection.execute("SELECT name FROM settings WHERE name LIKE 'user.%'").fetchall()
    }
    return Snapshot(
        generation=int(get_setting(connection, "generation", 0)),
        shard_files=[file for _, file, _ in shards],
        shard=shard,
        place=places,
        files=_files(connection, roots, images),
        settings=settings,
    )


def _files(connection: sqlite3.Connection, roots: list[str], images: NDArray[np.int64]) -> Files:
    rows = connection.execute("SELECT root, size, mtime, image, name FROM files ORDER BY root, name").fetchall()
    raw = [row[-1] for row in rows]
    root, sizes, mtimes, image = _columns((row[:-1] for row in rows), 4)
    numbers = roots_of(connection)
    order = np.argsort(images, kind="stable")
    return Files(
        roots=roots,
        root=_positions([numbers[root] for root in roots], root),
        names=[decoded_name(name) for name in raw],
        sizes=sizes,
        modified=mtimes / 1e9,
        images=order[_positions(images[order], image)],
        raw=raw,
    )


def _columns(rows: Any, n: int) -> list[NDArray[np.int64]]:
    table = np.array(list(rows), dtype=np.int64).reshape(-1, n)
    return [np.ascontiguousarray(column) for column in table.T]


def _positions(known: Any, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of some numbers stands in an ascending list that holds all of them."""
    known = np.asarray(known, dtype=np.int64)
    found = np.searchsorted(known, wanted)
    if len(wanted) and (not len(known) or np.any(known[found.clip(max=len(known) - 1)] != wanted)):
        raise ValueError("a row points nowhere")
    return found
