"""Supervised contrastive learning (arXiv 2004.11362)."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_clipalign._checks.tensors import check_tensors
from hf_clipalign._errors import ClipAlignError


def supervised_contrastive_loss(
    features: Tensor, labels: Tensor | None = None, temperature: float = 0.07, base_temperature: float = 0.07
) -> Tensor:
    """Draws all views of all images of a class together (SupCon, arXiv 2004.11362, equation 2, "out").

    Every view is an anchor; its positives are all other views of its label, its rivals all other views. Computed in
    float32, whatever the type of the features.

    Args:
        features (`Tensor [N, V, d]`): V views of N images, of unit length.
        labels (`LongTensor [N]`, array or list, *optional*): classes. Default: every image is its own class, so that
            only its other views are positives.
        temperature (`float`, *optional*, defaults to 0.07): divides the cosines.
        base_temperature (`float`, *optional*, defaults to 0.07): the loss is multiplied by temperature divided by it.

    Returns:
        `Tensor`: the mean over the anchors that have a positive; 0 where none has one, or where there is no image.

    Raises:
        `ClipAlignError`: features that are no tensor; the shapes do not fit; a temperature is not positive.

    Example:
        ```python
        >>> features = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
        >>> supervised_contrastive_loss(features, torch.tensor([0, 0]), temperature=1.0, base_temperature=1.0)
        tensor(1.2181)
        ```
    """
    check_tensors(features=features)
    if labels is not None:
        labels = torch.as_tensor(labels, device=features.device)
    if features.ndim != 3 or (labels is not None and labels.shape != features.shape[:1]):
        shape = None if labels is None else tuple(labels.shape)
        raise ClipAlignError(
            f"features are [images, views, d] and labels [images]; these are {tuple(features.shape)} and {shape}"
        )
    if not (temperature > 0 and base_temperature > 0):
        raise ClipAlignError(f"temperatures must be positive, not {temperature} and {base_temperature}")
    n_views = features.shape[1]
    views = features.float().flatten(0, 1)
    labels = torch.arange(len(features), device=features.device) if labels is None else labels
    groups = labels.repeat_interleave(n_views)
    itself = torch.eye(len(views), dtype=torch.bool, device=features.device)
    positives = (groups[:, None] == groups[None, :]) & ~itself
    logits = (views @ views.T / temperature).masked_fill(itself, float("-inf"))
    log_probabilities = logits.log_softmax(dim=-1).masked_fill(~positives, 0.0)
    n_positives = positives.sum(dim=-1)
    per_anchor = log_probabilities.sum(dim=-1) / n_positives.clamp(min=1)
    n_anchors = (n_positives > 0).sum().clamp(min=1)
    return -(temperature / base_temperature) * per_anchor.sum() / n_anchors
