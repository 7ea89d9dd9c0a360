"""Which images to look at first: a diverse selection, and outliers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.exact import exact_neighbours
from hf_clipalign.search.rows import as_rows, block_ranges

_QUERIES = 256


def select_diverse(embeddings: Any, n: int, *, seed: int = 0, first: int | None = None) -> NDArray[np.int64]:
    """Rows that cover a collection: each next one is the farthest from those chosen so far (greedy k-centre).

    The greedy choice is at most twice as far from its farthest image as the best possible one (Gonzalez, 1985,
    "Clustering to minimize the maximum intercluster distance").

    Args:
        embeddings (`Rows` or array `[N, k]`): unit embeddings, in memory or read block by block.
        n (`int`): how many rows.
        seed (`int`, *optional*, defaults to `0`): of the first row, where `first` is not given.
        first (`int`, *optional*): the row to start with. Defaults to a random one.

    Returns:
        `np.ndarray [n]`: int64, in the order of choice; any beginning of it is the selection of that size.

    Raises:
        `ClipAlignError`: more rows than there are, or a `first` that does not exist.

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_clipalign.search import select_diverse
        >>> select_diverse(np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]], 3, first=0).tolist()
        [0, 2, 4]
        ```
    """
    rows = as_rows(embeddings)
    if check_integer("n", n) > len(rows):
        raise ClipAlignError(f"{counted(n, 'row')} cannot be selected from {len(rows):,}: give at most so many.")
    start = int(np.random.default_rng(seed).integers(len(rows))) if first is None else check_integer("first", first, 0)
    if start >= len(rows):
        raise ClipAlignError(f"first is {start}: rows go from 0 to {len(rows) - 1}.")
    chosen = [start]
    similarity = np.full(len(rows), -np.inf, np.float32)
    similarity[start] = np.inf
    while len(chosen) < n:
        last = rows.take(np.array(chosen[-1:], np.int64))
        for begin, end in block_ranges(rows):
            np.maximum(similarity[begin:end], rows.scores(last, begin, end)[0], out=similarity[begin:end])
        similarity[chosen[-1]] = np.inf
        chosen.append(int(similarity.argmin()))
    return np.array(chosen, np.int64)


def outlier_scores(embeddings: Any, n_neighbours: int = 5) -> NDArray[np.float32]:
    """How far each image is from its nearest others: one minus the mean cosine of its neighbours.

    Args:
        embeddings (`Rows` or array `[N, k]`): unit embeddings.
        n_neighbours (`int`, *optional*, defaults to `5`): how many neighbours count; all others if there are fewer.

    Returns:
        `np.ndarray [N]`: float32; the highest are outliers.

    Raises:
        `ClipAlignError`: fewer than two rows.

    Example:
        ```python
        >>> from hf_clipalign.search import outlier_scores
        >>> outlier_scores(np.eye(2, dtype=np.float32)[[0, 0, 0, 1]], 1).tolist()
        [0.0, 0.0, 0.0, 1.0]
        ```
    """
    rows = as_rows(embeddings)
    if len(rows) < 2:
        raise ClipAlignError(f"{counted(len(rows), 'image')}: an outlier needs others to lie apart from.")
    count = min(check_integer("n_neighbours", n_neighbours), len(rows) - 1)
    scores = np.empty(len(rows), np.float32)
    for begin in range(0, len(rows), _QUERIES):
        end = min(begin + _QUERIES, len(rows))
        found = exact_neighbours(rows, rows.read(begin, end), count + 1)
        others = found.rows != np.arange(begin, end)[:, None]
        others[others.all(1), -1] = False  # so many equal images that its own row is not among them
        scores[begin:end] = 1 - np.where(others, found.scores, 0).sum(1) / count
    return scores
