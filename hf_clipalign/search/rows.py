"""Embeddings that are read block by block, wherever they are: an array in memory, a memory map, shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError

BLOCK_BYTES = 32 * 2**20
"""Size of a block in float32: large enough for the matrix product, small enough to stay near the processor."""


class Rows(Protocol):
    """Embeddings `[N, k]` of which any part can be read as float32."""

    width: int

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop`, `[stop - start, k]`; the caller does not write to them."""
        ...

    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows of these positions in this order, `[len(index), k]`."""
        ...

    def scores(self, queries: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        """Dot products of queries `[Q, k]` with rows `start` to `stop`, `[Q, stop - start]`, a new array."""
        ...


class ArrayRows:
    """An array or a memory map as `Rows`.

    Args:
        values (`np.ndarray [N, k]`): any floating type; it is converted block by block, never as a whole.

    Raises:
        `ClipAlignError`: no matrix.

    Example:
        ```python
        >>> from hf_clipalign.search import ArrayRows
        >>> ArrayRows(np.eye(3)).read(1, 3).shape
        (2, 3)
        ```
    """

    def __init__(self, values: Any) -> None:
        if getattr(values, "ndim", 0) != 2:
            raise ClipAlignError(f"embeddings must be a matrix [rows, columns], got shape {np.shape(values)}.")
        self.values = values
        self.width = int(values.shape[1])

    def __len__(self) -> int:
        return len(self.values)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        return np.asarray(self.values[start:stop], dtype=np.float32)

    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self.values[index], dtype=np.float32)

    def scores(self, queries: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        return queries @ self.read(start, stop).T


def as_rows(values: Any) -> Rows:
    """`values` itself if it can be read block by block, else an array or tensor as `Rows`.

    Args:
        values (`Rows`, `np.ndarray` or `Tensor` `[N, k]`): embeddings.

    Raises:
        `ClipAlignError`: no matrix.

    Example:
        ```python
        >>> from hf_clipalign.search import as_rows
        >>> len(as_rows(torch.eye(4)))
        4
        ```
    """
    if all(hasattr(values, name) for name in ("read", "take", "scores", "width")):
        return values
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return ArrayRows(np.asanyarray(values))


def block_ranges(rows: Rows, width: int | None = None) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive blocks of about `BLOCK_BYTES` in float32."""
    size = max(1, BLOCK_BYTES // (4 * (width or max(1, rows.width))))
    for start in range(0, len(rows), size):
        yield start, min(start + size, len(rows))
