"""Trimmed projectors as the linear layers of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, Projector
from hf_clipalign.backbones.dual_encoder import Modality


def empty_head(projector: Projector) -> nn.Linear:
    """An untrained linear layer of a projector's size, with a bias if it has one."""
    shared, width = projector.weight.shape
    return nn.Linear(width, shared, bias=projector.bias is not None)


@torch.no_grad()
def fill_head(head: nn.Linear, matrix: Tensor) -> None:
    """Copies a projector matrix `[d, w]`, or `[d, w + 1]` with the bias as its last column, into a linear layer."""
    head.weight.copy_(matrix[:, : head.in_features])
    if head.bias is not None:
        head.bias.copy_(matrix[:, -1])


def check_bias(encoder: DualEncoder, modality: Modality, head: Any) -> None:
    """Refuses a projector with a bias that its head has no place for.

    Raises:
        `ClipAlignError`: names the modality and the way out.
    """
    if head is not None and head.bias is None and encoder.projector(modality).bias is not None:
        raise ClipAlignError(
            f"the {modality} projector of this {type(encoder.model).__name__} has a bias, which the class has no "
            "place for: saving and loading would silently drop it. Take the bias out (fold it into the layer "
            "norm before the projector), or work with trim_projectors on the matrices."
        )
