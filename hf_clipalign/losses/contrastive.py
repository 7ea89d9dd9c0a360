"""Contrastive losses of images and their texts: softmax (CLIP) and sigmoid (SigLIP)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.tensors import check_tensors
from hf_clipalign._errors import ClipAlignError

Number = float | Tensor
Groups = tuple[Tensor, Tensor]
Own = tuple[slice, slice]

_ALL = slice(None)


def contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Number,
    *,
    positives: Tensor | None = None,
    groups: Groups | None = None,
    own: Own = (_ALL, _ALL),
) -> Tensor:
    """Symmetric InfoNCE: each image must find its text among all texts, each text its image among all images.

    This is the loss of CLIP (arXiv 2103.00020, figure 3). With several positives, as when an image has many captions,
    the target of a row is shared equally by its positives: −1/|P(i)| Σ_{p ∈ P(i)} log softmax(i)_p, the outer form of
    supervised contrastive learning (arXiv 2004.11362, equation 2) in both directions. Positives are then no negatives
    of each other, and every image and every text has the same weight, however many partners it has. Computed in
    float32, whatever the type of the embeddings (under autocast: switch it off around the call).

    Relations: `sigmoid_loss` asks about every pair by itself, without a softmax over the batch. `info_nce_loss` is the
    same between two views of images, and `supervised_contrastive_loss` between any number of views of classes.

    Args:
        image_embeds (`Tensor [N, d]`): images; normalised here.
        text_embeds (`Tensor [M, d]`): texts; normalised here.
        logit_scale (`float` or scalar `Tensor`): factor on the cosines, one over the temperature.
        positives (`BoolTensor [N, M]`, *optional*, defaults to row i with row i): which text belongs to which image.
        groups (`(LongTensor [N], LongTensor [M])`, *optional*): in the place of `positives`: images and texts of the
            same group belong together.
        own (`(slice, slice)`, *optional*, defaults to all): the images and the texts whose rows are computed. The
            values of disjoint parts add up to the loss, which is how processes share it.

    Returns:
        `Tensor`: the mean over images and the mean over texts, averaged; a scalar.

    Raises:
        `ClipAlignError`: no tensors, shapes that do not fit, a scale that is not positive and finite, an image or a
            text without a partner.

    Example:
        ```python
        >>> contrastive_loss(torch.eye(2), torch.eye(2), logit_scale=1.0)
        tensor(0.3133)
        >>> contrastive_loss(torch.eye(2), torch.eye(2), logit_scale=1.0, own=(slice(0, 1), slice(0, 1)))
        tensor(0.1566)
        ```
    """
    _check(image_embeds, text_embeds, logit_scale, positives, groups)
    images, texts = F.normalize(image_embeds.float(), dim=-1), F.normalize(text_embeds.float(), dim=-1)
    masks = _positives(len(images), len(texts), own, positives, groups, images.device)
    total = images.new_zeros(())
    for name, rows, queries, items, mask in (
        ("image", own[0], images, texts, masks[0]),
        ("text", own[1], texts, images, masks[1]),
    ):
        if not (found := mask.any(dim=1)).all():
            alone = int((~found).nonzero()[0]) + range(len(queries))[rows].start
            raise ClipAlignError(f"{name} {alone} has no positive partner: leave it out, or mark one in positives")
        total = total + _shared_cross_entropy(logit_scale * (queries[rows] @ items.T), mask) / (2 * len(queries))
    return total


def sigmoid_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Number,
    logit_bias: Number = 0.0,
    *,
    positives: Tensor | None = None,
    groups: Groups | None = None,
    own: slice = _ALL,
) -> Tensor:
    """Pairwise sigmoid loss: every image with every text is one yes-or-no question (SigLIP, arXiv 2303.15343).

    Σ_ij softplus(−z_ij (s cos_ij + b)) / N with z = 1 for positives and −1 for all others (algorithm 1). Several
    positives need nothing special: each is a question of its own. Computed in float32, whatever the type of the
    embeddings (under autocast: switch it off around the call).

    Relations: `contrastive_loss` lets the texts of a batch compete for an image by a softmax, and needs no bias.

    Args:
        image_embeds (`Tensor [N, d]`): images; normalised here.
        text_embeds (`Tensor [M, d]`): texts; normalised here.
        logit_scale (`float` or scalar `Tensor`): factor s on the cosines.
        logit_bias (`float` or scalar `Tensor`, *optional*, defaults to 0): offset b. SigLIP starts at −10.
        positives (`BoolTensor [N, M]`), groups (`(LongTensor [N], LongTensor [M])`): see `contrastive_loss`.
        own (`slice`, *optional*, defaults to all): the images whose rows are computed; see `contrastive_loss`.

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
    _check(image_embeds, text_embeds, logit_scale, positives, groups)
    images, texts = F.normalize(image_embeds.float(), dim=-1), F.normalize(text_embeds.float(), dim=-1)
    mask, _ = _positives(len(images), len(texts), (own, slice(0)), positives, groups, images.device)
    logits = logit_scale * (images[own] @ texts.T) + logit_bias
    return F.softplus(torch.where(mask, -logits, logits)).sum() / len(images)


def _check(
    images: Tensor, texts: Tensor, logit_scale: Number, positives: Tensor | None, groups: Groups | None
) -> None:
    check_tensors(image_embeds=images, text_embeds=texts)
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1] or not len(images) or not len(texts):
        raise ClipAlignError(
            f"image_embeds {tuple(images.shape)} and text_embeds {tuple(texts.shape)} must be [N, d] and [M, d] with "
            "the same d, of one row or more"
        )
    if positives is not None and groups is not None:
        raise ClipAlignError("give positives or groups, not both: each says which texts belong to which images")
    if positives is None and groups is None and len(images) != len(texts):
        raise ClipAlignError(
            f"{len(images)} images and {len(texts)} texts are no pairs: give as many of both, or say in positives "
            "which belong together"
        )
    if positives is not None:
        check_tensors(positives=positives)
        if positives.dtype != torch.bool or positives.shape != (len(images), len(texts)):
            raise ClipAlignError(
                f"positives must be booleans [{len(images)}, {len(texts)}], one for each image and text; they are "
                f"{positives.dtype} {tuple(positives.shape)}"
            )
    if groups is not None:
        check_tensors(image_groups=groups[0], text_groups=groups[1])
        shapes = tuple(groups[0].shape), tuple(groups[1].shape)
        if shapes != ((len(images),), (len(texts),)):
            raise ClipAlignError(
                f"groups must be one number for each of {len(images)} images and {len(texts)} texts; they have the "
                f"shapes {shapes[0]} and {shapes[1]}"
            )
    # a learned scale that has become NaN gives a loss of NaN, as any other weight: training tells where it happened
    if logit_scale <= 0 or not (isinstance(logit_scale, Tensor) or math.isfinite(logit_scale)):
        raise ClipAlignError(f"logit_scale must be positive and finite, not {float(logit_scale):g}")


def _positives(
    n_images: int,
    n_texts: int,
    own: Own,
    positives: Tensor | None,
    groups: Groups | None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Which texts belong to the own images `[n, M]`, and which images to the own texts `[m, N]`."""
    if positives is not None:
        return positives[own[0]], positives.T[own[1]]
    if groups is None:
        groups = torch.arange(n_images, device=device), torch.arange(n_texts, device=device)
    images, texts = groups
    return images[own[0], None] == texts, texts[own[1], None] == images


def _shared_cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    """Sum of the cross-entropies of the rows; the target of a row is shared equally by its positives."""
    log_probabilities = logits.log_softmax(dim=-1).masked_fill(~positives, 0.0)
    return -(log_probabilities.sum(dim=-1) / positives.sum(dim=-1)).sum()
