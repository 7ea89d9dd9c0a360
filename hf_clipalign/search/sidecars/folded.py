"""The head folded into the query: exact scores of stored features without a projection of every image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.search.exact import Neighbours, merge
from hf_clipalign.search.rows import Rows, block_ranges


class FoldedLevel:
    """Stored features, compared with queries that are projected back to them.

    With `x` a stored feature, `W` the head and `q` a query, the cosine is `q · W x / |W x| = (Wᵀ q) · x / |W x|`: one
    product of the width of the features for each image, where projecting it would take as many as the head has
    dimensions. Only the lengths `|W x|` are kept, four bytes an image.

    Args:
        features (`Rows` `[N, w]`): as stored.
        matrix (`np.ndarray [k, w]`): the head.
        lengths (`np.ndarray [N]`): float32.
    """

    name = "exact"
    oversampling = 2

    def __init__(self, features: Rows, matrix: NDArray[np.float32], lengths: NDArray[np.float32]) -> None:
        self.features, self.matrix, self.lengths = features, matrix, lengths

    @classmethod
    def build(cls, features: Rows, matrix: NDArray[np.float32]) -> FoldedLevel:
        """Projects all features once, block by block."""
        lengths = np.empty(len(features), np.float32)
        for start, stop in block_ranges(features):
            lengths[start:stop] = np.linalg.norm(features.read(start, stop) @ matrix.T, axis=1)
        return cls(features, matrix, np.maximum(lengths, np.finfo(np.float32).tiny))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of the lengths."""
        return self.lengths.nbytes

    def candidates(
        self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """The n rows of each query with the highest scores, `[Q, n]`, -1 for none."""
        folded = np.ascontiguousarray((queries @ self.matrix).T)
        best = Neighbours(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
        for start, stop in block_ranges(self.features):
            scores = (self.features.read(start, stop) @ folded).T / self.lengths[start:stop]
            if allowed is not None:
                scores[:, ~allowed[start:stop]] = -np.inf
            best = merge(best, np.arange(start, stop), scores, n)
        return best.rows
