"""The loss of SpectralGCD (ICLR 2026, arXiv 2602.17395), term by term."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.tensors import check_tensors
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.losses.kdpl import kdpl_loss
from hf_clipalign.losses.supervised_contrastive import supervised_contrastive_loss
from hf_clipalign.losses.views import info_nce_loss, mean_entropy_regularizer, view_distillation_loss


def spectral_gcd_losses(
    logits: Tensor,
    embeddings: Tensor,
    cross_modal: Tensor,
    labels: Tensor,
    teacher_cross_modal: Tensor | None,
    *,
    teacher_temperature: float,
    supervised_weight: float = 0.35,
    mean_entropy_weight: float = 2.0,
    distillation_weight: float = 1.0,
    student_temperature: float = 0.1,
    contrastive_temperature: float = 1.0,
    supervised_contrastive_temperature: float = 0.07,
) -> dict[str, Tensor]:
    """All terms and their sum, for two views of N images, of which some are labelled.

    loss = (1 − λ) (clustering + InfoNCE) + λ (cross-entropy + SupCon) + distillation, where clustering is the
    self-distillation between views plus ε times the mean-entropy term, and distillation is both Kullback-Leibler
    distances between the concept distributions of the student's views and of the teacher's plain image. A batch
    without labels has the supervised terms 0. Where a batch is spread over processes, gather the arguments first.

    Args:
        logits (`Tensor [2N, K]`): class cosines; first views, then second views.
        embeddings (`Tensor [2N, e]`): outputs of the head's MLP.
        cross_modal (`Tensor [2N, C]`): the student's similarities to the concepts, divided by their temperature.
        labels (integer `Tensor [N]`): classes from 0 to K − 1; −1 for unlabelled images.
        teacher_cross_modal (`Tensor [N, C]`, *optional*): the teacher's similarities, scaled alike. None: no
            distillation.
        teacher_temperature (`float`): see `hf_clipalign.losses.teacher_temperature`.
        supervised_weight (`float`, *optional*, defaults to 0.35): λ.
        mean_entropy_weight (`float`, *optional*, defaults to 2.0): ε.
        distillation_weight (`float`, *optional*, defaults to 1.0): of both distances.
        student_temperature (`float`, *optional*, defaults to 0.1): of the class logits.
        contrastive_temperature (`float`, *optional*, defaults to 1.0): of InfoNCE.
        supervised_contrastive_temperature (`float`, *optional*, defaults to 0.07): of SupCon.

    Returns:
        `dict`: `loss`, `cross_entropy`, `clustering` (with its mean-entropy term), `mean_entropy`, `info_nce`,
        `supcon`, and with a teacher `forward_kl` and `reverse_kl`. Scalars.

    Raises:
        `ClipAlignError`: no tensors, the shapes do not fit, or a label is none of the K classes.

    Example:
        ```python
        >>> views = torch.eye(2).repeat(2, 1)
        >>> losses = spectral_gcd_losses(views, views, views, torch.tensor([0, -1]), None, teacher_temperature=0.07)
        >>> list(losses)
        ['loss', 'cross_entropy', 'mean_entropy', 'info_nce', 'supcon', 'clustering']
        ```
    """
    check_tensors(logits=logits, embeddings=embeddings, cross_modal=cross_modal, labels=labels)
    if teacher_cross_modal is not None:
        check_tensors(teacher_cross_modal=teacher_cross_modal)
    n = len(labels)
    if logits.ndim != 2 or not len(logits) == len(embeddings) == len(cross_modal) == 2 * n:
        raise ClipAlignError(
            f"{n} labels go with two views, {2 * n} rows, not {len(logits)} logits, {len(embeddings)} embeddings and "
            f"{len(cross_modal)} concept rows"
        )
    if labels.is_floating_point() or not bool(((labels >= -1) & (labels < logits.shape[1])).all()):
        raise ClipAlignError(f"labels must be integers from -1 (unlabelled) to {logits.shape[1] - 1}, the last class")
    labels = labels.long()
    labelled = labels >= 0
    terms = {
        "cross_entropy": _cross_entropy(logits / student_temperature, labels.repeat(2)),
        "mean_entropy": mean_entropy_regularizer(logits, student_temperature),
        "info_nce": info_nce_loss(embeddings, contrastive_temperature),
        "supcon": supervised_contrastive_loss(
            F.normalize(embeddings.float(), dim=-1).unflatten(0, (2, n)).transpose(0, 1)[labelled],
            labels[labelled],
            supervised_contrastive_temperature,
        ),
    }
    terms["clustering"] = mean_entropy_weight * terms["mean_entropy"] + view_distillation_loss(
        logits, teacher_temperature=teacher_temperature, student_temperature=student_temperature
    )
    unsupervised = terms["clustering"] + terms["info_nce"]
    supervised = terms["cross_entropy"] + terms["supcon"]
    loss = (1 - supervised_weight) * unsupervised + supervised_weight * supervised
    if teacher_cross_modal is not None:
        distances = kdpl_loss(cross_modal, teacher_cross_modal.repeat(2, 1))
        terms |= {name: distances[name] for name in ("forward_kl", "reverse_kl")}
        loss = loss + distillation_weight * (terms["forward_kl"] + terms["reverse_kl"])
    return {"loss": loss, **terms}


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the rows with a label; 0 where there is none."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")
    return total / torch.clamp((labels >= 0).sum(), min=1)
