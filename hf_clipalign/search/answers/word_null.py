"""Whether the best hit of a text stands out more than those of texts that have nothing to do with the collection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.exact import exact_neighbours
from hf_clipalign.search.rows import Rows, as_rows

_SAMPLE = 2000
FEWEST_IMAGES, _FEWEST_TEXTS = 20, 50


@dataclass(frozen=True, eq=False)
class WordNull:
    """How far the best hits of unrelated texts stand out of all scores of the same text. Make one with `fit`.

    Texts differ in how near they are to all images, so that a flat cut-off on the cosine fails. Here the best score is
    taken in standard deviations from the mean score of the same text. No images of a text are known, so this says how
    seldom an unrelated text does as well, and not how likely a hit is right.

    Attributes:
        values (`np.ndarray [M]`): of the unrelated texts, ascending.
        n_gallery (`int`): images in the collection at the time.

    Example:
        ```python
        >>> from hf_clipalign.search import WordNull
        >>> random = np.random.default_rng(0)
        >>> images, texts = random.standard_normal((200, 16)), random.standard_normal((100, 16))
        >>> null = WordNull.fit(images, texts)
        >>> bool(null.rarity(images, images[:1])[0] > 0.9)
        True
        ```
    """

    values: NDArray[np.float64]
    n_gallery: int

    @classmethod
    def fit(cls, embeddings: Any, texts: Any) -> WordNull:
        """Measures unrelated texts.

        Args:
            embeddings (`Rows` or array `[N, d]`): unit embeddings of the images under the raw head.
            texts (array `[M, d]`): unit embeddings of M texts, such as words of `load_dictionary` in the template that
                queries are asked in. Those that happen to be in the collection make the result more cautious.

        Returns:
            `WordNull`.

        Raises:
            `ClipAlignError`: fewer than 20 images or 50 texts.

        Example:
            ```python
            >>> random = np.random.default_rng(0)
            >>> len(WordNull.fit(random.standard_normal((50, 8)), random.standard_normal((60, 8))).values)
            60
            ```
        """
        rows, queries = as_rows(embeddings), np.asarray(texts, np.float32)
        if len(rows) < FEWEST_IMAGES or len(queries) < _FEWEST_TEXTS:
            raise ClipAlignError(
                f"{counted(len(queries), 'text')} on {counted(len(rows), 'image')} are too few to measure unrelated "
                f"texts: it takes {_FEWEST_TEXTS} on {FEWEST_IMAGES}."
            )
        best = exact_neighbours(rows, queries, 1).scores.astype(np.float64)
        found = _standing_out(rows, queries, best)[:, 0]
        return cls(np.sort(found), len(rows))

    def rarity(self, embeddings: Any, texts: Any) -> NDArray[np.float64]:
        """The share of unrelated texts whose best hit stands out less.

        With a cut-off at `1 - a`, about a share `a` of texts that have nothing to do with the collection is answered.

        Args:
            embeddings (`Rows` or array `[N, d]`): as in `fit`.
            texts (array `[Q, d]`): unit embeddings of the queries.

        Returns:
            `np.ndarray [Q]`: from 0 to just below 1.

        Example:
            ```python
            >>> random = np.random.default_rng(0)
            >>> images = random.standard_normal((50, 8))
            >>> WordNull.fit(images, random.standard_normal((60, 8))).rarity(images, images[:3]).shape
            (3,)
            ```
        """
        rows, queries = as_rows(embeddings), np.asarray(texts, np.float32)
        return self.rarity_of_hits(rows, queries, exact_neighbours(rows, queries, 1).scores)[:, 0]

    def rarity_of_hits(self, embeddings: Any, texts: Any, scores: Any) -> NDArray[np.float64]:
        """The same for any hits of the texts, as if each were the best one.

        Args:
            embeddings (`Rows` or array `[N, d]`): as in `fit`.
            texts (array `[Q, d]`): unit embeddings of the queries.
            scores (array `[Q, K]`): cosines of hits of each; -inf for none.

        Returns:
            `np.ndarray [Q, K]`: from 0 to just below 1.

        Example:
            ```python
            >>> random = np.random.default_rng(0)
            >>> images = random.standard_normal((50, 8))
            >>> null = WordNull.fit(images, random.standard_normal((60, 8)))
            >>> null.rarity_of_hits(images, images[:1], [[1e9, -np.inf]]).round(2).tolist()
            [[0.98, 0.0]]
            ```
        """
        queries = np.asarray(texts, np.float32)
        found = _standing_out(as_rows(embeddings), queries, np.asarray(scores, np.float64))
        return np.searchsorted(self.values, found, side="left") / (len(self.values) + 1)


def _standing_out(rows: Rows, queries: NDArray[np.float32], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores `[Q, K]` in standard deviations from the mean of the same query, over at most 2,000 images."""
    sample = queries @ rows.take(np.unique(np.linspace(0, len(rows) - 1, _SAMPLE).astype(np.int64))).T
    mean, spread = (getattr(sample, name)(axis=1, dtype=np.float64, keepdims=True) for name in ("mean", "std"))
    return np.where(
        spread > 1e-6, (scores - mean) / np.maximum(spread, 1e-6), np.where(scores > -np.inf, 0.0, -np.inf)
    )
