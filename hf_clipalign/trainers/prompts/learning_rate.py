"""The learning rate of the prompt-learning papers: one warm-up epoch, then a cosine by epochs."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hf_clipalign._errors import ClipAlignError


def published_rates(
    learning_rate: float, epochs: int, warmup_epochs: int = 1, warmup_rate: float = 1e-5
) -> list[float]:
    """Learning rate of every epoch, as the reference implementations set it.

    The warm-up epochs run at a constant low rate. The cosine starts after them at the FULL rate but has a period of
    ALL epochs, so the last epoch of a short run is far from zero.

    Args:
        learning_rate (`float`): the full rate.
        epochs (`int`): E, 1 or more.
        warmup_epochs (`int`, *optional*, defaults to `1`): how many at the start are warm-up.
        warmup_rate (`float`, *optional*, defaults to `1e-5`): their rate.

    Returns:
        `list[float]`: E rates.

    Raises:
        `ClipAlignError`: `epochs` or `warmup_epochs` out of range.

    Example:
        ```python
        >>> [round(rate, 6) for rate in published_rates(0.0035, 5)]
        [1e-05, 0.0035, 0.003166, 0.002291, 0.001209]
        ```
    """
    if epochs < 1 or warmup_epochs < 0:
        raise ClipAlignError(
            f"a schedule needs 1 or more epochs and 0 or more of warm-up, not {epochs}, {warmup_epochs}"
        )
    cosine = [0.5 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]
    return [warmup_rate] * min(warmup_epochs, epochs) + [
        learning_rate * factor for factor in cosine[: epochs - warmup_epochs]
    ]


def published_scheduler(optimizer: Optimizer, rates: list[float], steps_per_epoch: int) -> LambdaLR:
    """Sets the rate of an epoch at its first step.

    Args:
        optimizer (`Optimizer`): its groups must have the full rate as `lr`.
        rates (`list[float]`): rate of every epoch; steps beyond the last keep its rate.
        steps_per_epoch (`int`): optimizer steps in one epoch.
    """
    full = float(optimizer.defaults["lr"])

    def factor(step: int) -> float:
        return rates[min(step // steps_per_epoch, len(rates) - 1)] / full

    return LambdaLR(optimizer, factor)
