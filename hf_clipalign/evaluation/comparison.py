"""Heads side by side on retrieval tasks, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._checks.sequences import as_array, as_list
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import EqualRows, top_k
from hf_clipalign._tables import NumberTable
from hf_clipalign.evaluation.heads import Head
from hf_clipalign.evaluation.tasks import JudgedPairs, RetrievalTask, score_retrieval
from hf_clipalign.metrics import bootstrap_interval, paired_bootstrap

_SHOWN = ("map", "ndcg_at_10", "map_at_r", "r_precision", "recall_at_1", "recall_at_5", "recall_at_10")
_TITLES = {"map": "mAP", "ndcg_at_10": "nDCG@10", "map_at_r": "mAP@R", "r_precision": "R-prec"}

Interval = tuple[float, float]


@dataclass(frozen=True)
class HeadScores:
    """What one head reaches. All scores are fractions in [0, 1], averaged over the tasks' queries.

    Attributes:
        head (`str`): its name.
        width (`int`): dimension of the embeddings.
        metrics (`dict`): means over all queries of all tasks.
        map_interval (`(low, high)`): 95 % bootstrap interval of the mAP.
        gain (`float`), gain_interval (`(low, high)`): mAP minus the first head's, with its paired interval.
        per_task (`dict`): mAP of each task.
        ms_per_query (`float`, *optional*): milliseconds that one query takes, where that was measured.

    Example:
        ```python
        >>> comparison = compare_heads(comparison_heads(encoder), {"emoji": retrieval_task(features)})
        >>> comparison.scores[0].head, comparison.scores[0].width
        ('raw', 128)
        ```
    """

    head: str
    width: int
    metrics: dict[str, float]
    map_interval: Interval
    gain: float
    gain_interval: Interval
    per_task: dict[str, float]
    ms_per_query: float | None = None


@dataclass(frozen=True)
class RetrievalComparison:
    """Heads side by side; the first one is what the others are compared with.

    Attributes:
        scores (`list[HeadScores]`): one per head.
        tasks (`list[str]`): names of the tasks that the means are taken over.
        n_queries (`int`): queries with a positive.
        n_without_positive (`int`): queries left out because nothing in the gallery is relevant to them.
        without_positive (`list[str]`): up to ten of their names.

    Example:
        ```python
        >>> comparison = compare_heads(comparison_heads(encoder), {"emoji": retrieval_task(features)})
        >>> comparison.columns()[:3], comparison.n_queries
        (['head', 'dimension', 'mAP'], 24)
        ```
    """

    scores: list[HeadScores]
    tasks: list[str]
    n_queries: int
    n_without_positive: int
    without_positive: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return asdict(self)

    def columns(self) -> list[str]:
        """Headings of `rows`."""
        titles = [metric_title(name) for name in self._shown()]
        timed = ["ms per query"] if self._timed() else []
        return ["head", "dimension", *titles, "mAP, 95 % interval", f"mAP − {self.scores[0].head}", *timed]

    def rows(self) -> list[list[str]]:
        """The table as text, scores in percent."""
        return [
            [
                score.head,
                str(score.width),
                *(f"{100 * score.metrics[name]:.1f}" for name in self._shown()),
                f"{100 * score.map_interval[0]:.1f} to {100 * score.map_interval[1]:.1f}",
                "" if score is self.scores[0] else _signed(score.gain, score.gain_interval),
                *([f"{score.ms_per_query:.3g}"] if self._timed() else []),
            ]
            for score in self.scores
        ]

    def table(self, title: str = "") -> NumberTable:
        """The table for a terminal, without the interval of the mAP itself."""
        left_out = self.columns().index("mAP, 95 % interval")
        columns, *rows = ([*row[:left_out], *row[left_out + 1 :]] for row in (self.columns(), *self.rows()))
        return NumberTable(columns, rows, title, self.caption())

    def _timed(self) -> bool:
        return all(score.ms_per_query is not None for score in self.scores)

    def _shown(self) -> list[str]:
        """Metrics worth a column: those that equal recall@1 everywhere (one relevant item for each query) are not."""
        metrics = [score.metrics for score in self.scores]
        return [
            name
            for name in _SHOWN
            if name in metrics[0]
            and not (
                name in ("map_at_r", "r_precision")
                and all(np.isclose(row[name], row.get("recall_at_1", np.nan)) for row in metrics)
            )
        ]

    def caption(self) -> str:
        """What the means are over, and what was left out."""
        text = f"percent; mean over {self.n_queries} queries of {', '.join(self.tasks)}"
        if self.n_without_positive:
            text += (
                f"; {self.n_without_positive} queries have no relevant item and are left out "
                f"({', '.join(self.without_positive)}{'…' if self.n_without_positive > 10 else ''})"
            )
        return text


def compare_heads(
    heads: Sequence[Head],
    tasks: Mapping[str, RetrievalTask],
    *,
    ks: Sequence[int] = (1, 5, 10),
    query_ids: Mapping[str, Sequence[str]] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> RetrievalComparison:
    """Scores heads on the same features.

    Intervals resample classes, not single queries: queries of one class rise and fall together. The gain over the
    first head is paired.

    Args:
        heads (`Sequence[Head]`): the first is the baseline.
        tasks (`Mapping[str, LabelledRetrieval | JudgedPairs]`): features before the projector, by name of the task.
        ks (`Sequence[int]`): for recall@k. Default (1, 5, 10).
        query_ids (`Mapping[str, Sequence[str]]`, *optional*): names of the queries, to name those without a positive.
        n_resamples (`int`, *optional*, defaults to `2,000`): bootstrap samples.
        seed (`int`, *optional*, defaults to `0`): of the bootstrap.

    Returns:
        `RetrievalComparison`.

    Raises:
        `ClipAlignError`: no head or no task; or as `retrieval_metrics`.

    Example:
        ```python
        >>> heads = comparison_heads(encoder, band=(1, 48), names=["raw", "isoclip"])
        >>> comparison = compare_heads(heads, {"emoji": retrieval_task(features)})
        >>> [score.head for score in comparison.scores]
        ['raw', 'isoclip']
        ```
    """
    if not heads or not tasks:
        raise ClipAlignError("a comparison needs at least one head and one task.")
    results = {
        head.name: {name: _score(*head.embed(task.query, task.gallery), task, ks) for name, task in tasks.items()}
        for head in heads
    }
    first = next(iter(tasks.values())).query
    widths = {head.name: head.width(first) for head in heads}
    return _compare(results, widths, {}, tasks, query_ids, n_resamples, seed)


def compare_embeddings(
    embeddings: Mapping[str, tuple[Tensor, Tensor]],
    task: RetrievalTask,
    *,
    name: str = "data",
    ms_per_query: Mapping[str, float] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    query_ids: Sequence[str] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> RetrievalComparison:
    """Scores methods whose queries are more than a linear map of the task's features, such as inversions.

    Args:
        embeddings (`Mapping[str, (Tensor [Q, k], Tensor [G, k])]`): unit embeddings of queries and gallery by method;
            the first is the baseline.
        task (`LabelledRetrieval` or `JudgedPairs`): what is relevant, and what is left out.
        name (`str`): of the task.
        ms_per_query (`Mapping[str, float]`, *optional*): what one query takes, by method.
        ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`): as in `compare_heads`.
        query_ids (`Sequence[str]`, *optional*): as in `compare_heads`.
        n_resamples (`int`, *optional*, defaults to `2000`), seed (`int`, *optional*, defaults to `0`): likewise.

    Returns:
        `RetrievalComparison`.

    Raises:
        `ClipAlignError`: no method; or as `retrieval_metrics`.

    Example:
        ```python
        >>> task = retrieval_task(features)
        >>> embeddings = {head.name: head.embed(task.query, task.gallery) for head in comparison_heads(encoder)}
        >>> comparison = compare_embeddings(embeddings, task, name="emoji")
        >>> comparison.tasks
        ['emoji']
        ```
    """
    if not embeddings:
        raise ClipAlignError("a comparison needs at least one method.")
    results = {method: {name: _score(*pair, task, ks)} for method, pair in embeddings.items()}
    widths = {method: query.shape[1] for method, (query, _) in embeddings.items()}
    ids = None if query_ids is None else {name: query_ids}
    return _compare(results, widths, ms_per_query or {}, {name: task}, ids, n_resamples, seed)


def _compare(
    results: dict[str, dict[str, dict[str, Any]]],
    widths: Mapping[str, int],
    ms_per_query: Mapping[str, float],
    tasks: Mapping[str, RetrievalTask],
    query_ids: Mapping[str, Sequence[str]] | None,
    n_resamples: int,
    seed: int,
) -> RetrievalComparison:
    """The comparison from the metrics of every method on every task; the first method is the baseline."""
    named = {name: as_list(ids, "query_ids") for name, ids in (query_ids or {}).items()}
    groups = np.concatenate([_units(name, task) for name, task in tasks.items()])
    first = next(iter(results.values()))
    baseline = _queries(first, "map")
    missing = [
        named[name][int(row)] if named else f"{name} query {row}"
        for name, result in first.items()
        for row in np.flatnonzero(np.isnan(result["per_query"]["map"]))
    ]
    scores = [
        _head_scores(method, widths[method], result, baseline, groups, n_resamples, seed, ms_per_query.get(method))
        for method, result in results.items()
    ]
    return RetrievalComparison(
        scores=scores,
        tasks=list(tasks),
        n_queries=int((~np.isnan(baseline)).sum()),
        n_without_positive=len(missing),
        without_positive=missing[:10],
    )


def top_matches(head: Head, query: Tensor, gallery: Tensor, k: int = 8, block_size: int = 1024) -> np.ndarray:
    """The k nearest gallery items of each query under a head, best first, `[Q, k]` row numbers; ties by row.

    Args:
        head (`Head`): how features are compared.
        query (`Tensor [Q, w]`), gallery (`Tensor [N, w]`): features before the projector.
        k (`int`, *optional*, defaults to `8`): items per query.
        block_size (`int`, *optional*, defaults to `1024`): queries at a time.

    Example:
        ```python
        >>> best = top_matches(Head("raw"), features.values[:2], features.values, k=3)
        >>> best.shape, best[:, 0].tolist()
        ((2, 3), [0, 1])
        ```
    """
    query, gallery = head.embed(query, gallery)
    k, equal = min(k, len(gallery)), EqualRows(gallery)
    best = [top_k(equal.tie(block @ gallery.T, dim=1), k) for block in query.split(block_size)]
    return torch.cat(best).cpu().numpy()


def metric_title(name: str) -> str:
    """How tables write a key of `retrieval_metrics`."""
    return _TITLES.get(name, name.replace("recall_at_", "R@"))


def _score(query: Tensor, gallery: Tensor, task: RetrievalTask, ks: Sequence[int]) -> dict[str, Any]:
    return score_retrieval(task, query, gallery, ks=ks, normalize=False, per_query=True)


def _queries(results: dict[str, dict[str, Any]], metric: str) -> np.ndarray:
    return np.concatenate([result["per_query"][metric] for result in results.values()])


def _head_scores(
    method: str,
    width: int,
    results: dict[str, dict[str, Any]],
    baseline: np.ndarray,
    groups: np.ndarray,
    n_resamples: int,
    seed: int,
    ms_per_query: float | None,
) -> HeadScores:
    names = next(iter(results.values()))["per_query"]
    values = _queries(results, "map")
    _, low, high = bootstrap_interval(values, groups, n_resamples, seed=seed)
    gain, gain_low, gain_high = paired_bootstrap(values, baseline, groups, n_resamples, seed=seed)
    return HeadScores(
        head=method,
        width=width,
        metrics={name: float(np.nanmean(_queries(results, name))) for name in names},
        map_interval=(float(low), float(high)),
        gain=float(gain),
        gain_interval=(float(gain_low), float(gain_high)),
        per_task={name: result["map"] for name, result in results.items()},
        ms_per_query=ms_per_query,
    )


def _units(name: str, task: RetrievalTask) -> np.ndarray:
    """What is resampled: classes, which tasks may share, or single queries where pairs are judged."""
    labels = as_array(task.query_labels, "query_labels").astype(str)
    return np.char.add(f"{name}/", labels) if isinstance(task, JudgedPairs) else labels


def _signed(gain: float, interval: Interval) -> str:
    return f"{100 * gain:+.1f} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"
