"""Contrastive losses of two views of the same pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError


def info_nce_loss(features: Tensor, temperature: float = 1.0) -> Tensor:
    """InfoNCE between two views: each row must find its other view among all rows but itself.

    With another temperature this is NT-Xent of SimCLR (arXiv 2002.05709, equation 1). SpectralGCD (arXiv 2602.17395)
    uses 1.0. Computed in float32, whatever the type of the features.

    Args:
        features (`Tensor [2N, d]`): rows 0 … N−1 are the first views, rows N … 2N−1 the second views of the same N
            pictures; normalised here.
        temperature (`float`, *optional*, defaults to 1.0): divides the cosines.

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
    if features.ndim != 2 or len(features) == 0 or len(features) % 2:
        raise ClipAlignError(
            f"two views of N pictures are [2N, d], first views first; these are {tuple(features.shape)}"
        )
    if not temperature > 0:
        raise ClipAlignError(f"the temperature must be positive, not {temperature}")
    units = F.normalize(features.float(), dim=-1)
    logits = units @ units.T / temperature
    logits = logits.masked_fill(torch.eye(len(units), dtype=torch.bool, device=units.device), float("-inf"))
    other_view = torch.arange(len(units), device=units.device).roll(len(units) // 2)
    return F.cross_entropy(logits, other_view)
