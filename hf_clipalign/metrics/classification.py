"""Accuracies, and the means that a nearest-class-mean classifier compares with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_clipalign._checks.tensors import as_numbers
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import in_float32_range
from hf_clipalign.metrics._inputs import as_matrix, check_ks


def top_k_accuracy(logits: Any, labels: Any, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Share of samples whose class is among the k highest logits.

    A class that ties with the right one stands before it, so a model that gives all classes the same logit gets no
    credit.

    Args:
        logits (array `[N, C]`): any scale.
        labels (array `[N]`): class numbers in [0, C).
        ks (`Sequence[int]`, *optional*, defaults to (1, 5)): cut-offs; one of C or more gives 1.

    Returns:
        `top<k>` for every k, a fraction in [0, 1].

    Raises:
        `ClipAlignError`: Lengths do not fit, a label is outside [0, C), or logits are not finite.

    Example:
        ```python
        >>> top_k_accuracy([[0.1, 0.9], [0.8, 0.2]], [1, 1], ks=(1, 2))
        {'top1': 0.5, 'top2': 1.0}
        ```
    """
    table = as_matrix(logits, "logits")
    target = _class_numbers(labels, "labels", len(table), table.shape[1], table.device)
    rank = _ranks(table, target)
    return {f"top{k}": (rank <= k).double().mean().item() for k in check_ks(ks)}


def mean_per_class_accuracy(predictions: Any, labels: Any) -> float:
    """Accuracy of each class that occurs in `labels`, averaged with equal weight (balanced accuracy).

    Args:
        predictions (array `[N, C]`): logits, of which the highest counts, or predicted class numbers [N]. Logits of
            classes that tie are treated as in `top_k_accuracy`: the others stand before the right one.
        labels (array `[N]`): class numbers.

    Returns:
        A fraction in [0, 1].

    Raises:
        `ClipAlignError`: Lengths do not fit or a label is outside the range of the logits.

    Example:
        ```python
        >>> mean_per_class_accuracy([0, 0, 0, 0], [0, 0, 0, 1])
        0.5
        ```
    """
    given = as_numbers(predictions, "predictions")
    if given.ndim == 2:
        table = as_matrix(given, "predictions")
        target = _class_numbers(labels, "labels", len(table), table.shape[1], table.device)
        right = _ranks(table, target) == 1
    else:
        predicted = _class_numbers(given, "predictions", len(given), None, given.device)
        target = _class_numbers(labels, "labels", len(predicted), None, predicted.device)
        right = predicted == target
    _, compact, counts = target.unique(return_inverse=True, return_counts=True)
    return (torch.bincount(compact[right], minlength=len(counts)).double() / counts).mean().item()


def nearest_class_mean(features: Any, labels: Any, n_classes: int | None = None) -> Tensor:
    """Mean feature of every class; classify by the cosine with these means.

    The features are averaged as they come, NOT scaled to unit length first: means taken before a projector can be
    projected afterwards, which is how IsoCLIP's nearest-class-mean classifier is built.

    Args:
        features (array `[N, w]`): features.
        labels (array `[N]`): class numbers.
        n_classes (`int`, *optional*): C; by default the highest label plus one.

    Returns:
        Means [C, w] in float32 on the device of the features; where these are beyond the range of float32, all
        multiplied by one power of two.

    Raises:
        `ClipAlignError`: A class has no sample, a label is outside [0, C), or features are not finite.

    Example:
        ```python
        >>> nearest_class_mean([[1.0, 3.0], [3.0, 5.0]], [0, 0])
        tensor([[2., 4.]])
        ```
    """
    table = in_float32_range(as_matrix(features, "features"))
    target = _class_numbers(labels, "labels", len(table), n_classes, table.device)
    n_classes = int(target.max()) + 1 if n_classes is None else n_classes
    counts = torch.bincount(target, minlength=n_classes)
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        raise ClipAlignError(
            f"no sample of class {', '.join(map(str, empty[:5]))}: every class in [0, {n_classes}) needs at least one"
        )
    return table.new_zeros(n_classes, table.shape[1]).index_add_(0, target, table) / counts[:, None]


def _ranks(logits: Tensor, target: Tensor) -> Tensor:
    """Place of the right class, from 1; classes that tie with it stand before it."""
    return (logits >= logits.gather(1, target[:, None])).sum(1)


def _class_numbers(labels: Any, name: str, length: int, n_classes: int | None, device: torch.device) -> Tensor:
    target = as_numbers(labels, name, device=device)
    if target.ndim != 1 or len(target) != length:
        raise ClipAlignError(
            f"{name} must hold one class number for each of the {length} rows, got shape {tuple(target.shape)}"
        )
    if target.is_floating_point() or not length:
        raise ClipAlignError(f"{name} must be integers, at least one, got {length} of type {target.dtype}")
    highest = int(target.max())
    if int(target.min()) < 0 or (n_classes is not None and highest >= n_classes):
        wrong = int(target.min()) if int(target.min()) < 0 else highest
        raise ClipAlignError(
            f"{name} holds class number {wrong}, outside [0, {'…' if n_classes is None else n_classes})"
        )
    return target.long()
