"""`evaluate.Metric` classes around the functions of this package.

Importing this module imports `evaluate`, which takes seconds; the functions do not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import evaluate
from datasets import Features, Value
from datasets import Sequence as ListOf

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics.classification import top_k_accuracy
from hf_clipalign.metrics.clustering import clustering_accuracy
from hf_clipalign.metrics.retrieval import retrieval_metrics
from hf_clipalign.metrics.revisited import revisited_retrieval_metrics


class RetrievalMetric(evaluate.Metric):
    """`retrieval_metrics` for `evaluate`: predictions are features, references are labels.

    The set is searched with itself, each query left out of its own list; pass `gallery` and `gallery_labels` to
    `compute` for a gallery of its own. Further keyword arguments of `compute` go to the function.

    Example:
        ```python
        >>> metric = RetrievalMetric()
        >>> metric.add_batch(predictions=[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], references=[0, 0, 1, 1])
        >>> metric.compute(ks=(1,))["map"]
        1.0
        ```
    """

    def _info(self) -> evaluate.MetricInfo:
        features = [
            Features({"predictions": ListOf(Value("float32")), "references": Value(kind)})
            for kind in ("int64", "string")
        ]
        return _describe("Label-based retrieval: mAP, mAP@R, R-precision and recall@k.", self, features)

    def _compute(
        self, predictions: Any, references: Any, gallery: Any = None, gallery_labels: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        if gallery is None:
            return retrieval_metrics(
                predictions, predictions, references, references, **{"exclude_self": True, **kwargs}
            )
        return retrieval_metrics(predictions, gallery, references, gallery_labels, **kwargs)


class RevisitedRetrievalMetric(evaluate.Metric):
    """`revisited_retrieval_metrics` for `evaluate`: one row of similarities per query.

    Example:
        ```python
        >>> metric = RevisitedRetrievalMetric()
        >>> metric.compute(similarities=[[0.9, 0.5, 0.1]], easy=[[0]], hard=[[2]], junk=[[]])["map_easy"]
        1.0
        ```
    """

    def _info(self) -> evaluate.MetricInfo:
        lists = {name: ListOf(Value("int64")) for name in ("easy", "hard", "junk")}
        features = Features({"similarities": ListOf(Value("float32")), **lists})
        return _describe("Revisited Oxford and Paris protocol.", self, features)

    def _compute(self, similarities: Any, easy: Any, hard: Any, junk: Any, **kwargs: Any) -> dict[str, Any]:
        return revisited_retrieval_metrics(similarities, easy, hard, junk, **kwargs)


class TopKAccuracy(evaluate.Metric):
    """`top_k_accuracy` for `evaluate`: predictions are logits, references are class numbers.

    Example:
        ```python
        >>> TopKAccuracy().compute(predictions=[[0.1, 0.9], [0.8, 0.2]], references=[1, 1], ks=(1, 2))
        {'top1': 0.5, 'top2': 1.0}
        ```
    """

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": ListOf(Value("float32")), "references": Value("int64")})
        return _describe("Share of samples whose class is among the k highest logits.", self, features)

    def _compute(self, predictions: Any, references: Any, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
        return top_k_accuracy(predictions, references, ks)


class ClusteringAccuracy(evaluate.Metric):
    """`clustering_accuracy` for `evaluate`: predictions are clusters, references are classes.

    Both are integers or strings. `known_mask` is a column like them: every `add_batch` needs its part of it.

    Example:
        ```python
        >>> metric = ClusteringAccuracy()
        >>> metric.compute(predictions=[1, 1, 0, 1], references=[0, 0, 1, 1], known_mask=[True, True, False, False])
        {'all': 0.75, 'old': 1.0, 'new': 0.5}
        ```
    """

    def _info(self) -> evaluate.MetricInfo:
        features = [
            Features({"predictions": Value(found), "references": Value(true), "known_mask": Value("bool")})
            for found, true in product(("int64", "string"), repeat=2)
        ]
        return _describe("Accuracy of clusters on all, known and novel classes.", self, features)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Adds samples. See `evaluate.Metric.add_batch`.

        Raises:
            ClipAlignError: There is no `known_mask`.
        """
        if kwargs.get("known_mask") is None:
            raise ClipAlignError("known_mask is missing: give it with predictions and references, batch by batch")
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions: Any, references: Any, known_mask: Any, balanced: bool = False) -> dict[str, float]:
        return clustering_accuracy(references, predictions, known_mask, balanced)


def _describe(text: str, metric: evaluate.Metric, features: Any) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=text, citation="", inputs_description=type(metric).__doc__ or "", features=features
    )
