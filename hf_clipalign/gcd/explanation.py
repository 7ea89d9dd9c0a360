"""Which concepts set a class apart, in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError


def class_profiles(probabilities: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    """Mean concept distribution of the pictures of every class.

    Args:
        probabilities (`Tensor [N, C]`): concept distributions of pictures.
        classes (`LongTensor [N]`): their classes.
        n_classes (`int`): K.

    Returns:
        `Tensor [K, C]`: zero rows for classes without a picture.
    """
    totals = torch.zeros(n_classes, probabilities.shape[1], dtype=torch.float64, device=probabilities.device)
    totals.index_add_(0, classes, probabilities.double())
    counts = torch.bincount(classes, minlength=n_classes).clamp(min=1)
    return (totals / counts[:, None]).float()


def concept_contributions(profiles: Tensor, overall: Tensor, weights: Tensor | None = None) -> Tensor:
    """How much each concept sets a class apart from all pictures: p(c | class) · log(p(c | class) / p(c)).

    The contributions of a class sum to the Kullback-Leibler distance of its mean concept distribution from that of all
    pictures: a concept counts if it is both frequent in the class and rarer elsewhere. With `weights`, p(c | picture)
    takes the place of the first factor: the sum is then the evidence that the picture has for its class.

    Args:
        profiles (`Tensor [K, C]`): mean concept distributions of classes.
        overall (`Tensor [C]`): that of all pictures.
        weights (`Tensor [K, C]`, *optional*): concept distributions of pictures, one for each row of `profiles`.

    Returns:
        `Tensor [K, C]`: 0 for the concepts of a class without pictures.

    Example:
        ```python
        >>> concept_contributions(torch.tensor([[0.8, 0.2]]), torch.tensor([0.5, 0.5]))
        tensor([[ 0.3760, -0.1833]])
        ```
    """
    if profiles.shape[-1:] != overall.shape:
        raise ClipAlignError(
            f"profiles over {profiles.shape[-1]} concepts do not go with {len(overall)} concepts overall"
        )
    smallest = torch.finfo(torch.float32).tiny
    ratios = profiles.float().clamp(min=smallest).log() - overall.float().clamp(min=smallest).log()
    factors = profiles if weights is None else weights
    return torch.where(profiles.sum(dim=-1, keepdim=True) > 0, factors.float() * ratios, 0.0)


def top_concepts(contributions: Tensor, concepts: Sequence[str], k: int = 3) -> list[list[tuple[str, float]]]:
    """The k concepts with the highest positive contributions, best first; equal ones in the dictionary's order.

    Args:
        contributions (`Tensor [K, C]`): see `concept_contributions`.
        concepts (`Sequence[str]`): the C concepts.
        k (`int`, *optional*, defaults to 3): how many at most.

    Returns:
        `list` of K lists of (concept, contribution).
    """
    values, order = contributions.cpu().sort(dim=-1, descending=True, stable=True)
    return [
        [(concepts[index], value) for index, value in zip(indices, row, strict=True) if value > 0]
        for indices, row in zip(order[:, :k].tolist(), values[:, :k].tolist(), strict=True)
    ]
