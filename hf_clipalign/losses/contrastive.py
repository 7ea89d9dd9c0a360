"""Contrastive losses of images and their texts: softmax (CLIP) and sigmoid (SigLIP)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._tensors import check_tensors

Number = float | Tensor


def contrastive_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Number, *, positives: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE: each image must find its text among all texts, each text its image among all images.

    This is the loss of CLIP (arXiv 2103.00020, figure 3). With several positives, as when an image has many captions,
    the target of a row is shared equally by its positives: −1/|P(i)| Σ_{p ∈ P(i)} log softmax(i)_p, the outer form of
    supervised contrastive learning (arXiv 2004.11362, equation 2) in both directions. Positives are then no negatives
    of each other, and every image and every text has the same weight, however many partners it has. Computed in
    float32, whatever the type of the embeddings (under autocast: switch it off around the call).

    Args:
        image_embeds (`Tensor [N, d]`): images; normalised here.
        text_embeds (`Tensor [M, d]`): texts; normalised here.
        logit_scale (`float` or scalar `Tensor`): factor on the cosines, one over the temperature.
        positives (`BoolTensor [N, M]`, *optional*): which text belongs to which image. Default: row i to row i.

    Returns:
        `Tensor`: the mean over images and the mean over texts, averaged; a scalar.

    Raises:
        `ClipAlignError`: no tensors, shapes that do not fit, a scale that is not positive and finite, an image or a
            text without a partner.

    Example:
        ```python
        >>> contrastive_loss(torch.eye(2), torch.eye(2), logit_scale=1.0)
        tensor(0.3133)
        ```
    """
    cosines, positives = _cosines_and_positives(image_embeds, text_embeds, positives)
    _check_scale(logit_scale)
    for name, rows in (("image", positives.any(dim=1)), ("text", positives.any(dim=0))):
        if not rows.all():
            alone = int((~rows).nonzero()[0])
            raise ClipAlignError(f"{name} {alone} has no positive partner: leave it out, or mark one in positives")
    logits = logit_scale * cosines
    return (_shared_cross_entropy(logits, positives) + _shared_cross_entropy(logits.T, positives.T)) / 2


def sigmoid_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Number,
    logit_bias: Number = 0.0,
    *,
    positives: Tensor | None = None,
) -> Tensor:
    """Pairwise sigmoid loss: every image with every text is one yes-or-no question (SigLIP, arXiv 2303.15343).

    Σ_ij softplus(−z_ij (s cos_ij + b)) / N with z = 1 for positives and −1 for all others (algorithm 1). Several
    positives need nothing special: each is a question of its own. Computed in float32, whatever the type of the
    embeddings (under autocast: switch it off around the call).

    Args:
        image_embeds (`Tensor [N, d]`): images; normalised here.
        text_embeds (`Tensor [M, d]`): texts; normalised here.
        logit_scale (`float` or scalar `Tensor`): factor s on the cosines.
        logit_bias (`float` or scalar `Tensor`): offset b. SigLIP starts at −10. Default 0.
        positives (`BoolTensor [N, M]`, *optional*): which text belongs to which image. Default: row i to row i.

    Returns:
        `Tensor`: the sum over all pairs divided by the number of images, a scalar.

    Raises:
        `ClipAlignError`: no tensors, shapes that do not fit, or a scale that is not positive and finite.

    Example:
        ```python
        >>> sigmoid_loss(torch.eye(2), torch.eye(2), logit_scale=10.0, logit_bias=-5.0)
        tensor(0.0134)
        ```
    """
    cosines, positives = _cosines_and_positives(image_embeds, text_embeds, positives)
    _check_scale(logit_scale)
    logits = logit_scale * cosines + logit_bias
    return F.softplus(torch.where(positives, -logits, logits)).sum() / len(logits)


def _cosines_and_positives(images: Tensor, texts: Tensor, positives: Tensor | None) -> tuple[Tensor, Tensor]:
    check_tensors(image_embeds=images, text_embeds=texts)
    if positives is not None:
        check_tensors(positives=positives)
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1] or not len(images) or not len(texts):
        raise ClipAlignError(
            f"image_embeds {tuple(images.shape)} and text_embeds {tuple(texts.shape)} must be [N, d] and [M, d] with "
            "the same d, of one row or more"
        )
    if positives is None and len(images) != len(texts):
        raise ClipAlignError(
            f"{len(images)} images and {len(texts)} texts are no pairs: give as many of both, or say in positives "
            "which belong together"
        )
    if positives is None:
        positives = torch.eye(len(images), dtype=torch.bool, device=images.device)
    if positives.dtype != torch.bool or positives.shape != (len(images), len(texts)):
        raise ClipAlignError(
            f"positives must be booleans [{len(images)}, {len(texts)}], one for each image and text; they are "
            f"{positives.dtype} {tuple(positives.shape)}"
        )
    return F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T, positives


def _check_scale(logit_scale: Number) -> None:
    # a learned scale that has become NaN gives a loss of NaN, as any other weight: training tells where it happened
    if logit_scale <= 0 or not (isinstance(logit_scale, Tensor) or math.isfinite(logit_scale)):
        raise ClipAlignError(f"logit_scale must be positive and finite, not {float(logit_scale):g}")


def _shared_cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    """Mean cross-entropy of the rows; the target of a row is shared equally by its positives."""
    log_probabilities = logits.log_softmax(dim=-1).masked_fill(~positives, 0.0)
    return -(log_probabilities.sum(dim=-1) / positives.sum(dim=-1)).mean()
