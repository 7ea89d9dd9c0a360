"""RE-tune (2024, arXiv 2410.17827): multi-label decisions from positive and negative prompts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.tensors import check_tensors
from hf_clipalign._errors import ClipAlignError

SCORES = ("positive", "difference")


def retune_cosines(image_embeds: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of images with the positive and with the negative prompts of every finding, in float32.

    Args:
        image_embeds (`Tensor [N, d]`): adapted image embeddings, of any length.
        positive (`Tensor [F, d]`): for each finding the mean of its adapted positive prompts.
        negative (`Tensor [F, d]`): the same of its negative prompts.

    Returns:
        `(Tensor [N, F], Tensor [N, F])`: positive and negative cosines.

    Raises:
        `ClipAlignError`: no tensors, or the shapes do not fit.

    Example:
        ```python
        >>> retune_cosines(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        (tensor([[0.6000]]), tensor([[0.8000]]))
        ```
    """
    check_tensors(image_embeds=image_embeds, positive=positive, negative=negative)
    ranks = (image_embeds.ndim, positive.ndim, negative.ndim)
    if ranks != (2, 2, 2) or positive.shape != negative.shape or image_embeds.shape[1] != positive.shape[1]:
        raise ClipAlignError(
            f"image embeddings {tuple(image_embeds.shape)}, positive prompts {tuple(positive.shape)} and negative "
            f"prompts {tuple(negative.shape)} must be [N, d], [F, d] and [F, d]."
        )
    with torch.autocast(image_embeds.device.type, enabled=False):
        # scaling the few products is cheaper than scaling the embeddings
        prompts = F.normalize(torch.cat([positive, negative]).float(), dim=-1)
        images = image_embeds.float()
        cosines = images @ prompts.T / torch.linalg.vector_norm(images, dim=-1, keepdim=True).clamp(min=1e-12)
    return cosines[:, : len(positive)], cosines[:, len(positive) :]


def retune_logits(image_embeds: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """RE-tune's logits: cosine with the positive prompts minus cosine with the negative ones, without a scale.

    Args:
        image_embeds (`Tensor [N, d]`), positive (`Tensor [F, d]`), negative (`Tensor [F, d]`): see `retune_cosines`.

    Returns:
        `Tensor [N, F]`: in [-2, 2], float32.

    Example:
        ```python
        >>> retune_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([[1.]])
        ```
    """
    positive_cosines, negative_cosines = retune_cosines(image_embeds, positive, negative)
    return positive_cosines - negative_cosines


def masked_bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with logits, the mean over the entries whose target is known.

    Args:
        logits (`Tensor [N, F]`): see `retune_logits`.
        targets (`Tensor [N, F]`): 1 present, 0 absent, NaN not known.

    Returns:
        `Tensor []`: 0 where no target is known.

    Raises:
        `ClipAlignError`: no tensors, the shapes differ, or a target is another number.

    Example:
        ```python
        >>> masked_bce_loss(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]]))
        tensor(0.6931)
        ```
    """
    check_tensors(logits=logits, targets=targets)
    if not bool(((targets == 0) | (targets == 1) | targets.isnan()).all()):
        raise ClipAlignError("targets must be 1, 0, or NaN where they are not known: see FindingLabels.targets.")
    total, n_known = masked_bce_sum(logits, targets)
    return total / n_known.clamp(min=1)


def masked_bce_sum(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of `masked_bce_loss` and the number of known targets, for means over processes.

    Args:
        logits (`Tensor [N, F]`), targets (`Tensor [N, F]`): see `masked_bce_loss`; that the targets are 1, 0 or NaN is
            not checked here, in the middle of training.

    Returns:
        `(Tensor [], Tensor [])`: sum and number.

    Raises:
        `ClipAlignError`: no tensors, or the shapes differ.

    Example:
        ```python
        >>> masked_bce_sum(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        (tensor(1.3863), tensor(2))
        ```
    """
    check_tensors(logits=logits, targets=targets)
    if logits.shape != targets.shape:
        raise ClipAlignError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must be the same shape."
        )
    known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.float().nan_to_num(), reduction="none")
    return (losses * known).sum(), known.sum()


def retune_scores(positive_cosines: Tensor, negative_cosines: Tensor, kind: str = "positive") -> Tensor:
    """Scores in [0, 1] for curves and thresholds.

    Args:
        positive_cosines, negative_cosines (`Tensor [N, F]`): from `retune_cosines`.
        kind (`str`): `"positive"` (default, as published): (cos⁺ + 1) / 2, which does not look at the negative
            prompts; `"difference"`: (cos⁺ − cos⁻ + 2) / 4.

    Returns:
        `Tensor [N, F]`.

    Raises:
        `ClipAlignError`: no tensors, or another kind.

    Example:
        ```python
        >>> retune_scores(torch.tensor([[0.5]]), torch.tensor([[0.1]]))
        tensor([[0.7500]])
        >>> retune_scores(torch.tensor([[0.5]]), torch.tensor([[0.1]]), "difference")
        tensor([[0.6000]])
        ```
    """
    check_tensors(positive_cosines=positive_cosines, negative_cosines=negative_cosines)
    if kind not in SCORES:
        raise ClipAlignError(f"no kind of score {kind!r}: choose one of {', '.join(SCORES)}.")
    if kind == "positive":
        return (positive_cosines + 1) / 2
    return (positive_cosines - negative_cosines + 2) / 4


def retune_labels(positive_cosines: Tensor, negative_cosines: Tensor) -> Tensor:
    """Hard labels: True where an image is closer to the positive prompts.

    Args:
        positive_cosines, negative_cosines (`Tensor [N, F]`): from `retune_cosines`.

    Returns:
        `BoolTensor [N, F]`.

    Example:
        ```python
        >>> retune_labels(torch.tensor([[0.5, 0.2]]), torch.tensor([[0.1, 0.2]]))
        tensor([[ True, False]])
        ```
    """
    check_tensors(positive_cosines=positive_cosines, negative_cosines=negative_cosines)
    return positive_cosines > negative_cosines


@torch.no_grad()
def undo_small_updates(old: Mapping[str, Tensor], new: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """RE-tune's reset rule: entries that an epoch has changed little go back to what they were.

    For each tensor d = |new − old|; entries with d < min d + threshold · (max d − min d) are reset.

    Args:
        old (`Mapping[str, Tensor]`): parameters at the start of the epoch.
        new (`Mapping[str, Tensor]`): parameters at its end.
        threshold (`float`): 0 resets nothing, 1 nearly everything.

    Returns:
        `dict[str, Tensor]`: the parameters after the reset.

    Example:
        ```python
        >>> undo_small_updates({"w": torch.zeros(3)}, {"w": torch.tensor([0.1, -0.2, 0.9])}, threshold=0.5)
        {'w': tensor([0.0000, 0.0000, 0.9000])}
        ```
    """
    kept = {}
    for name, value in new.items():
        check_tensors(**{f"the old {name}": old[name], f"the new {name}": value})
        change = (value - old[name]).abs()
        low, high = change.aminmax()
        kept[name] = torch.where(change < low + threshold * (high - low), old[name], value)
    return kept
