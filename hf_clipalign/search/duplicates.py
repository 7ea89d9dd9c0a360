"""Near-duplicate pairs and groups: exactly those of brute force, without its cost.

Embeddings are rotated into their principal directions and cut: h holds the first p coordinates, r the length of the
rest. By Cauchy-Schwarz x · y <= h_x · h_y + r_x r_y, one matrix product of p + 1 columns instead of k. Only pairs
whose bound reaches the threshold are compared in full. Rows are visited in the order of their first coordinate: two
rows whose first coordinates are further apart than sqrt(2 - 2 threshold) cannot be near duplicates, so whole blocks
are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.numbers import check_number
from hf_clipalign.search.rows import Rows, as_rows, block_ranges

_BLOCK = 2048
_SAMPLE = 20_000
_PROBES = 2_000
_DIMENSIONS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_COST_OF_A_CANDIDATE = 400.0
"""In multiplications per pair: reading two rows and comparing them costs about this much more than one column."""
_ROUNDING = 2e-5
_CHUNK = 1 << 18


class DuplicatePairs(NamedTuple):
    """Pairs of rows at or above a threshold, ordered by row.

    Attributes:
        first, second (`np.ndarray [P]`): int64, `first < second`.
        scores (`np.ndarray [P]`): float32 cosines.

    Example:
        ```python
        >>> from hf_clipalign.search import DuplicatePairs
        >>> DuplicatePairs(np.array([0]), np.array([2]), np.array([0.97])).second.tolist()
        [2]
        ```
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    scores: NDArray[np.float32]


def near_duplicates(embeddings: Any, threshold: float = 0.95) -> DuplicatePairs:
    """All pairs of rows whose cosine is at least `threshold`.

    The pairs are the same as those of comparing every row with every other; a cosine is the float64 dot product of the
    float32 rows, so it depends on the two rows only. Memory: p + 1 float32 numbers a row (p at most 256, chosen from
    the data), one block of rows, and the pairs.

    Args:
        embeddings (`Rows` or array `[N, k]`): unit embeddings, in memory or read block by block.
        threshold (`float`, *optional*, defaults to `0.95`): smallest cosine, in (0, 1].

    Returns:
        `DuplicatePairs`.

    Raises:
        `ClipAlignError`: a threshold out of range.

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_clipalign.search import near_duplicates
        >>> pairs = near_duplicates(np.eye(3, dtype=np.float32)[[0, 1, 0, 2]], threshold=0.9)
        >>> pairs.first.tolist(), pairs.second.tolist()
        ([0], [2])
        ```
    """
    blocks = list(iterate_near_duplicates(embeddings, threshold))
    if not blocks:
        return DuplicatePairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    pairs = DuplicatePairs(*(np.concatenate(part) for part in zip(*blocks, strict=True)))
    order = np.lexsort((pairs.second, pairs.first))
    return DuplicatePairs(pairs.first[order], pairs.second[order], pairs.scores[order])


def iterate_near_duplicates(embeddings: Any, threshold: float = 0.95) -> Iterator[DuplicatePairs]:
    """The pairs of `near_duplicates` in pieces, for collections whose pairs do not fit into memory.

    Args:
        embeddings (`Rows` or array `[N, k]`): unit embeddings.
        threshold (`float`, *optional*, defaults to `0.95`): smallest cosine, in (0, 1].

    Returns:
        `Iterator[DuplicatePairs]`: in no particular order.

    Raises:
        `ClipAlignError`: a threshold out of range.

    Example:
        ```python
        >>> from hf_clipalign.search import iterate_near_duplicates
        >>> sum(len(pairs.first) for pairs in iterate_near_duplicates(np.ones((3, 1), np.float32)))
        3
        ```
    """
    check_number("threshold", threshold, "a number above 0, at most 1", above=0, most=1)
    rows = as_rows(embeddings)
    if len(rows) < 2:
        return
    order, heads = _sorted_heads(rows, threshold)
    reach = float(np.sqrt(max(0.0, 2 - 2 * threshold))) + _ROUNDING
    lead = heads[:, 0]
    for start in range(0, len(rows), _BLOCK):
        stop = min(start + _BLOCK, len(rows))
        last = int(np.searchsorted(lead, lead[stop - 1] + reach, side="right"))
        for begin in range(start, last, _BLOCK):
            end = min(begin + _BLOCK, last)
            bound = heads[start:stop] @ heads[begin:end].T
            if begin == start:
                bound[np.tril_indices(stop - start, 0, end - begin)] = -np.inf
            left, right = np.nonzero(bound >= threshold - _ROUNDING)
            yield from _confirmed(rows, order[start:stop][left], order[begin:end][right], threshold)


def duplicate_groups(n: int, pairs: DuplicatePairs) -> list[list[int]]:
    """Rows that are linked by pairs, directly or through others: groups of two and more, each sorted, by first row.

    Args:
        n (`int`): number of rows.
        pairs (`DuplicatePairs`): the links.

    Returns:
        `list[list[int]]`.

    Example:
        ```python
        >>> from hf_clipalign.search import duplicate_groups, near_duplicates
        >>> duplicate_groups(4, near_duplicates(np.eye(3, dtype=np.float32)[[0, 1, 0, 2]]))
        [[0, 2]]
        ```
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(pairs.first), bool), (pairs.first, pairs.second)), shape=(n, n))
    label = connected_components(links, directed=False)[1]
    order = np.argsort(label, kind="stable")
    ends = np.flatnonzero(np.diff(label[order])) + 1
    return sorted(group.tolist() for group in np.split(order, ends) if len(group) > 1)


def _confirmed(
    rows: Rows, left: NDArray[np.int64], right: NDArray[np.int64], threshold: float
) -> Iterator[DuplicatePairs]:
    """Those of the candidates whose cosine reaches the threshold."""
    for start in range(0, len(left), _CHUNK):
        pair = np.sort(np.stack([left[start : start + _CHUNK], right[start : start + _CHUNK]]), axis=0)
        needed, place = np.unique(pair, return_inverse=True)
        vectors = rows.take(needed).astype(np.float64)
        first, second = place.reshape(pair.shape)
        scores = np.concatenate(
            [
                np.einsum("nk,nk->n", vectors[first[a : a + 4096]], vectors[second[a : a + 4096]])
                for a in range(0, len(first), 4096)
            ]
        ).astype(np.float32)
        kept = scores >= np.float32(threshold)
        if kept.any():
            yield DuplicatePairs(pair[0][kept], pair[1][kept], scores[kept])


def _sorted_heads(rows: Rows, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Row numbers in the order of the first coordinate, and (h, r) of the rows in that order, `[N, p + 1]`."""
    sample = rows.take(np.sort(np.random.default_rng(0).permutation(len(rows))[:_SAMPLE]))
    directions = np.linalg.eigh(sample.T.astype(np.float64) @ sample)[1][:, ::-1].astype(np.float32)
    p = _cheapest_cut(sample[:_PROBES] @ directions, threshold)
    heads = np.empty((len(rows), p + 1), np.float32)
    for start, stop in block_ranges(rows):
        block = rows.read(start, stop)
        heads[start:stop, :p] = block @ directions[:, :p]
        rest = np.einsum("nk,nk->n", block, block) - np.einsum("nk,nk->n", *[heads[start:stop, :p]] * 2)
        heads[start:stop, p] = np.sqrt(np.maximum(rest, 0) + 1e-7)
    order = np.argsort(heads[:, 0], kind="stable")
    return order, np.take(heads, order, axis=0)


def _cheapest_cut(rotated: NDArray[np.float32], threshold: float) -> int:
    """The number of coordinates with the smallest cost a pair, measured on pairs of a sample."""
    width = rotated.shape[1]
    costs: dict[int, float] = {}
    for p in sorted({min(p, width) for p in _DIMENSIONS}):
        rest = np.sqrt(np.maximum(0, (rotated[:, p:] ** 2).sum(1)))
        bound = rotated[:, :p] @ rotated[:, :p].T + np.outer(rest, rest)
        n = len(rotated)
        candidates = ((bound >= threshold - _ROUNDING).sum() - n) / max(1, n * (n - 1))
        costs[p] = p + _COST_OF_A_CANDIDATE * float(candidates)
    return min(costs, key=lambda p: (costs[p], p))
