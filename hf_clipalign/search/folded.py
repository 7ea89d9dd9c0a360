"""A head applied while searching: the query goes through the projector, the stored features stay as they are.

The cosine of a query q `[k]` with a feature x `[w]` behind a projector W `[k, w]` is (W^T q) . x / |W x|. With the
lengths |W x| at hand, one float32 number a row, a search reads the features once and never makes their embeddings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.rows import Rows, as_rows, block_ranges


class ProjectedRows:
    """Unit embeddings `[N, k]` of features `[N, w]` behind a projector, computed where and when they are read.

    Args:
        features (`Rows` or array `[N, w]`): features before the projector.
        matrix (`np.ndarray [k, w]`): the projector.

    Raises:
        `ClipAlignError`: a projector of another width.

    Example:
        ```python
        >>> from hf_clipalign.search.folded import ProjectedRows
        >>> ProjectedRows(np.array([[3.0, 4.0]]), 2 * np.eye(2)).read(0, 1).round(1).tolist()
        [[0.6000000238418579, 0.800000011920929]]
        ```
    """

    def __init__(self, features: Any, matrix: Any) -> None:
        self.features, self.matrix = as_rows(features), np.ascontiguousarray(matrix, dtype=np.float32)
        if self.matrix.ndim != 2 or self.matrix.shape[1] != self.features.width:
            raise ClipAlignError(
                f"a projector of shape {self.matrix.shape} does not fit features of width {self.features.width}."
            )
        self.width = int(self.matrix.shape[0])

    def __len__(self) -> int:
        return len(self.features)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        return unit(self.features.read(start, stop) @ self.matrix.T)

    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        return unit(self.features.take(index) @ self.matrix.T)

    def scores(self, queries: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        return queries @ self.read(start, stop).T


class FoldedRows(ProjectedRows):
    """The same with the lengths of all rows at hand: few queries are compared with the features as they are.

    Args:
        features (`Rows` or array `[N, w]`): features before the projector.
        matrix (`np.ndarray [k, w]`): the projector.
        lengths (`np.ndarray [N]`, *optional*): float32, the lengths of the projected features, as the attribute of
            that name holds them. Defaults to computing them, block by block.

    Raises:
        `ClipAlignError`: a projector of another width, or lengths of another number of rows.

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_clipalign.search import FoldedRows
        >>> rows = FoldedRows(np.array([[3.0, 4.0], [1.0, 0.0]]), 2 * np.eye(2))
        >>> rows.lengths.tolist(), rows.scores(np.eye(2, dtype=np.float32)[:1], 0, 2).tolist()
        ([10.0, 2.0], [[0.6000000238418579, 1.0]])
        ```
    """

    def __init__(self, features: Any, matrix: Any, lengths: NDArray[np.float32] | None = None) -> None:
        super().__init__(features, matrix)
        self.lengths = projected_lengths(self.features, self.matrix) if lengths is None else lengths
        if len(self.lengths) != len(self.features):
            raise ClipAlignError(f"{len(self.lengths)} lengths do not fit {len(self.features)} features.")

    def scores(self, queries: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        if len(queries) > self.width:  # the block is projected once for all of them
            return super().scores(queries, start, stop)
        scores = (queries @ self.matrix) @ self.features.read(start, stop).T
        scores /= self.lengths[start:stop]
        return scores


def projected_lengths(features: Rows, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The lengths of projected features `[N]`, block by block; 1 for a feature that the projector maps to zero."""
    lengths = np.empty(len(features), np.float32)
    for start, stop in block_ranges(features, max(features.width, len(matrix))):
        embeddings = features.read(start, stop) @ matrix.T
        lengths[start:stop] = np.sqrt(np.einsum("nk,nk->n", embeddings, embeddings))
    lengths[lengths == 0] = 1
    return lengths


def unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to unit length in place; rows of zeros stay zero."""
    norms = np.sqrt(np.einsum("nk,nk->n", values, values, dtype=np.float64))
    values /= np.maximum(norms, np.finfo(np.float32).tiny)[:, None].astype(np.float32)
    return values
