"""Confidence intervals by resampling queries, or whole groups of queries."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.sequences import as_array
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics._inputs import as_floats

Interval = tuple[Any, Any, Any]

BLOCK_BYTES = 64 * 2**20


def bootstrap_interval(
    values: Any, groups: Any = None, n_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of `values` with its percentile bootstrap interval (Efron 1979).

    Args:
        values (array `[N]` or `[N, M]`): one number per query, or M metrics, which share the resamples. NaN entries
            are left out.
        groups (array `[N]`, *optional*): labels; queries of one group are drawn together (cluster bootstrap). Use it
            where queries of one concept are alike, or the interval comes out too narrow.
        n_resamples (`int`, *optional*, defaults to 2000): number of resamples.
        level (`float`, *optional*, defaults to 0.95): coverage, between 0 and 1.
        seed (`int`, *optional*, defaults to 0): seed of the resampling.

    Returns:
        (mean, low, high): floats for [N], arrays [M] for [N, M].

    Raises:
        `ClipAlignError`: A column is empty or all NaN, lengths differ, or `level` is outside (0, 1).

    Example:
        ```python
        >>> mean, low, high = bootstrap_interval([0.0, 1.0, 1.0, 1.0])
        >>> mean
        0.75
        ```
    """
    table = as_floats(values, "values")
    columns = table[:, None] if table.ndim == 1 else table
    if columns.ndim != 2:
        raise ClipAlignError(f"values must have shape [N] or [N, M], got {table.shape}")
    if not (~np.isnan(columns)).any(axis=0).all():
        raise ClipAlignError("values has no entry other than NaN in at least one column: nothing to average")
    if not 0 < level < 1 or n_resamples < 1:
        raise ClipAlignError(
            f"level must be between 0 and 1 and n_resamples at least 1, got {level} and {n_resamples}"
        )
    sums, counts = _group_totals(columns, groups)
    means = _resampled_means(sums, counts, n_resamples, seed)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    mean = sums.sum(axis=0) / counts.sum(axis=0)
    if table.ndim == 1:
        return float(mean[0]), float(low[0]), float(high[0])
    return mean, low, high


def paired_bootstrap(
    values_a: Any, values_b: Any, groups: Any = None, n_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of `values_a - values_b` on the same queries, with its bootstrap interval.

    Args:
        values_a (array `[N]` or `[N, M]`): for example per-query average precision of one model.
        values_b (array): the same shape, the other model on the same queries in the same order. A query that is NaN on
            either side is left out.
        groups (array, *optional*): see `bootstrap_interval`.
        n_resamples (`int`, *optional*, defaults to 2000): number of resamples.
        level (`float`, *optional*, defaults to 0.95): coverage, between 0 and 1.
        seed (`int`, *optional*, defaults to 0): seed of the resampling.

    Returns:
        (mean difference, low, high). An interval without 0 says that the difference is more than chance at that level.

    Raises:
        `ClipAlignError`: The shapes differ, or as for `bootstrap_interval`.

    Example:
        ```python
        >>> paired_bootstrap([0.5, 0.75], [0.25, 0.5])
        (0.25, 0.25, 0.25)
        ```
    """
    a, b = as_floats(values_a, "values_a"), as_floats(values_b, "values_b")
    if a.shape != b.shape:
        raise ClipAlignError(f"values_a has shape {a.shape} and values_b has shape {b.shape}: pair the same queries")
    return bootstrap_interval(a - b, groups, n_resamples, level, seed)


def _group_totals(columns: NDArray, groups: Any) -> tuple[NDArray, NDArray]:
    """(sums, counts) [U, M] over the entries that are not NaN, one row per unit of resampling."""
    present = (~np.isnan(columns)).astype(np.float64)
    filled = np.nan_to_num(columns, nan=0.0, posinf=np.inf, neginf=-np.inf)
    if groups is None:
        return filled, present
    labels = as_array(groups, "groups")
    if labels.shape != (len(columns),):
        raise ClipAlignError(f"groups has {len(labels)} entries for {len(columns)} values")
    if labels.dtype.kind not in "biufUS":
        raise ClipAlignError("groups must be all numbers or all strings, not both")
    names, unit = np.unique(labels, return_inverse=True)
    totals = np.zeros((2, len(names), columns.shape[1]))
    np.add.at(totals[0], unit, filled)
    np.add.at(totals[1], unit, present)
    return totals[0], totals[1]


def _resampled_means(sums: NDArray, counts: NDArray, n_resamples: int, seed: int) -> NDArray:
    """Means [n_resamples, M]; how often each unit is drawn is a row of a matrix, so that a block of resamples is one
    product."""
    rng = np.random.default_rng(seed)
    n_units = len(sums)
    block = max(1, BLOCK_BYTES // (24 * n_units))
    means = []
    for first in range(0, n_resamples, block):
        n_rows = min(block, n_resamples - first)
        drawn = rng.integers(n_units, size=(n_rows, n_units)) + n_units * np.arange(n_rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=n_rows * n_units).reshape(n_rows, n_units).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((times @ sums) / (times @ counts))
    return np.concatenate(means)
