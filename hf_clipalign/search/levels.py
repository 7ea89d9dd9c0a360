"""Compressed embeddings that find candidates, which are then compared exactly: bytes and sign bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign.search.exact import Neighbours, merge, rescored
from hf_clipalign.search.rows import Rows, as_rows, block_ranges

_SCALE = 127
_SCORES_BLOCK = 4 * 2**20
_CONVERTED = 2**18
"""Bytes of the block that is converted to float32 at a time: it stays in the processor's cache, and is ten times as
fast there as a block of 16 MB."""
_HALF = 1 << 16
_BITS_BLOCK = 1 << 16
_FEW_QUERIES = 4
"""Above it a product with the unpacked signs is faster than a table for each query."""


class ByteLevel:
    """int8 embeddings, each with the scale of its largest coordinate.

    A quarter of float32 and two bytes a row. The query stays in float32.

    Args:
        codes (`np.ndarray [N, k]`): int8.
        scales (`np.ndarray [N]`): float16.

    Example:
        ```python
        >>> from hf_clipalign.search import ByteLevel
        >>> ByteLevel.build(np.eye(3, dtype=np.float32)).codes.dtype
        dtype('int8')
        ```
    """

    name = "int8"
    oversampling = 2

    def __init__(self, codes: NDArray[np.int8], scales: NDArray[np.float16]) -> None:
        self.codes, self.scales = codes, scales

    @classmethod
    def build(cls, embeddings: Any) -> ByteLevel:
        """Compresses embeddings `[N, k]`, block by block."""
        rows = as_rows(embeddings)
        codes, scales = np.empty((len(rows), rows.width), np.int8), np.empty(len(rows), np.float16)
        for start, stop in block_ranges(rows):
            block = rows.read(start, stop)
            # rounded up first, so that the codes are those of the scale that is kept
            scale = np.nextafter((np.abs(block).max(1) / _SCALE).astype(np.float16), np.float16(np.inf))
            codes[start:stop] = np.rint(block / scale.astype(np.float32)[:, None])
            scales[start:stop] = scale
        return cls(codes, scales)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes in memory or on the disk."""
        return self.codes.nbytes + self.scales.nbytes

    def candidates(
        self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """The n rows of each query with the highest compressed scores, `[Q, n]`, -1 for none."""
        block = np.empty((_n_converted(self.codes.shape[1]), self.codes.shape[1]), np.float32)

        def decoded(start: int, stop: int) -> NDArray[np.float32]:
            np.copyto(block[: stop - start], self.codes[start:stop])
            return block[: stop - start]

        return _best_by_products(queries, decoded, len(self), n, allowed, self.scales)


class BitLevel:
    """Sign bits of embeddings, for a float query: a thirty-second of float32.

    The score of a row is the sum of the query's coordinates with the row's signs. For every sixteen bits the 65,536
    possible sums are computed once a query; a row then costs one look-up for sixteen coordinates. Many queries share a
    matrix product with the signs instead.

    Args:
        codes (`np.ndarray [ceil(k / 16), N]`): uint16, the bits of coordinates 16 j to 16 j + 15 in row j.
        width (`int`): k.

    Example:
        ```python
        >>> from hf_clipalign.search import BitLevel
        >>> BitLevel.build(np.eye(3, dtype=np.float32)).codes.tolist()
        [[1, 2, 4]]
        ```
    """

    name = "bits"
    oversampling = 20

    def __init__(self, codes: NDArray[np.uint16], width: int) -> None:
        self.codes, self.width = codes, width

    @classmethod
    def build(cls, embeddings: Any) -> BitLevel:
        """Compresses embeddings `[N, k]`, block by block."""
        rows = as_rows(embeddings)
        n_words = -(-rows.width // 16)
        codes = np.empty((n_words, len(rows)), np.uint16)
        for start, stop in block_ranges(rows):
            signs = np.zeros((stop - start, 16 * n_words), bool)
            signs[:, : rows.width] = rows.read(start, stop) > 0
            codes[:, start:stop] = np.packbits(signs, axis=1, bitorder="little").view("<u2").T
        return cls(codes, rows.width)

    def __len__(self) -> int:
        return self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes in memory or on the disk."""
        return self.codes.nbytes

    def candidates(
        self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """The n rows of each query with the highest compressed scores, `[Q, n]`, -1 for none."""
        if len(queries) > _FEW_QUERIES:
            padded = np.pad(queries, ((0, 0), (0, 16 * len(self.codes) - self.width)))
            return _best_by_products(padded, self._signs, len(self), n, allowed)
        found = np.full((len(queries), min(n, len(self))), -1, np.int64)
        for number, query in enumerate(queries):
            tables = self._tables(query)
            best = _nothing(1)
            for start in range(0, len(self), _BITS_BLOCK):
                codes = self.codes[:, start : start + _BITS_BLOCK]
                scores = np.zeros((1, codes.shape[1]), np.float32)
                for table, words in zip(tables, codes, strict=True):
                    scores[0] += table[words]
                best = _merged(best, start, scores, n, allowed)
            found[number, : best.rows.shape[1]] = best.rows[0]
        return found

    def _signs(self, start: int, stop: int) -> NDArray[np.float32]:
        """1 and -1 of rows `start` to `stop`, `[stop - start, 16 ceil(k / 16)]`."""
        words = np.ascontiguousarray(self.codes[:, start:stop].T, "<u2")
        return 2 * np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(np.float32) - 1

    def _tables(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sums of sixteen coordinates for all their signs, `[ceil(k / 16), 65536]`."""
        padded = np.zeros(16 * len(self.codes), np.float32)
        padded[: self.width] = query
        bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
        halves = padded.reshape(-1, 2, 8) @ (2 * bits - 1).T.astype(np.float32)
        return (halves[:, 1, :, None] + halves[:, 0, None, :]).reshape(len(self.codes), _HALF)


Level = ByteLevel | BitLevel


def approximate_neighbours(
    level: Level,
    embeddings: Rows,
    queries: NDArray[np.float32],
    top_k: int,
    *,
    oversampling: int | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> Neighbours:
    """The best of `oversampling * top_k` candidates of a compressed level, by their exact scores.

    Args:
        level (`ByteLevel` or `BitLevel`): compressed from the same embeddings.
        embeddings (`Rows` `[N, k]`): unit embeddings; only the candidates are read.
        queries (`np.ndarray [Q, k]`): float32, of unit length.
        top_k (`int`): how many.
        oversampling (`int`, *optional*): candidates for each result. Defaults to the level's own.
        allowed (`np.ndarray [N]`, *optional*): of bool: which rows may be found. Defaults to all.

    Returns:
        `Neighbours`.

    Example:
        ```python
        >>> from hf_clipalign.search import ByteLevel, approximate_neighbours, as_rows
        >>> rows = np.eye(3, dtype=np.float32)
        >>> approximate_neighbours(ByteLevel.build(rows), as_rows(rows), rows[:1], 1).rows.tolist()
        [[0]]
        ```
    """
    factor = level.oversampling if oversampling is None else check_integer("oversampling", oversampling)
    top_k = min(top_k, len(level))
    return rescored(embeddings, queries, level.candidates(queries, factor * top_k, allowed), top_k)


def _n_converted(width: int) -> int:
    """Rows of that width that are converted to float32 at a time."""
    return max(1, _CONVERTED // (4 * width))


def _best_by_products(
    queries: NDArray[np.float32],
    decoded: Callable[[int, int], NDArray[np.float32]],
    n_rows: int,
    n: int,
    allowed: NDArray[np.bool_] | None,
    scales: NDArray[np.float16] | None = None,
) -> NDArray[np.int64]:
    """The n rows of each query with the highest products with decoded rows, times their scales, `[Q, n]`."""
    best, width = _nothing(len(queries)), queries.shape[1]
    size, part = max(1, _SCORES_BLOCK // (4 * max(1, len(queries)))), _n_converted(width)
    for start in range(0, n_rows, size):
        stop = min(start + size, n_rows)
        scores = np.empty((len(queries), stop - start), np.float32)
        for first in range(start, stop, part):
            last = min(first + part, stop)
            np.matmul(queries, decoded(first, last).T, out=scores[:, first - start : last - start])
        if scales is not None:
            scores *= scales[start:stop]
        best = _merged(best, start, scores, n, allowed)
    return best.rows


def _nothing(n_queries: int) -> Neighbours:
    return Neighbours(np.empty((n_queries, 0), np.int64), np.empty((n_queries, 0), np.float32))


def _merged(
    best: Neighbours, start: int, scores: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None
) -> Neighbours:
    if allowed is not None:
        scores[:, ~allowed[start : start + scores.shape[1]]] = -np.inf
    return merge(best, np.arange(start, start + scores.shape[1]), scores, n)
