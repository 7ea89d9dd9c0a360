"""Exact nearest neighbours by blocked matrix products."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.search.rows import Rows, block_ranges

_FEW = 1 / 16
"""Below this share of allowed rows, reading them one by one is cheaper than the blocks that they lie in."""


class Neighbours(NamedTuple):
    """The best rows of each query, best first; equal scores are ordered by row.

    Attributes:
        rows (`np.ndarray [Q, K]`): int64; -1 where fewer than K rows were allowed.
        scores (`np.ndarray [Q, K]`): float32; -inf there.

    Example:
        ```python
        >>> from hf_clipalign.search import Neighbours
        >>> Neighbours(np.array([[3, -1]]), np.array([[0.9, -np.inf]])).rows.tolist()
        [[3, -1]]
        ```
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def exact_neighbours(
    embeddings: Rows, queries: NDArray[np.float32], top_k: int, allowed: NDArray[np.bool_] | None = None
) -> Neighbours:
    """The `top_k` rows with the highest dot product; memory is bounded by one block.

    Args:
        embeddings (`Rows` `[N, k]`): unit embeddings.
        queries (`np.ndarray [Q, k]`): float32, of unit length.
        top_k (`int`): how many; all rows if there are fewer.
        allowed (`np.ndarray [N]`, *optional*): of bool: which rows may be found. Defaults to all.

    Returns:
        `Neighbours`.

    Example:
        ```python
        >>> from hf_clipalign.search import as_rows, exact_neighbours
        >>> rows = np.eye(3, dtype=np.float32)
        >>> exact_neighbours(as_rows(rows), rows[:1], 2).rows.tolist()
        [[0, 1]]
        ```
    """
    top_k = min(top_k, len(embeddings))
    best = Neighbours(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
    if allowed is not None and allowed.sum() < _FEW * len(embeddings):
        index = np.flatnonzero(allowed)
        scores = queries @ embeddings.take(index).T
        return _padded(merge(best, index, scores, top_k), top_k)
    for start, stop in block_ranges(embeddings):
        scores = embeddings.scores(queries, start, stop)
        if allowed is not None:
            scores[:, ~allowed[start:stop]] = -np.inf
        best = merge(best, np.arange(start, stop), scores, top_k)
    return _padded(best, top_k)


def rescored(embeddings: Rows, queries: NDArray[np.float32], candidates: NDArray[np.int64], top_k: int) -> Neighbours:
    """The best of each query's candidates `[Q, M]` (-1 for none) by their exact scores."""
    valid = candidates >= 0
    wanted, place = np.unique(candidates[valid], return_inverse=True)
    vectors = embeddings.take(wanted)
    scores = np.full(candidates.shape, -np.inf, np.float32)
    owner = np.nonzero(valid)[0]
    scores[valid] = np.einsum("nk,nk->n", vectors[place], queries[owner])
    order = np.lexsort((candidates, -scores))[:, :top_k]
    rows, kept = np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1)
    return _padded(Neighbours(np.where(np.isfinite(kept), rows, -1), kept), top_k)


def merge(best: Neighbours, rows: NDArray[np.int64], scores: NDArray[np.float32], top_k: int) -> Neighbours:
    """The `top_k` best of those found so far and of a block `[Q, B]`."""
    columns = _strongest(scores, top_k)
    found = np.concatenate([best.rows, rows[columns]], axis=1)
    values = np.concatenate([best.scores, np.take_along_axis(scores, columns, 1)], axis=1)
    order = np.lexsort((found, -values))[:, :top_k]
    found, values = np.take_along_axis(found, order, 1), np.take_along_axis(values, order, 1)
    return Neighbours(np.where(values > -np.inf, found, -1), values)


def _strongest(scores: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """Columns of the `top_k` highest scores of each row, of equal ones the first, in no particular order."""
    n = scores.shape[1]
    if n <= top_k:
        return np.broadcast_to(np.arange(n), scores.shape)
    columns = np.argpartition(scores, n - top_k, axis=1)[:, n - top_k :]
    lowest = np.take_along_axis(scores, columns, 1).min(1, keepdims=True)
    tied = np.flatnonzero((scores == lowest).sum(1) > (np.take_along_axis(scores, columns, 1) == lowest).sum(1))
    for row in tied:
        columns[row] = np.lexsort((np.arange(n), -scores[row]))[:top_k]
    return columns


def _padded(found: Neighbours, top_k: int) -> Neighbours:
    missing = top_k - found.rows.shape[1]
    if missing <= 0:
        return found
    shape = (len(found.rows), missing)
    rows = np.concatenate([found.rows, np.full(shape, -1, np.int64)], 1)
    return Neighbours(rows, np.concatenate([found.scores, np.full(shape, -np.inf, np.float32)], 1))
