"""Which parameters belong to which part of a model, found by following gradients and not by names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.backbones.registry import as_dual_encoder


def tower_parameters(model: Any, modality: Modality) -> list[nn.Parameter]:
    """The parameters that features of one modality depend on: the tower and its projector.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone.
        modality (`"image"` or `"text"`): which tower.

    Returns:
        `list[nn.Parameter]`: in the order of the model. What no feature depends on (a decoder, a pooler that is not
        read) is in no tower; neither are the logit scale and bias.

    Example:
        ```python
        >>> from hf_clipalign.backbones import tower_parameters
        >>> sum(parameter.numel() for parameter in tower_parameters(model, "image"))
        1037696
        ```
    """
    encoder = as_dual_encoder(model)
    if modality == "image":
        return _reached(encoder, lambda: encoder.encode_image(**encoder.blank_images(1)))
    ids = torch.zeros(1, 2, dtype=torch.long, device=encoder.device)
    return _reached(encoder, lambda: encoder.project_text(encoder.text_outputs(ids).pooler_output))


def projector_parameters(model: Any, modality: Modality) -> list[nn.Parameter]:
    """The parameters between the features before the projector and the shared space; see `tower_parameters`.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone.
        modality (`"image"` or `"text"`): which side.

    Returns:
        `list[nn.Parameter]`: in the order of the model.

    Example:
        ```python
        >>> from hf_clipalign.backbones import projector_parameters
        >>> [tuple(parameter.shape) for parameter in projector_parameters(model, "image")]
        [(128, 128)]
        ```
    """
    encoder = as_dual_encoder(model)
    width = encoder.vision_dim if modality == "image" else encoder.text_dim
    project = encoder.project_image if modality == "image" else encoder.project_text
    features = torch.zeros(1, width, device=encoder.device, dtype=encoder.dtype)
    return _reached(encoder, lambda: project(features))


def _reached(encoder: DualEncoder, compute: Callable[[], Tensor]) -> list[nn.Parameter]:
    """The parameters that have a gradient of what is computed."""
    parameters = list(encoder.model.parameters())
    trained = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            gradients = torch.autograd.grad(compute().sum(), parameters, allow_unused=True)
    finally:
        for parameter, flag in zip(parameters, trained, strict=True):
            parameter.requires_grad_(flag)
    return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
