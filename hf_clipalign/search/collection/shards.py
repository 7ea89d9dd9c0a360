"""The shards of an index: the feature store's format, one file for each run of new images."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_clipalign.features.content import HASH_BYTES
from hf_clipalign.features.storage.headers import (
    DamagedShard,
    check_place,
    check_sealed,
    mapped_arrays,
    read_header,
    size_problem,
)
from hf_clipalign.search.collection.manifest import SkippedRow, damage_of

KIND = "features"
_KEY = 8
_PATTERN = re.compile(rf"{KIND}-(\d{{5,}})-([0-9a-f]{{{_KEY}}})\.safetensors")


class ShardContent(NamedTuple):
    """What a shard says, without its features.

    Attributes:
        digests (`list[bytes]`): of the images, by row.
        sizes (`list[int]`): of their files, in bytes.
        names (`list[tuple[int, bytes]]`): root and name of the file that each was read from.
        skipped (`list[SkippedRow]`): files that could not be read.
        sha256 (`str`): its checksum.
    """

    digests: list[bytes]
    sizes: list[int]
    names: list[tuple[int, bytes]]
    skipped: list[SkippedRow]
    sha256: str


def shard_name(number: int, key: str) -> str:
    """The file name of a shard."""
    return f"{KIND}-{number:05d}-{key[:_KEY]}.safetensors"


def shard_number(file: str, key: str) -> int | None:
    """The number in a file name; None if it is no shard of this index."""
    match = _PATTERN.fullmatch(file)
    return int(match[1]) if match is not None and match[2] == key[:_KEY] else None


def is_shard(file: str) -> bool:
    """Whether a file name is one of a shard, of this index or of another."""
    return _PATTERN.fullmatch(file) is not None


def damaged_shards(connection: sqlite3.Connection, folder: Path) -> list[str]:
    """What is missing or cut off, as far as a look at the sizes shows it, one line each."""
    found = []
    for file, size in connection.execute("SELECT file, bytes FROM shards ORDER BY id").fetchall():
        path = folder / file
        if problem := size_problem(path.stat().st_size if path.is_file() else None, size):
            found.append(damage_of(path, problem))
    return found


def write_rows(
    folder: Path,
    number: int,
    key: str,
    values: Any,
    digests: list[bytes],
    sizes: list[int],
    names: list[tuple[int, bytes]],
    skipped: list[SkippedRow],
) -> None:
    """Writes a shard atomically.

    Raises:
        `ClipAlignError`: the disk refuses.
    """
    import torch

    from hf_clipalign.features.rows import names_as_tensors
    from hf_clipalign.features.storage.shards import write_shard

    content = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, HASH_BYTES).copy()
    tensors = {
        "values": values.float(),
        "rows": torch.arange(len(digests)),
        "content": torch.from_numpy(content),
        "sizes": torch.tensor(sizes, dtype=torch.int64),
        **names_as_tensors([f"{root}/{_as_text(name)}" for root, name in names]),
    }
    told = [[*row[:1], _as_text(row.name), *row[2:]] for row in skipped]
    write_shard(folder / shard_name(number, key), KIND, key, number, tensors, {"family": key, "skipped": told})


def read_content(folder: Path, number: int, key: str, width: int) -> ShardContent:
    """What a proven shard says.

    Raises:
        `DamagedShard`: it is not as it was written, or another one.
        `OSError`: it cannot be read.
    """
    path = folder / shard_name(number, key)
    about = check_sealed(path)
    check_place(about, KIND, key, number)
    arrays = mapped_arrays(path)
    try:
        content, text, ends = arrays["content"].tobytes(), arrays["id_text"].tobytes(), arrays["id_ends"].tolist()
        digests = [content[start : start + HASH_BYTES] for start in range(0, len(content), HASH_BYTES)]
        pieces = [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=False)]
        names = [_root_name(piece.decode("utf-8", "surrogatepass")) for piece in pieces]
        skipped = [SkippedRow(row[0], _as_bytes(row[1]), *row[2:]) for row in about["meta"]["skipped"]]
        rows = {len(digests), len(names), len(arrays["sizes"]), len(arrays["values"])}
        if len(rows) != 1 or arrays["values"].shape[1:] != (width,):
            raise DamagedShard("its tensors do not fit each other")
        return ShardContent(digests, arrays["sizes"].tolist(), names, skipped, about["sha256"])
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DamagedShard(f"its content makes no sense ({error})") from None


def insert_shard(
    connection: sqlite3.Connection,
    folder: Path,
    number: int,
    key: str,
    digests: Sequence[bytes],
    sizes: Sequence[int],
    known: Collection[bytes] = (),
) -> dict[bytes, int]:
    """Records a shard and its images, without those that are known; the numbers of the images."""
    path = folder / shard_name(number, key)
    header = read_header(path)
    row = (number, path.name, len(digests), header.size, header.about["sha256"])
    connection.execute("INSERT INTO shards (id, file, rows, bytes, sha256) VALUES (?, ?, ?, ?, ?)", row)
    images: dict[bytes, int] = {}
    for place, (digest, size) in enumerate(zip(digests, sizes, strict=True)):
        if digest not in known:
            values = (digest, size, number, place)
            cursor = connection.execute("INSERT INTO images (digest, size, shard, row) VALUES (?, ?, ?, ?)", values)
            images[digest] = int(cursor.lastrowid or 0)
    return images


def next_number(connection: sqlite3.Connection) -> int:
    """The number of the next shard; none is given twice, so that a file name always means the same content."""
    query = "SELECT coalesce((SELECT seq + 1 FROM sqlite_sequence WHERE name = 'shards'), 0)"
    return int(connection.execute(query).fetchone()[0])


def _as_text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _as_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _root_name(text: str) -> tuple[int, bytes]:
    root, _, name = text.partition("/")
    return int(root), _as_bytes(name)
