"""Label-based retrieval metrics in blocks of queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import EqualRows, in_float32_range, unit_rows
from hf_clipalign.metrics._inputs import as_matrix, check_ks
from hf_clipalign.metrics._ranking import BlockBuffer, PositiveRanks, query_blocks, rank_positives
from hf_clipalign.metrics._relevance import Relevance, match_labels, match_pairs

Definition = Literal["standard", "reference"]


def retrieval_metrics(
    query: Any,
    gallery: Any,
    query_labels: Any,
    gallery_labels: Any,
    exclude_self: bool = False,
    ks: Sequence[int] = (1, 5, 10),
    *,
    normalize: bool = True,
    definition: Definition = "standard",
    per_query: bool = False,
    block_size: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Retrieval quality of `query` against `gallery`, where equal labels are relevant to each other.

    With n relevant items per query, p/r the precision where the p-th of them stands at rank r:

    - `map`: mean over the n items of p/r (average precision, as scikit-learn defines it, also for ties).
    - `map_at_r`: sum of p/r over those with r <= n, divided by n (Musgrave et al. 2020, "A Metric Learning Reality
      Check").
    - `r_precision`: share of relevant items among the first n.
    - `recall_at_k`: share of queries with at least one relevant item among the first k (the retrieval literature's
      recall@k).

    The similarity is the cosine in float32 of rows that are made unit length in float64. Gallery items with the same
    vector tie exactly, and ties do not depend on the order of the gallery: average precision takes tied items
    together, and for the other metrics an irrelevant item that ties with a relevant one stands before it. Similarities
    exist for one block of queries at a time, never for all; of different vectors they are rounded to about 1e-7.

    Args:
        query (array `[Q, d]`): features, torch or NumPy.
        gallery (array `[N, d]`): features.
        query_labels (array): Q integers or strings (list, array or tensor).
        gallery_labels (array): N labels of the same kind.
        exclude_self (`bool`, *optional*, defaults to False): query i is gallery item i and is left out of its own
            list. Needs Q = N and the same labels.
        ks (`Sequence[int]`, *optional*, defaults to (1, 5, 10)): cut-offs of `recall_at_k`; one beyond the gallery
            means the whole gallery.
        normalize (`bool`, *optional*, defaults to True): scale the rows to unit length first. With False the
            similarity is the plain dot product.
        definition (`"standard"` or `"reference"`, *optional*, defaults to 'standard'): `"standard"` leaves queries
            without a relevant item out of the means and counts them. `"reference"` follows the research code of
            IsoCLIP and Cross the Gap: such queries count as 0 (as NaN in `map_at_r`, which makes its mean NaN), and
            with `exclude_self` the list of `map_at_r` is cut one rank later, at n + 1.
        per_query (`bool`, *optional*, defaults to False): add `per_query`, a dictionary of float arrays [Q] with the
            same names (NaN where a query has no relevant item).
        block_size (`int`, *optional*): queries per block; by default chosen so that a block takes about 200 MB.
        device (`torch.device` or `str`, *optional*): where to compute; by default where `query` is.

    Returns:
        `map`, `map_at_r`, `r_precision` and `recall_at_<k>` as fractions in [0, 1], `n_queries` (how many the means
        are over) and `n_without_positive`.

    Raises:
        `ClipAlignError`: Shapes, lengths or kinds of labels do not fit, features are not finite, or no query has a
            relevant item.

    Example:
        ```python
        >>> features = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
        >>> retrieval_metrics(features, features, [0, 0, 1, 1], [0, 0, 1, 1], exclude_self=True)["map"]
        1.0
        ```
    """
    similarities, shape, device = _cosines(query, gallery, normalize, device)
    task = match_labels(query_labels, gallery_labels, *shape, exclude_self, device)
    return _evaluate(similarities, task, ks, definition, per_query, block_size)


def retrieval_metrics_from_similarities(
    similarities: Any,
    query_labels: Any,
    gallery_labels: Any,
    exclude_self: bool = False,
    ks: Sequence[int] = (1, 5, 10),
    *,
    definition: Definition = "standard",
    per_query: bool = False,
    block_size: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """`retrieval_metrics` from similarities that you computed yourself.

    Args:
        similarities (array `[Q, N]`): higher is closer, compared in float32. It is not changed.
        query_labels (array): Q integers or strings.
        gallery_labels (array): N labels of the same kind.
        exclude_self (`bool`, *optional*, defaults to False): query i is gallery item i and is left out of its own
            list.
        ks (`Sequence[int]`, *optional*, defaults to (1, 5, 10)): cut-offs of `recall_at_k`.
        definition (`"standard"` or `"reference"`, *optional*, defaults to 'standard'): see `retrieval_metrics`.
        per_query (`bool`, *optional*, defaults to False): see `retrieval_metrics`.
        block_size (`int`, *optional*): queries per block; by default chosen so that a block takes about 200 MB.
        device (`torch.device` or `str`, *optional*): where to compute, block by block; by default where `similarities`
            is.

    Returns:
        The dictionary of `retrieval_metrics`.

    Raises:
        `ClipAlignError`: As for `retrieval_metrics`.

    Example:
        ```python
        >>> retrieval_metrics_from_similarities([[0.9, 0.2, 0.4]], ["cat"], ["cat", "cat", "dog"])["r_precision"]
        0.5
        ```
    """
    table = in_float32_range(as_matrix(similarities, "similarities"))
    device = table.device if device is None else torch.device(device)

    def copy_rows(rows: Tensor, out: Tensor) -> None:
        out.copy_(table[rows.to(table.device)])

    task = match_labels(query_labels, gallery_labels, len(table), table.shape[1], exclude_self, device)
    return _evaluate(copy_rows, task, ks, definition, per_query, block_size)


def retrieval_metrics_from_qrels(
    query: Any,
    gallery: Any,
    relevant: Sequence[Any],
    grades: Sequence[Any] | None = None,
    excluded: Any = None,
    ks: Sequence[int] = (1, 5, 10),
    *,
    normalize: bool = True,
    per_query: bool = False,
    block_size: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """`retrieval_metrics` where relevance is judged pair by pair, and nDCG, the measure of BEIR.

    `ndcg_at_k` sums grade / log2(rank + 1) over the relevant items of the first k ranks and divides by the largest
    sum that an order could reach, as trec_eval does (Järvelin and Kekäläinen 2002). Ties count against the query.

    Args:
        query (array `[Q, d]`): features, torch or NumPy.
        gallery (array `[N, d]`): features.
        relevant (`Sequence`): for each query the positions in the gallery of its relevant items, each once; Q arrays,
            also empty.
        grades (`Sequence`, *optional*): for each query how relevant they are, above 0, in the same order. Default: all
            1.
        excluded (array, *optional*): for each query a position in the gallery that is left out of its list, or -1,
            [Q]. Default: none.
        ks (`Sequence[int]`, *optional*, defaults to (1, 5, 10)): cut-offs of `recall_at_k` and `ndcg_at_k`.
        normalize (`bool`, *optional*, defaults to True): scale the rows to unit length first.
        per_query (`bool`, *optional*, defaults to False): add `per_query`, a dictionary of float arrays [Q].
        block_size (`int`, *optional*): queries per block; by default chosen so that a block takes about 200 MB.
        device (`torch.device` or `str`, *optional*): where to compute; by default where `query` is.

    Returns:
        The dictionary of `retrieval_metrics` with `ndcg_at_<k>`. Queries without a relevant item are left out of
        the means and counted.

    Raises:
        `ClipAlignError`: Shapes or lengths do not fit, a position is outside the gallery, appears twice or is
            excluded, a grade is not above 0, or no query has a relevant item.

    Example:
        ```python
        >>> features = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
        >>> retrieval_metrics_from_qrels([[1.0, 0.1]], features, [[1]], excluded=[0])["ndcg_at_10"]
        1.0
        ```
    """
    similarities, shape, device = _cosines(query, gallery, normalize, device)
    task = match_pairs(relevant, grades, excluded, *shape, device)
    return _evaluate(similarities, task, ks, "standard", per_query, block_size)


def _cosines(
    query: Any, gallery: Any, normalize: bool, device: torch.device | str | None
) -> tuple[Callable[[Tensor, Tensor], None], tuple[int, int], torch.device]:
    """What fills a block of similarities, (Q, N), and where."""
    queries = as_matrix(query, "query", device)
    items = queries if gallery is query else as_matrix(gallery, "gallery", queries.device)
    if queries.shape[1] != items.shape[1]:
        raise ClipAlignError(
            f"query has {queries.shape[1]} dimensions and gallery has {items.shape[1]}; "
            "take both from the same model and projection"
        )
    same = items is queries
    queries = _prepare(queries, normalize)
    items = queries if same else _prepare(items, normalize)
    equal = EqualRows(items)

    def similarities(rows: Tensor, out: Tensor) -> None:
        torch.mm(queries[rows], items.T, out=out)
        equal.tie(out, dim=1)

    return similarities, (len(queries), len(items)), queries.device


def _evaluate(
    fill: Callable[[Tensor, Tensor], None],
    task: Relevance,
    ks: Sequence[int],
    definition: Definition,
    per_query: bool,
    block_size: int | None,
) -> dict[str, Any]:
    ks = check_ks(ks)
    if definition not in get_args(Definition):
        raise ClipAlignError(f'definition must be "standard" or "reference", got {definition!r}')
    values = _score_queries(fill, task, ks, definition, block_size)
    n_without = int((task.n_relevant == 0).sum())
    if definition == "standard":
        if n_without == len(task.size):
            raise ClipAlignError(
                "no query has a relevant item in the gallery: check that both sides use the same labels"
            )
        result: dict[str, Any] = {name: float(np.nanmean(value)) for name, value in values.items()}
    else:
        result = {name: float(np.mean(value)) for name, value in values.items()}
    result["n_queries"] = len(task.size) - (n_without if definition == "standard" else 0)
    result["n_without_positive"] = n_without
    return {**result, "per_query": values} if per_query else result


def _score_queries(
    fill: Callable[[Tensor, Tensor], None],
    task: Relevance,
    ks: tuple[int, ...],
    definition: Definition,
    block_size: int | None,
) -> dict[str, np.ndarray]:
    """Every metric of every query, arrays [Q]."""
    n_gallery, device = task.n_gallery, task.order.device
    names = ["map", "map_at_r", "r_precision", *(f"recall_at_{k}" for k in ks)]
    if task.grades is not None:
        names += [f"ndcg_at_{k}" for k in ks]
    scores = torch.full((len(names), len(task.size)), torch.nan, device=device)
    if definition == "reference":
        scores[:, task.n_relevant == 0] = torch.tensor(
            [[0.0 if n != "map_at_r" else torch.nan] for n in names], device=device
        )
    extra = int(definition == "reference" and task.exclude_self)
    buffer = BlockBuffer(n_gallery, device)
    for rows in query_blocks(task.n_relevant, n_gallery, block_size):
        chunks, table = buffer.rows(len(rows), int(task.size[rows[0]]))
        fill(rows, table)
        positives = _relevant_similarities(table, rows, task)
        ranks = rank_positives(chunks, positives)
        scores[: 3 + len(ks), rows] = _scores(ranks, task.n_relevant[rows], ks, extra)
        if task.grades is not None:
            scores[3 + len(ks) :, rows] = _discounted_gains(ranks, _sorted_grades(positives, rows, task), ks)
    return dict(zip(names, scores.double().cpu().numpy(), strict=True))


def _relevant_similarities(table: Tensor, rows: Tensor, task: Relevance) -> Tensor:
    """Similarities of each query's relevant items, padded with -inf; takes the query itself out of `table` [B, N]."""
    if task.exclude_self:
        table.scatter_(1, rows[:, None], -torch.inf)
    if task.excluded is not None:
        some = (task.excluded[rows] >= 0).nonzero().flatten()
        table[some, task.excluded[rows[some]]] = -torch.inf
    places, beyond = _places(rows, task)
    return table.gather(1, task.order[places]).masked_fill_(beyond, -torch.inf)


def _places(rows: Tensor, task: Relevance) -> tuple[Tensor, Tensor]:
    """Where in `task.order` the relevant items of each query stand, [B, n], and which entries are padding."""
    offset = torch.arange(int(task.size[rows[0]]), device=rows.device)
    places = (task.start[rows, None] + offset).clamp_(max=len(task.order) - 1)
    return places, offset >= task.size[rows, None]


def _sorted_grades(positives: Tensor, rows: Tensor, task: Relevance) -> Tensor:
    """Grades [B, n] in descending order of similarity, of tied items the lower grade first, 0 for padding."""
    assert task.grades is not None
    places, beyond = _places(rows, task)
    order = positives.sort(dim=1, descending=True, stable=True).indices
    return task.grades[places].masked_fill(beyond, 0.0).gather(1, order)


def _discounted_gains(ranks: PositiveRanks, grades: Tensor, ks: tuple[int, ...]) -> Tensor:
    """nDCG [len(ks), B] from grades in the order of `ranks`."""
    gains = grades / (ranks.rank + 1).log2()
    ideal = grades.sort(dim=1, descending=True).values / (ranks.position + 1).log2()
    tables = [((gains * (ranks.rank <= k)).sum(1), ideal[:, :k].sum(1)) for k in ks]
    return torch.stack([found / best for found, best in tables])


def _scores(ranks: PositiveRanks, n_relevant: Tensor, ks: tuple[int, ...], extra: int) -> Tensor:
    """The metrics of a block [3 + len(ks), B]; `extra` ranks are added to the cut of mAP@R."""
    n = n_relevant[:, None]
    precision_in_ties = torch.where(ranks.valid, ranks.positives_seen / ranks.items_seen, 0.0)
    precision = torch.where(ranks.valid & (ranks.rank <= n + extra), ranks.position / ranks.rank, 0.0)
    hits = ranks.valid & (ranks.rank <= n)
    means = [table.sum(1) / n_relevant for table in (precision_in_ties, precision, hits)]
    return torch.stack([*means, *((ranks.rank[:, 0] <= k).float() for k in ks)])


def _prepare(features: Tensor, normalize: bool) -> Tensor:
    return unit_rows(features) if normalize else in_float32_range(features)
