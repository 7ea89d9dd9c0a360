"""What SpectralGCD (arXiv 2602.17395) optimises: two groups of parameters, each with its own learning rate."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(model: nn.Module, head_rate: float, backbone_rate: float) -> list[dict[str, Any]]:
    """The trainable parameters of the backbone and those of the head, for an optimizer.

    Args:
        model (`SpectralGCDModel`): the model; see `SpectralGCDModel.train_last_blocks`.
        head_rate (`float`): learning rate of the head.
        backbone_rate (`float`): that of the backbone's blocks.

    Returns:
        `list[dict]`: a group without parameters is left out.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in trained if name.startswith("backbone.")], "lr": backbone_rate},
        {"params": [parameter for name, parameter in trained if not name.startswith("backbone.")], "lr": head_rate},
    ]
    return [group for group in groups if group["params"]]


def cosine_factor(epoch: int, epochs: int, floor: float = 1e-3) -> float:
    """What the learning rates are multiplied by in an epoch: a cosine from 1 to `floor` over all epochs.

    Args:
        epoch (`int`): the epoch, from 0.
        epochs (`int`): how many there are.
        floor (`float`, *optional*, defaults to 1e-3): the factor after the last epoch.

    Example:
        ```python
        >>> [round(cosine_factor(epoch, 200), 4) for epoch in (0, 100, 199)]
        [1.0, 0.5005, 0.0011]
        ```
    """
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(epoch, epochs) / epochs))


def cosine_by_epoch(optimizer: Optimizer, epochs: int, steps_per_epoch: int, floor: float = 1e-3) -> LambdaLR:
    """A scheduler that multiplies the rate of every group by `cosine_factor` from the first step of each epoch."""
    return LambdaLR(optimizer, lambda step: cosine_factor(step // steps_per_epoch, epochs, floor))
