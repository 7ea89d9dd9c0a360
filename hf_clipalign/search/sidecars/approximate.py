"""A usearch graph over the embeddings (extra `search`): for collections that are too large to look at every image."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._io.files import atomic_file
from hf_clipalign.search.rows import Rows, block_ranges

_CHUNK = 1 << 22


def is_installed() -> bool:
    """Whether usearch can be imported; looked up without importing it."""
    from importlib.util import find_spec

    return find_spec("usearch") is not None


class GraphLevel:
    """Neighbours by a walk through a graph, whose scores are then compared exactly.

    Args:
        graph (`usearch.index.Index`): keys are rows.
    """

    name = "usearch"
    oversampling = 4

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    @classmethod
    def build(cls, embeddings: Rows) -> GraphLevel:
        """Inserts all rows, block by block; half precision."""
        from usearch.index import Index

        graph = Index(ndim=embeddings.width, metric="ip", dtype="f16")
        for start, stop in block_ranges(embeddings):
            graph.add(np.arange(start, stop), embeddings.read(start, stop))
        return cls(graph)

    def __len__(self) -> int:
        return len(self.graph)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self.graph.memory_usage)

    def save(self, path: Path) -> dict[str, int]:
        """Writes the graph atomically; its size and checksum."""
        with atomic_file(path) as staging:
            self.graph.save(str(staging))
            return file_facts(staging)

    @classmethod
    def load(cls, path: Path) -> GraphLevel:
        """Maps a graph that is known to be as it was written."""
        from usearch.index import Index

        return cls(Index.restore(str(path), view=True))

    def candidates(
        self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Rows of each query that the walk came by, `[Q, n]`, -1 for none and for what may not be found."""
        n = min(n, len(self))
        found = self.graph.search(np.ascontiguousarray(queries, dtype=np.float32), n)
        keys = np.asarray(found.keys, np.int64).reshape(len(queries), -1)
        rows = np.full((len(queries), n), -1, np.int64)
        rows[:, : keys.shape[1]] = keys
        if len(queries) > 1:
            rows[np.arange(n) >= np.asarray(found.counts)[:, None]] = -1
        return rows if allowed is None else np.where((rows >= 0) & allowed[rows], rows, -1)


def file_facts(path: Path) -> dict[str, int]:
    """Size and CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as stream:
        while block := stream.read(_CHUNK):
            checksum = zlib.crc32(block, checksum)
        return {"bytes": stream.tell(), "crc32": checksum}
