"""PromptSRC's self-regularisation and its average of the prompts over epochs (Khattak et al., 2023)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.tensors import check_tensors


def promptsrc_losses(
    text_features: Tensor,
    frozen_text_features: Tensor,
    image_features: Tensor,
    frozen_image_features: Tensor,
    logits: Tensor,
    frozen_logits: Tensor,
    text_weight: float = 25.0,
    image_weight: float = 10.0,
) -> dict[str, Tensor]:
    """What holds a prompted model near the frozen one; added to cross-entropy or to a distillation loss.

    Args:
        text_features (`Tensor [C, d]`): unit-length text features of the prompted model.
        frozen_text_features (`Tensor [C, d]`): those of the frozen model, a mean over many templates, unit length.
        image_features (`Tensor [N, d]`): unit-length image features of the prompted model.
        frozen_image_features (`Tensor [N, d]`): those of the frozen model.
        logits (`Tensor [N, C]`): logits of the prompted model.
        frozen_logits (`Tensor [N, C]`): logits of the frozen features.
        text_weight (`float`, *optional*, defaults to `25`): weight of the text term.
        image_weight (`float`, *optional*, defaults to `10`): weight of the image term.

    Returns:
        `dict`: `text` and `image` (weighted mean absolute differences), `logits` (KL(frozen ‖ prompted), its sum
            divided by N · C), and their sum `loss`.

    Raises:
        `ClipAlignError`: no tensors.

    Example:
        ```python
        >>> text, image = torch.eye(2), torch.tensor([[0.6, 0.8]])
        >>> losses = promptsrc_losses(text, text, image, torch.tensor([[0.8, 0.6]]), image @ text, image @ text)
        >>> {name: round(float(value), 4) for name, value in losses.items()}
        {'text': 0.0, 'image': 2.0, 'logits': 0.0, 'loss': 2.0}
        ```
    """
    check_tensors(
        text_features=text_features,
        frozen_text_features=frozen_text_features,
        image_features=image_features,
        frozen_image_features=frozen_image_features,
        logits=logits,
        frozen_logits=frozen_logits,
    )
    text = text_weight * F.l1_loss(text_features, frozen_text_features)
    image = image_weight * F.l1_loss(image_features, frozen_image_features)
    log_probabilities, frozen = F.log_softmax(logits, dim=-1), F.log_softmax(frozen_logits, dim=-1)
    agreement = F.kl_div(log_probabilities, frozen, reduction="sum", log_target=True) / logits.numel()
    return {"text": text, "image": image, "logits": agreement, "loss": text + image + agreement}


def gaussian_prompt_weights(n_epochs: int, mean: float = 15.0, std: float = 1.0) -> Tensor:
    """Weights of the prompts at the ends of epochs 1..n, a Gaussian over the epochs that sums to one: `[n_epochs]`.

    Args:
        n_epochs (`int`): number of epochs.
        mean (`float`, *optional*, defaults to `15`): epoch with the largest weight (of 20).
        std (`float`, *optional*, defaults to `1`): width in epochs.

    Returns:
        `Tensor [n_epochs]`: float32.

    Example:
        ```python
        >>> gaussian_prompt_weights(3, mean=2.0)
        tensor([0.2741, 0.4519, 0.2741])
        ```
    """
    epochs = torch.arange(1, n_epochs + 1, dtype=torch.float64)
    return torch.softmax(-((epochs - mean) ** 2) / (2 * std**2), dim=0).to(torch.float32)
