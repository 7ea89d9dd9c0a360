"""SigLIP's image head ends in `x + MLP(LayerNorm(x))`: a linear stand-in for it, and how wrong that is."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder, Layout, Projector

LAYOUTS = ("consistent", "reference")

_GELU_SLOPE_AT_ZERO = 0.5


class ProjectionError(NamedTuple):
    """How far `image_projector` is from the model's own image head on given features.

    Attributes:
        relative (`float`): mean of `|linear - exact| / |exact|` over the images.
        worst (`float`): the largest of them.
        cosine (`float`): mean cosine between the linear and the exact feature.

    Example:
        ```python
        >>> from hf_clipalign.backbones import projection_error
        >>> projection_error(encoder, features.values).relative < 1e-5
        True
        ```
    """

    relative: float
    worst: float
    cosine: float


@torch.no_grad()
def linearize_pooling_head(head: Any, layout: Layout = "consistent") -> Projector:
    """The residual MLP of an attention-pooling head as an affine map: an APPROXIMATION around zero (IsoCLIP).

    GELU is replaced by its slope 1/2 at zero, and of the LayerNorm only scale and shift are kept (its centring and
    division are left out): `W = I + W2 W1 diag(gamma) / 2`, `b = W2 (W1 beta + b1) / 2 + b2`, on the attention-pooled
    x before the MLP. `image_projection_error` says how large the error is on real features.

    Args:
        head (`nn.Module`): has `layernorm` (or `norm`) and `mlp.fc1`, `mlp.fc2`, as in transformers and timm.
        layout (`"consistent"` or `"reference"`): "reference" gives `W` transposed, as the authors' code stacks it (the
            blocks are square, so nothing complains). Their published SigLIP 2 band was chosen so. Default
            "consistent".

    Returns:
        `Projector`: weight `[d, d]` and bias `[d]`, without gradients.

    Example:
        ```python
        >>> from transformers import SiglipVisionConfig
        >>> from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead
        >>> from hf_clipalign.backbones import linearize_pooling_head
        >>> config = SiglipVisionConfig(hidden_size=8, intermediate_size=16, num_attention_heads=2)
        >>> projector = linearize_pooling_head(SiglipMultiheadAttentionPoolingHead(config))
        >>> projector.weight.shape, projector.bias.shape
        (torch.Size([8, 8]), torch.Size([8]))
        ```
    """
    check_layout(layout)
    norm = head.layernorm if hasattr(head, "layernorm") else head.norm
    first, second = head.mlp.fc1, head.mlp.fc2
    half = _GELU_SLOPE_AT_ZERO * second.weight.float()
    weight = half @ (first.weight.float() * norm.weight.float())
    weight.diagonal().add_(1.0)
    bias = half @ (first.weight.float() @ norm.bias.float() + first.bias.float()) + second.bias.float()
    dtype = second.weight.dtype
    return in_layout(Projector(weight.to(dtype), bias.to(dtype)), layout)


def in_layout(projector: Projector, layout: Layout) -> Projector:
    """The projector as the layout stacks it: transposed for "reference"."""
    return projector if layout == "consistent" else Projector(projector.weight.T, projector.bias)


def residual_head(head: Any, features: Tensor) -> Tensor:
    """What the head does after its attention, exactly: `x + MLP(LayerNorm(x))`, `[N, d]` to `[N, d]`."""
    norm = head.layernorm if hasattr(head, "layernorm") else head.norm
    pooled = features[:, None]
    return (pooled + head.mlp(norm(pooled)))[:, 0]


@torch.no_grad()
def folded_into_attention(projector: Projector, output: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of an attention output map followed by `projector`: one affine map for two."""
    weight, bias = projector.weight.double().cpu(), output.bias.double().cpu()
    folded = weight @ output.weight.double().cpu(), weight @ bias
    shift = 0.0 if projector.bias is None else projector.bias.double().cpu()
    return folded[0].to(output.weight), (folded[1] + shift).to(output.bias)


@torch.no_grad()
def image_projection_error(encoder: DualEncoder, pixel_values: Tensor, **kwargs: Any) -> ProjectionError:
    """The real error of `encoder.image_projector` on images: rounding only, except for SigLIP's linearised head.

    Args:
        encoder (`DualEncoder`): the backbone.
        pixel_values (`Tensor [N, 3, H, W]`): images as the model's processor returns them.
        **kwargs: passed to the image tower (`pixel_attention_mask`, `spatial_shapes`, …).

    Returns:
        `ProjectionError`.

    Example:
        ```python
        >>> from hf_clipalign.backbones import image_projection_error
        >>> pixels = processor(images=images.read(0), return_tensors="pt")
        >>> image_projection_error(encoder, **pixels).worst < 1e-5
        True
        ```
    """
    return projection_error(encoder, encoder.image_preprojection(pixel_values, **kwargs))


@torch.no_grad()
def projection_error(encoder: DualEncoder, features: Tensor) -> ProjectionError:
    """`image_projection_error` from image features before the projector, `[N, d_v]` or with the column of ones.

    Args:
        encoder (`DualEncoder`): the backbone.
        features (`Tensor [N, d_v]`): from its image tower.

    Returns:
        `ProjectionError`.

    Example:
        ```python
        >>> from hf_clipalign.backbones import projection_error
        >>> round(projection_error(encoder, features.values).cosine, 4)
        1.0
        ```
    """
    features = features[:, : encoder.vision_dim].to(encoder.device, encoder.dtype)
    exact = encoder.project_image(features).float()
    linear = F.linear(features, encoder.image_projector.weight, encoder.image_projector.bias).float()
    relative = (linear - exact).norm(dim=-1) / exact.norm(dim=-1)
    cosine = F.cosine_similarity(linear, exact, dim=-1)
    return ProjectionError(float(relative.mean()), float(relative.max()), float(cosine.mean()))


def check_layout(layout: str) -> None:
    """Raises `ClipAlignError` for a name that is no layout."""
    if layout not in LAYOUTS:
        raise ClipAlignError(f"unknown layout {layout!r}: choose from {', '.join(LAYOUTS)}.")
