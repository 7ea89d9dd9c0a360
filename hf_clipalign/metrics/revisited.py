"""Revisited Oxford and Paris protocol (Radenović et al. 2018, "Revisiting Oxford and Paris")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._checks.sequences import as_array, as_list
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import in_float32_range
from hf_clipalign.metrics._inputs import as_matrix, check_ks
from hf_clipalign.metrics._ranking import BlockBuffer, PositiveRanks, query_blocks, rank_positives
from hf_clipalign.metrics._relevance import gallery_positions


def revisited_retrieval_metrics(
    similarities: Any,
    easy: Any,
    hard: Any,
    junk: Any,
    ks: Sequence[int] = (1, 5, 10),
    *,
    per_query: bool = False,
    block_size: int | None = None,
) -> dict[str, Any]:
    """The three settings of the revisited Oxford and Paris benchmarks.

    Easy: easy items are positive, hard and junk ones are ignored. Medium: easy and hard are positive, junk is ignored.
    Hard: hard is positive, easy and junk are ignored. Ignored items are taken out of the list. With the j-th of n
    positives (j from 0) at rank q (from 0):

    - `map_<setting>`: mean over queries of sum_j ((j / q, or 1 at q = 0) + (j + 1) / (q + 1)) / (2 n), the area
      under the precision-recall curve by trapezoids, as that benchmark defines it (it is not scikit-learn's average
      precision).
    - `precision_at_<k>_<setting>`: share of positives in the first min(k, rank of the last positive) items.

    Args:
        similarities (array `[Q, N]`): higher is closer, compared in float32. A positive stands after the other items
            that tie with it.
        easy (array): boolean or 0/1 mask [Q, N], or for each query a list of gallery positions.
        hard (array): likewise.
        junk (array): likewise.
        ks (`Sequence[int]`, *optional*, defaults to (1, 5, 10)): cut-offs of the precision.
        per_query (`bool`, *optional*, defaults to False): add `per_query`, a dictionary of float arrays [Q] with the
            same names, NaN for queries without a positive.
        block_size (`int`, *optional*): queries per block; by default chosen so that a block takes about 200 MB.

    Returns:
        The metrics as fractions in [0, 1] (means over the queries that have a positive in the setting; NaN if none
        has one), and for each setting `n_queries_<setting>` and `n_without_positive_<setting>`.

    Raises:
        `ClipAlignError`: A mask or list does not fit the similarities, or these are not finite.

    Example:
        ```python
        >>> revisited_retrieval_metrics([[0.9, 0.5, 0.1]], easy=[[0]], hard=[[2]], junk=[[]])["map_easy"]
        1.0
        ```
    """
    table = in_float32_range(as_matrix(similarities, "similarities"))
    ks = check_ks(ks)
    easy, hard, junk = (_as_mask(m, name, table) for m, name in ((easy, "easy"), (hard, "hard"), (junk, "junk")))
    settings = {"easy": (easy, junk | hard), "medium": (easy | hard, junk), "hard": (hard, junk | easy)}
    result: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for setting, (positive, ignored) in settings.items():
        scores = _score_setting(table, positive, ignored, ks, block_size).double().cpu().numpy()
        names = [f"map_{setting}", *(f"precision_at_{k}_{setting}" for k in ks)]
        scored = ~np.isnan(scores[0])
        result.update(
            {n: float(s[scored].mean()) if scored.any() else float("nan") for n, s in zip(names, scores, strict=True)}
        )
        result[f"n_queries_{setting}"] = int(scored.sum())
        result[f"n_without_positive_{setting}"] = int((~scored).sum())
        arrays.update(zip(names, scores, strict=True))
    return {**result, "per_query": arrays} if per_query else result


def _score_setting(
    similarities: Tensor, positive: Tensor, ignored: Tensor, ks: tuple[int, ...], block_size: int | None
) -> Tensor:
    """[1 + len(ks), Q], NaN for queries without a positive; an item both positive and ignored counts as positive."""
    n_positive = positive.sum(1)
    scores = torch.full((1 + len(ks), len(positive)), torch.nan, device=similarities.device)
    buffer = BlockBuffer(positive.shape[1], similarities.device)
    for rows in query_blocks(n_positive, positive.shape[1], block_size):
        largest = int(n_positive[rows[0]])
        chunks, table = buffer.rows(len(rows), largest)
        table.copy_(similarities[rows])
        table.masked_fill_(ignored[rows] & ~positive[rows], -torch.inf)
        found = table.masked_fill(~positive[rows], -torch.inf).topk(largest).values
        scores[:, rows] = _scores(rank_positives(chunks, found), n_positive[rows], ks)
    return scores


def _scores(ranks: PositiveRanks, n_positive: Tensor, ks: tuple[int, ...]) -> Tensor:
    before = torch.where(ranks.rank > 1, (ranks.position - 1) / (ranks.rank - 1).clamp(min=1), 1.0)
    trapezoids = torch.where(ranks.valid, (before + ranks.position / ranks.rank) / 2, 0.0)
    last = ranks.rank.gather(1, n_positive[:, None] - 1)
    precisions = []
    for k in ks:
        cut = last.clamp(max=k)
        precisions.append((ranks.valid & (ranks.rank <= cut)).sum(1) / cut[:, 0])
    return torch.stack([trapezoids.sum(1) / n_positive, *precisions])


def _as_mask(items: Any, name: str, similarities: Tensor) -> Tensor:
    """A boolean mask [Q, N] from a mask or from one list of gallery positions per query."""
    shape = tuple(similarities.shape)
    if getattr(items, "ndim", 1) == 2:  # a tensor, an array or a data frame
        mask = items if isinstance(items, Tensor) else torch.from_numpy(as_array(items, name))
        mask = mask.to(similarities.device)
        if tuple(mask.shape) != shape:
            raise ClipAlignError(f"{name} is a mask of shape {tuple(mask.shape)}, but similarities has shape {shape}")
        if not ((mask == 0) | (mask == 1)).all():
            raise ClipAlignError(
                f"{name} must be a 0/1 mask; give gallery positions as one list per query, not as an array"
            )
        return mask.bool()
    items = [gallery_positions(row, name) for row in as_list(items, name)]
    if len(items) != shape[0]:
        raise ClipAlignError(f"{name} has {len(items)} lists, but similarities has {shape[0]} queries")
    mask = torch.zeros(shape, dtype=torch.bool)
    rows = np.repeat(np.arange(shape[0]), [len(positions) for positions in items])
    columns = np.concatenate(items)
    outside = columns[(columns < 0) | (columns >= shape[1])]
    if len(outside):
        raise ClipAlignError(f"{name} names gallery item {outside[0]}, but the gallery has {shape[1]} items")
    mask[torch.from_numpy(rows), torch.from_numpy(columns)] = True
    return mask.to(similarities.device)
