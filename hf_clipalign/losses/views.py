"""Losses of two views of the same images: first views in rows 0 … N−1, second views in rows N … 2N−1."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.tensors import check_tensors
from hf_clipalign._errors import ClipAlignError


def info_nce_loss(features: Tensor, temperature: float = 1.0, *, own: slice = slice(None)) -> Tensor:
    """InfoNCE between two views: each row must find its other view among all rows but itself.

    With another temperature this is NT-Xent of SimCLR (arXiv 2002.05709, equation 1). SpectralGCD (arXiv 2602.17395)
    uses 1.0. Computed in float32, whatever the type of the features.

    Relations: `supervised_contrastive_loss` without labels is the same for any number of views of unit length;
    `contrastive_loss` is the same between images and texts.

    Args:
        features (`Tensor [2N, d]`): rows 0 … N−1 are the first views, rows N … 2N−1 the second views of the same N
            images; normalised here.
        temperature (`float`, *optional*, defaults to 1.0): divides the cosines.
        own (`slice`, *optional*, defaults to all): the images, of N, whose rows are computed. The values of disjoint
            parts add up to the loss, which is how processes share it.

    Returns:
        `Tensor`: the mean cross-entropy, a scalar.

    Raises:
        `ClipAlignError`: the features are not `[2N, d]`, or the temperature is not positive.

    Example:
        ```python
        >>> info_nce_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
        tensor(0.5514)
        ```
    """
    check_tensors(features=features)
    _check_views(features)
    _check_temperature(temperature)
    units = F.normalize(features.float(), dim=-1)
    places = torch.arange(len(units), device=units.device)
    rows = torch.cat([half[own] for half in places.chunk(2)])
    logits = units[rows] @ units.T / temperature
    logits = logits.masked_fill(rows[:, None] == places, float("-inf"))
    return F.cross_entropy(logits, places.roll(len(units) // 2)[rows], reduction="sum") / len(units)


def view_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None = None,
    *,
    teacher_temperature: float,
    student_temperature: float = 0.1,
) -> Tensor:
    """Self-distillation between two views: each view must predict the sharper class distribution of the other one.

    The clustering term of SimGCD (arXiv 2211.11727, equation 3) and SpectralGCD (arXiv 2602.17395): the mean of the
    two cross-entropies between views, in float32. The teacher gets no gradient.

    Args:
        student_logits (`Tensor [2N, C]`): class logits of first views, then of second views.
        teacher_logits (`Tensor [2N, C]`, *optional*): the same of the teacher. Default: the student's, detached.
        teacher_temperature (`float`): divides the teacher's logits; see `teacher_temperature`.
        student_temperature (`float`, *optional*, defaults to 0.1): divides the student's logits.

    Returns:
        `Tensor`: a scalar.

    Raises:
        `ClipAlignError`: the logits are not `[2N, C]` or of different shapes; a temperature is not positive.

    Example:
        ```python
        >>> view_distillation_loss(torch.tensor([[0.1, 0.0], [0.1, 0.0]]), teacher_temperature=0.04)
        tensor(0.3891)
        ```
    """
    check_tensors(student_logits=student_logits)
    _check_views(student_logits)
    _check_temperature(teacher_temperature)
    _check_temperature(student_temperature)
    teacher_logits = student_logits if teacher_logits is None else teacher_logits
    check_tensors(teacher_logits=teacher_logits)
    if teacher_logits.shape != student_logits.shape:
        raise ClipAlignError(
            f"teacher logits {tuple(teacher_logits.shape)} and student logits {tuple(student_logits.shape)} "
            "must be of the same views and classes"
        )
    targets = (teacher_logits.detach().float() / teacher_temperature).softmax(dim=-1)
    other_views = targets.roll(len(targets) // 2, dims=0)
    return F.cross_entropy(student_logits.float() / student_temperature, other_views)


def mean_entropy_regularizer(logits: Tensor, temperature: float = 0.1) -> Tensor:
    """How far the mean prediction of a batch is from using all classes alike: log C − H(mean softmax).

    0 where all classes are used alike, log C where all rows fall into one class. Computed in float32. Where a batch is
    spread over processes, gather the logits first: the mean is over all rows.

    Args:
        logits (`Tensor [M, C]`): class logits of all views.
        temperature (`float`, *optional*, defaults to 0.1): divides them.

    Returns:
        `Tensor`: a scalar in [0, log C].

    Raises:
        `ClipAlignError`: the logits are not `[M, C]`; the temperature is not positive.

    Example:
        ```python
        >>> mean_entropy_regularizer(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor(0.6926)
        ```
    """
    check_tensors(logits=logits)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ClipAlignError(f"class logits are [rows, classes]; these are {tuple(logits.shape)}")
    _check_temperature(temperature)
    # in the logarithm: a class that no row falls into has probability 0, and 0 · log 0 is NaN
    log_mean = (logits.float() / temperature).log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
    return math.log(logits.shape[1]) + (log_mean.exp() * log_mean).sum()


def teacher_temperature(epoch: int, start: float = 0.07, end: float = 0.04, warmup_epochs: int = 30) -> float:
    """The temperature of the self-distillation's teacher: linear over the first epochs, then constant.

    Args:
        epoch (`int`): the epoch, from 0.
        start (`float`, *optional*, defaults to 0.07): temperature of epoch 0.
        end (`float`, *optional*, defaults to 0.04): temperature of epoch `warmup_epochs` − 1 and of all later ones.
        warmup_epochs (`int`, *optional*, defaults to 30): length of the way; 0 or 1 for `end` throughout.

    Returns:
        `float`: the temperature.

    Example:
        ```python
        >>> [round(teacher_temperature(epoch), 4) for epoch in (0, 10, 29, 100)]
        [0.07, 0.0597, 0.04, 0.04]
        ```
    """
    if epoch >= warmup_epochs - 1:
        return end
    return start + (end - start) * epoch / (warmup_epochs - 1)


def _check_views(rows: Tensor) -> None:
    if rows.ndim != 2 or len(rows) == 0 or len(rows) % 2:
        raise ClipAlignError(f"two views of N images are [2N, d], first views first; these are {tuple(rows.shape)}")


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ClipAlignError(f"the temperature must be positive, not {temperature}")
