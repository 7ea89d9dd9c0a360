"""Label-based retrieval metrics in blocks of queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_rows

from .._errors import ClipAlignError
from ._inputs import as_labels, as_matrix, check_ks, encode_labels
from ._ranking import BlockBuffer, PositiveRanks, query_blocks, rank_positives

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

    The similarity is the cosine in float32 (half precision is cast up). Results do not depend on the order of the
    gallery: average precision takes tied items together, and for the other metrics an irrelevant item that ties with
    a relevant one stands before it. Similarities exist for one block of queries at a time, never for all.

    Args:
        query: Features [Q, d], torch or NumPy.
        gallery: Features [N, d].
        query_labels: Q integers or strings (list, array or tensor).
        gallery_labels: N labels of the same kind.
        exclude_self: Query i is gallery item i and is left out of its own list. Needs Q = N and the same labels.
        ks: Cut-offs of `recall_at_k`; one beyond the gallery means the whole gallery.
        normalize: Scale the rows to unit length first. With False the similarity is the plain dot product.
        definition: `"standard"` leaves queries without a relevant item out of the means and counts them.
            `"reference"` follows the research code of IsoCLIP and Cross the Gap: such queries count as 0 (as NaN in
            `map_at_r`, which makes its mean NaN), and with `exclude_self` the list of `map_at_r` is cut one rank
            later, at n + 1.
        per_query: Add `per_query`, a dictionary of float arrays [Q] with the same names (NaN where a query has no
            relevant item).
        block_size: Queries per block; by default chosen so that a block takes about 200 MB.
        device: Where to compute; by default where `query` is.

    Returns:
        `map`, `map_at_r`, `r_precision` and `recall_at_<k>` as fractions in [0, 1], `n_queries` (how many the means
        are over) and `n_without_positive`.

    Raises:
        ClipAlignError: Shapes, lengths or kinds of labels do not fit, features are not finite, or no query has a
            relevant item.

    Example:
        >>> features = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
        >>> retrieval_metrics(features, features, [0, 0, 1, 1], [0, 0, 1, 1], exclude_self=True)["map"]
        1.0
    """
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

    def similarities(rows: Tensor, out: Tensor) -> None:
        torch.mm(queries[rows], items.T, out=out)

    task = _match_labels(query_labels, gallery_labels, len(queries), len(items), exclude_self, queries.device)
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
    """[`retrieval_metrics`] from similarities that you computed yourself.

    Args:
        similarities: [Q, N], higher is closer, compared in float32. It is not changed.
        query_labels: Q integers or strings.
        gallery_labels: N labels of the same kind.
        exclude_self: Query i is gallery item i and is left out of its own list.
        ks: Cut-offs of `recall_at_k`.
        definition: See [`retrieval_metrics`].
        per_query: See [`retrieval_metrics`].
        block_size: Queries per block; by default chosen so that a block takes about 200 MB.
        device: Where to compute, block by block; by default where `similarities` is.

    Returns:
        The dictionary of [`retrieval_metrics`].

    Raises:
        ClipAlignError: As for [`retrieval_metrics`].
    """
    table = as_matrix(similarities, "similarities")
    device = table.device if device is None else torch.device(device)

    def copy_rows(rows: Tensor, out: Tensor) -> None:
        out.copy_(table[rows.to(table.device)])

    task = _match_labels(query_labels, gallery_labels, len(table), table.shape[1], exclude_self, device)
    return _evaluate(copy_rows, task, ks, definition, per_query, block_size)


class _Task(NamedTuple):
    """Which gallery items share the label of a query: `order[start : start + size]`."""

    order: Tensor
    start: Tensor
    size: Tensor
    exclude_self: bool

    @property
    def n_relevant(self) -> Tensor:
        return self.size - int(self.exclude_self)


def _evaluate(
    fill: Callable[[Tensor, Tensor], None],
    task: _Task,
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
    task: _Task,
    ks: tuple[int, ...],
    definition: Definition,
    block_size: int | None,
) -> dict[str, np.ndarray]:
    """Every metric of every query, arrays [Q]."""
    n_gallery, device = len(task.order), task.order.device
    names = ["map", "map_at_r", "r_precision", *(f"recall_at_{k}" for k in ks)]
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
        scores[:, rows] = _scores(rank_positives(chunks, positives), task.n_relevant[rows], ks, extra)
    return dict(zip(names, scores.double().cpu().numpy(), strict=True))


def _relevant_similarities(table: Tensor, rows: Tensor, task: _Task) -> Tensor:
    """Similarities of each query's relevant items, padded with -inf; takes the query itself out of `table` [B, N]."""
    if task.exclude_self:
        table.scatter_(1, rows[:, None], -torch.inf)
    offset = torch.arange(int(task.size[rows[0]]), device=rows.device)
    places = (task.start[rows, None] + offset).clamp_(max=len(task.order) - 1)
    return table.gather(1, task.order[places]).masked_fill_(offset >= task.size[rows, None], -torch.inf)


def _scores(ranks: PositiveRanks, n_relevant: Tensor, ks: tuple[int, ...], extra: int) -> Tensor:
    """The metrics of a block [3 + len(ks), B]; `extra` ranks are added to the cut of mAP@R."""
    n = n_relevant[:, None]
    precision_in_ties = torch.where(ranks.valid, ranks.positives_seen / ranks.items_seen, 0.0)
    precision = torch.where(ranks.valid & (ranks.rank <= n + extra), ranks.position / ranks.rank, 0.0)
    hits = ranks.valid & (ranks.rank <= n)
    means = [table.sum(1) / n_relevant for table in (precision_in_ties, precision, hits)]
    return torch.stack([*means, *((ranks.rank[:, 0] <= k).float() for k in ks)])


def _prepare(features: Tensor, normalize: bool) -> Tensor:
    return unit_rows(features.float(), dim=1) if normalize else features.float()


def _match_labels(
    query_labels: Any, gallery_labels: Any, n_queries: int, n_gallery: int, exclude_self: bool, device: torch.device
) -> _Task:
    query, gallery = encode_labels(
        as_labels(query_labels, "query_labels", n_queries), as_labels(gallery_labels, "gallery_labels", n_gallery)
    )
    if exclude_self:
        _check_same_items(query, gallery)
    order = np.argsort(gallery, kind="stable")
    start = np.searchsorted(gallery[order], query, side="left")
    end = np.searchsorted(gallery[order], query, side="right")
    on_device = [torch.as_tensor(array, device=device) for array in (order, start, end - start)]
    return _Task(on_device[0], on_device[1], on_device[2], exclude_self)


def _check_same_items(query: np.ndarray, gallery: np.ndarray) -> None:
    if len(query) != len(gallery):
        raise ClipAlignError(
            f"exclude_self needs the same items on both sides, got {len(query)} queries and "
            f"{len(gallery)} gallery items; pass exclude_self=False for two different sets"
        )
    different = np.flatnonzero(query != gallery)
    if len(different):
        raise ClipAlignError(
            f"exclude_self takes query i for gallery item i, but their labels differ at {len(different)} places, "
            f"first at {different[0]}; put both sides in the same order"
        )
