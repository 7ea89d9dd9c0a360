"""Tasks: what is compared with what, and on which classes a choice is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._checks.sequences import as_list
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import JudgedRetrieval
from hf_clipalign.evaluation.classification import nearest_class_mean_logits
from hf_clipalign.evaluation.heads import Head
from hf_clipalign.features.in_memory import Features
from hf_clipalign.features.interchange.embeddings import EmbeddingStore
from hf_clipalign.features.rows import not_features
from hf_clipalign.metrics import (
    mean_per_class_accuracy,
    retrieval_metrics,
    retrieval_metrics_from_qrels,
    top_k_accuracy,
)


class LabelledRetrieval(NamedTuple):
    """One retrieval task on features before the projector.

    Attributes:
        query (`Tensor [Q, w]`), gallery (`Tensor [G, w]`): features before the projector.
        query_labels (array `[Q]`), gallery_labels (array `[G]`): equal labels are relevant to each other.
        exclude_self (`bool`, *optional*, defaults to `False`): query i is gallery item i and is no match for itself.

    Example:
        ```python
        >>> LabelledRetrieval(torch.eye(2), torch.eye(2), ["cat", "dog"], ["dog", "cat"]).exclude_self
        False
        ```
    """

    query: Tensor
    gallery: Tensor
    query_labels: Any
    gallery_labels: Any
    exclude_self: bool = False


class JudgedPairs(NamedTuple):
    """One retrieval task whose relevance is judged pair by pair; see `retrieval_metrics_from_qrels`.

    Attributes:
        query (`Tensor [Q, w]`), gallery (`Tensor [G, w]`): features before the projector.
        relevant (`Sequence[Sequence[int]]`): for each query the positions of its relevant items.
        grades (`Sequence[Sequence[float]]`): how relevant they are.
        excluded (`np.ndarray [Q]`): position that is no match for the query, -1 for none.

    Example:
        ```python
        >>> task = JudgedPairs(torch.eye(2), torch.eye(2), [[0], [1]], [[1], [1]], np.array([-1, -1]))
        >>> task.query_labels.tolist()
        [0, 1]
        ```
    """

    query: Tensor
    gallery: Tensor
    relevant: Sequence[Any]
    grades: Sequence[Any]
    excluded: Any

    @property
    def query_labels(self) -> Any:
        """Every query stands for itself."""
        return np.arange(len(self.query))


RetrievalTask = LabelledRetrieval | JudgedPairs


def score_retrieval(task: RetrievalTask, query: Tensor, gallery: Tensor, **options: Any) -> dict[str, Any]:
    """The metrics of a task for other features of the same items, `[Q, k]` and `[G, k]`."""
    if isinstance(task, JudgedPairs):
        return retrieval_metrics_from_qrels(query, gallery, task.relevant, task.grades, task.excluded, **options)
    return retrieval_metrics(query, gallery, task.query_labels, task.gallery_labels, task.exclude_self, **options)


def retrieval_task(query: Features, gallery: Features | None = None) -> LabelledRetrieval:
    """A retrieval task: items of one class are relevant to each other.

    Args:
        query (`Features`): labelled features.
        gallery (`Features`, *optional*): what is searched. Default: the queries, each without its self-match.

    Returns:
        `LabelledRetrieval`. Classes of two sources are matched by their names.

    Raises:
        `ClipAlignError`: no labels, or two sources without a common class.

    Example:
        ```python
        >>> task = retrieval_task(features)
        >>> task.query.shape, task.exclude_self
        (torch.Size([24, 128]), True)
        ```
    """
    query_labels = class_labels(query)
    if gallery is None:
        return LabelledRetrieval(query.values, query.values, query_labels, query_labels, exclude_self=True)
    gallery_labels = class_labels(gallery)
    if not np.isin(query_labels, gallery_labels).any():
        raise ClipAlignError(
            f"query and gallery have no class in common (queries: {_some(query_labels)}; gallery: "
            f"{_some(gallery_labels)}): classes are matched by name."
        )
    return LabelledRetrieval(query.values, gallery.values, query_labels, gallery_labels)


def split_by_class(task: LabelledRetrieval, seed: int = 0) -> tuple[LabelledRetrieval, LabelledRetrieval]:
    """Halves a task by classes: one half to choose a band on, the other to report.

    Args:
        task (`LabelledRetrieval`): the task.
        seed (`int`, *optional*, defaults to `0`): of the draw.

    Returns:
        The two halves: no class, and so no query and no gallery item, is in both.

    Raises:
        `ClipAlignError`: fewer than four classes.

    Example:
        ```python
        >>> chosen_on, reported_on = split_by_class(retrieval_task(features))
        >>> len(set(chosen_on.query_labels)), len(set(reported_on.query_labels))
        (6, 6)
        ```
    """
    classes = np.unique(np.asarray(task.query_labels))
    if len(classes) < 4:
        raise ClipAlignError(
            f"a band cannot be chosen and reported on {len(classes)} classes: give a band, or data with "
            "at least four classes."
        )
    chosen = np.random.default_rng(seed).permutation(classes)[: len(classes) // 2]
    return _restrict(task, chosen), _restrict(task, np.setdiff1d(np.unique(np.asarray(task.gallery_labels)), chosen))


def judged_task(queries: Features, corpus: Features, judged: JudgedRetrieval) -> JudgedPairs:
    """A retrieval task from features of `judged.queries` and `judged.corpus`, in their order.

    Args:
        queries (`Features`), corpus (`Features`): of the texts of `judged`.
        judged (`JudgedRetrieval`): which texts are relevant, from `load_qrels`.

    Example:
        ```python
        >>> from hf_clipalign.data import JudgedRetrieval, TextSource
        >>> queries, corpus = TextSource(["cat", "dog"]), TextSource(["a dog", "a cat"])
        >>> judged = JudgedRetrieval(queries, corpus, [[1], [0]], [[1], [1]], np.array([-1, -1]))
        >>> embeds = [extract_text_features(model, part.texts, processor) for part in (queries, corpus)]
        >>> judged_task(*embeds, judged).relevant
        [[1], [0]]
        ```
    """
    return JudgedPairs(queries.values, corpus.values, judged.relevant, judged.grades, judged.excluded)


def split_by_query(task: JudgedPairs, seed: int = 0) -> tuple[JudgedPairs, JudgedPairs]:
    """Halves a judged task by queries; both halves search the full gallery.

    Args:
        task (`JudgedPairs`): at least four queries.
        seed (`int`, *optional*, defaults to `0`): of the halves.

    Raises:
        `ClipAlignError`: fewer than four queries.

    Example:
        ```python
        >>> task = JudgedPairs(torch.eye(4), torch.eye(4), [[0], [1], [2], [3]], [[1]] * 4, np.full(4, -1))
        >>> [len(half.query) for half in split_by_query(task)]
        [2, 2]
        ```
    """
    if len(task.query) < 4:
        raise ClipAlignError(f"a band cannot be chosen and reported on {len(task.query)} queries: give a band.")
    order = np.random.default_rng(seed).permutation(len(task.query))
    halves = (np.sort(half) for half in np.array_split(order, 2))
    relevant, grades = as_list(task.relevant, "relevant"), as_list(task.grades, "grades")
    first, second = (
        task._replace(
            query=task.query[torch.from_numpy(rows)],
            relevant=[relevant[row] for row in rows],
            grades=[grades[row] for row in rows],
            excluded=np.asarray(task.excluded)[rows],
        )
        for rows in halves
    )
    return first, second


def class_labels(features: Features) -> np.ndarray:
    """Labels as class names where there are names, else as numbers, `[N]`.

    Args:
        features (`Features`): with labels.

    Raises:
        `ClipAlignError`: the features have no labels.

    Example:
        ```python
        >>> class_labels(features).shape, len(set(class_labels(features)))
        ((24,), 12)
        ```
    """
    if isinstance(features, EmbeddingStore):
        raise not_features(str(features.folder))
    if features.labels is None:
        raise ClipAlignError(
            "these features have no labels: give a folder with one sub-folder per class, or name the label column."
        )
    if features.class_names is None:
        return np.asarray(features.labels)
    return np.asarray(features.class_names)[features.labels]


def nearest_class_mean_scores(heads: Sequence[Head], train: Features, test: Features) -> list[dict[str, Any]]:
    """Nearest-class-mean accuracy of every head, one dictionary each.

    Args:
        heads (`Sequence[Head]`): how features are compared.
        train (`Features`), test (`Features`): with labels.

    Raises:
        `ClipAlignError`: no labels, or a test class that the training data do not have.

    Example:
        ```python
        >>> rows = nearest_class_mean_scores(comparison_heads(encoder, names=["raw"]), features, features)
        >>> rows[0]["head"], rows[0]["dimension"]
        ('raw', 128)
        ```
    """
    train_names, test_names = class_labels(train), class_labels(test)
    names = np.unique(train_names)
    unknown = np.setdiff1d(test_names, names)
    if len(unknown):
        raise ClipAlignError(f"the training data have no image of {_some(unknown)}: a class mean needs at least one.")
    train_labels, labels = np.searchsorted(names, train_names), np.searchsorted(names, test_names)
    rows = []
    for head in heads:
        logits = nearest_class_mean_logits(head, train.values, train_labels, test.values, len(names))
        balanced = mean_per_class_accuracy(logits, labels)
        scores = top_k_accuracy(logits, labels, ks=tuple(k for k in (1, 5) if k <= len(names)))
        rows.append({"head": head.name, "dimension": head.width(test.values), **scores, "mean_per_class": balanced})
    return rows


def _restrict(task: LabelledRetrieval, classes: np.ndarray) -> LabelledRetrieval:
    query_labels, gallery_labels = np.asarray(task.query_labels), np.asarray(task.gallery_labels)
    query_rows, gallery_rows = np.isin(query_labels, classes), np.isin(gallery_labels, classes)
    return LabelledRetrieval(
        task.query[torch.from_numpy(query_rows)],
        task.gallery[torch.from_numpy(gallery_rows)],
        query_labels[query_rows],
        gallery_labels[gallery_rows],
        task.exclude_self,
    )


def _some(values: np.ndarray, most: int = 5) -> str:
    distinct = np.unique(values)
    return ", ".join(map(str, distinct[:most])) + ("…" if len(distinct) > most else "")
