"""How well similarities separate pairs of equal labels from pairs of different labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import unit_rows
from hf_clipalign.metrics._inputs import as_floats, as_labels, as_matrix, check_bins, encode_labels

PAIRS_PER_BLOCK = 16384


def histogram_iou(a: Any, b: Any, bins: int = 100, range: tuple[float, float] = (-1, 1)) -> float:
    """Overlap of two histograms: sum of the smaller heights over sum of the larger ones (intersection over union).

    Args:
        a (array): numbers of any shape, for example similarities of positive pairs.
        b (array): numbers of any shape, for example similarities of negative pairs. Each histogram sums to one, so the
            sizes may differ.
        bins (`int`, *optional*, defaults to 100): number of bins of equal width.
        range (`(float, float)`, *optional*, defaults to (-1, 1)): ends of the histogram; what lies beyond counts in
            the last bin on that side.

    Returns:
        0 (apart) to 1 (the same histogram).

    Raises:
        `ClipAlignError`: One side is empty or holds NaN, or there is no bin.

    Example:
        ```python
        >>> histogram_iou([0.1, 0.1], [0.9, 0.9])
        0.0
        ```
    """
    check_bins(bins)
    heights = [_histogram(values, name, bins, range) for values, name in ((a, "a"), (b, "b"))]
    return float(np.minimum(*heights).sum() / np.maximum(*heights).sum())


def pair_similarities(
    features: Any,
    labels: Any,
    max_pairs: int | None = 200_000,
    seed: int = 0,
    other: Any = None,
    other_labels: Any = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines of pairs with equal labels and of pairs with different labels.

    Pairs are drawn uniformly and without repetition, and only drawn pairs are computed.

    Args:
        features (array `[N, d]`): features.
        labels (array): N integers or strings.
        max_pairs (`int`, *optional*, defaults to 200,000): most pairs per kind; None takes all.
        seed (`int`, *optional*, defaults to 0): seed of the draw.
        other (array `[M, d]`, *optional*): features to pair with, for example texts with images; by default pairs lie
            within `features`, none with itself.
        other_labels (array, *optional*): M labels of `other`.

    Returns:
        (positive, negative), 1-D float32 arrays.

    Raises:
        `ClipAlignError`: Shapes do not fit, features are not finite, there is no pair of one kind, or none is asked
            for.

    Example:
        ```python
        >>> positive, negative = pair_similarities([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], [0, 0, 1])
        >>> positive.tolist(), negative.tolist()
        ([1.0], [0.0, 0.0])
        ```
    """
    if (other is None) != (other_labels is None):
        raise ClipAlignError("give other and other_labels together, or neither")
    if max_pairs is not None:
        check_integer("max_pairs", max_pairs)
    left = unit_rows(as_matrix(features, "features"))
    within = other is None
    right = left if within else unit_rows(as_matrix(other, "other", left.device))
    if left.shape[1] != right.shape[1]:
        raise ClipAlignError(f"features has {left.shape[1]} dimensions and other has {right.shape[1]}")
    left_labels = as_labels(labels, "labels", len(left))
    right_labels = left_labels if within else as_labels(other_labels, "other_labels", len(right))
    left_labels, right_labels = encode_labels(left_labels, right_labels)
    rng = np.random.default_rng(seed)
    kinds = []
    for name, pairs in zip(("equal", "different"), _pair_sets(left_labels, right_labels, within), strict=True):
        drawn = pairs.draw(max_pairs, rng)
        if not len(drawn[0]):
            raise ClipAlignError(f"there is no pair with {name} labels")
        kinds.append(_cosines(left, right, *drawn))
    return kinds[0], kinds[1]


class _Pairs:
    """A numbered set of pairs that is never listed: row i goes with `counts[i]` places of `order`, from `first[i]` on.

    Places from `gap_start[i]` on move up by `gap[i]`, which jumps over a run of equal labels.
    """

    def __init__(
        self, rows: NDArray, order: NDArray, counts: NDArray, first: NDArray, gap_start: NDArray, gap: NDArray
    ) -> None:
        self.rows, self.order, self.first, self.gap_start, self.gap = rows, order, first, gap_start, gap
        self.ends = np.cumsum(counts)

    def draw(self, max_pairs: int | None, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        """Indices (left, right) of all pairs, or of `max_pairs` of them."""
        total = int(self.ends[-1])
        few = max_pairs is None or total <= max_pairs
        number = np.arange(total) if few else rng.choice(total, max_pairs, replace=False, shuffle=False)
        i = np.searchsorted(self.ends, number, side="right")
        previous = np.concatenate([[0], self.ends[:-1]])
        place = self.first[i] + number - previous[i]
        place = place + np.where(place >= self.gap_start[i], self.gap[i], 0)
        return self.rows[i], self.order[place]


def _pair_sets(left: NDArray, right: NDArray, within: bool) -> tuple[_Pairs, _Pairs]:
    """(pairs of equal labels, pairs of different labels). Within one set, every unordered pair occurs once."""
    order = np.argsort(right, kind="stable")
    rows = order if within else np.arange(len(left))
    start = np.searchsorted(right[order], left[rows], side="left")
    end = np.searchsorted(right[order], left[rows], side="right")
    none = np.full(len(rows), len(order)), np.zeros(len(rows), dtype=np.int64)
    if within:
        later = np.arange(1, len(rows) + 1)
        return _Pairs(rows, order, end - later, later, *none), _Pairs(rows, order, len(order) - end, end, *none)
    size = end - start
    zero = np.zeros(len(rows), dtype=np.int64)
    return _Pairs(rows, order, size, start, *none), _Pairs(rows, order, len(order) - size, zero, start, size)


def _cosines(left: Tensor, right: Tensor, i: NDArray, j: NDArray) -> NDArray[np.float32]:
    blocks = zip(*(torch.as_tensor(k, device=left.device).split(PAIRS_PER_BLOCK) for k in (i, j)), strict=True)
    return torch.cat([(left[a] * right[b]).sum(1) for a, b in blocks]).cpu().numpy()


def _histogram(values: Any, name: str, bins: int, ends: tuple[float, float]) -> NDArray:
    flat = as_floats(values, name).ravel()
    if not flat.size or np.isnan(flat).any():
        raise ClipAlignError(f"{name} must hold at least one number and no NaN, got {flat.size} numbers")
    return np.histogram(flat.clip(*ends), bins=bins, range=ends)[0] / flat.size
