"""What a prompted model says: text features of a plan of prompts, and logits, for all five methods in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign.backbones import as_dual_encoder, encode_prompts, pack_prompts, project_texts
from hf_clipalign.backbones.dual_encoder import DualEncoder
from hf_clipalign.backbones.packing import PackedPrompts, Strategy
from hf_clipalign.tuners._layers import TextPrompts, active_context

_BLOCK_TOKENS = 8192


@dataclass(frozen=True)
class PromptedOutput:
    """What one pass of a prompted model gives.

    Args:
        logits (`Tensor [N, C]`): scaled cosines of N images and C prompts.
        image_features (`Tensor [N, d]`): unit length.
        text_features (`Tensor [C, d]`, or `[N, C, d]` where every image has its own prompts): unit length.

    Example:
        ```python
        >>> from hf_clipalign.tuners import build_prompts, plan_prompts, prompted_outputs
        >>> plan = plan_prompts(model, build_prompts(model, processor, ["cat", "dog", "owl"]))
        >>> output = prompted_outputs(model, **processor(images=images.read(0), return_tensors="pt"), plan=plan)
        >>> output.logits.shape, output.image_features.shape, output.text_features.shape
        (torch.Size([1, 3]), torch.Size([1, 128]), torch.Size([3, 128]))
        ```
    """

    logits: Tensor
    image_features: Tensor
    text_features: Tensor


def plan_prompts(model: Any, input_ids: Tensor, strategy: Strategy = "auto") -> PackedPrompts:
    """Packs tokenised class prompts for a model with or without learned prompts; make it once, use it at every step.

    Args:
        model (`nn.Module`): a supported CLIP, bare or with an adapter of this package.
        input_ids (`LongTensor [C, L]`): class prompts (`build_prompts` makes them) with the context words in place.
        strategy (`str`): see `pack_prompts`. Class-specific contexts share nothing and are cut instead of packed.

    Returns:
        `PackedPrompts`: a plan; `.select(indices)` gives the plan of some of the classes.

    Raises:
        `ClipAlignError`: the prompts do not all begin with the context words that the adapter replaces.

    Example:
        ```python
        >>> from hf_clipalign.tuners import build_prompts, plan_prompts
        >>> plan = plan_prompts(model, build_prompts(model, processor, ["cat", "dog", "owl"]))
        >>> len(plan), len(plan.select(torch.tensor([0, 2])))
        (3, 2)
        ```
    """
    encoder = as_dual_encoder(model)
    layer = active_context(encoder)
    if layer is None:
        return pack_prompts(encoder, input_ids, strategy=strategy)
    if layer.needs_own_rows and strategy in ("auto", "packed") and encoder.causal_text:
        strategy = "cut"
    return pack_prompts(encoder, input_ids, shared_prefix=layer.shared_prefix, strategy=strategy)


def class_text_features(
    model: Any, plan: PackedPrompts, normalize: bool = True, image_features: Tensor | None = None
) -> Tensor:
    """Text features of class prompts through the active adapter; differentiable.

    Args:
        model (`nn.Module`): a supported CLIP, bare or with an adapter of this package.
        plan (`PackedPrompts`): the prompts, from `plan_prompts`.
        normalize (`bool`, *optional*, defaults to `True`): unit length.
        image_features (`Tensor [N, d]`, *optional*): unit-length image features; only CoCoOp uses them.

    Returns:
        `Tensor [C, d]`; with CoCoOp and `image_features`, `[N, C, d]`: every image has its own prompts.

    Example:
        ```python
        >>> from hf_clipalign.tuners import build_prompts, class_text_features, plan_prompts
        >>> plan = plan_prompts(model, build_prompts(model, processor, ["cat", "dog"]))
        >>> class_text_features(model, plan).shape
        torch.Size([2, 128])
        ```
    """
    encoder = as_dual_encoder(model)
    layer = active_context(encoder)
    if layer is not None and layer.is_conditional and image_features is not None:
        return _conditional_text_features(encoder, layer, plan, normalize, image_features)
    if layer is None:
        return project_texts(encoder, encode_prompts(encoder, plan), normalize)
    with layer.for_classes(plan.indices.to(encoder.device)):
        tokens = plan.n_tokens if layer.needs_own_rows else None
        return project_texts(encoder, encode_prompts(encoder, plan, batch_tokens=tokens), normalize)


def prompted_outputs(
    model: Any, pixel_values: Tensor, plan: PackedPrompts, text_features: Tensor | None = None, **image_kwargs: Any
) -> PromptedOutput:
    """Images against class prompts through the active adapter, with the features that losses need.

    Args:
        model (`nn.Module`): a supported CLIP, bare or with an adapter of this package.
        pixel_values (`Tensor [N, 3, H, W]`): images.
        plan (`PackedPrompts`): C class prompts, from `plan_prompts`.
        text_features (`Tensor [C, d]`, *optional*): unit-length text features to use instead of a text pass, for
            adapters without text prompts (`has_text_prompts`).
        **image_kwargs: further inputs of the image tower.

    Returns:
        `PromptedOutput`: logits `[N, C]` and unit-length features.

    Example:
        ```python
        >>> from hf_clipalign.tuners import build_prompts, plan_prompts, prompted_outputs
        >>> plan = plan_prompts(model, build_prompts(model, processor, ["cat", "dog", "owl"]))
        >>> prompted_outputs(model, **processor(images=images.read(0), return_tensors="pt"), plan=plan).logits.shape
        torch.Size([1, 3])
        ```
    """
    encoder = as_dual_encoder(model)
    image_features = encoder.encode_image(pixel_values, normalize=True, **image_kwargs)
    if text_features is None:
        text_features = class_text_features(model, plan, image_features=image_features)
    own_prompts = text_features.dim() == 3
    cosines = (text_features @ image_features[..., None])[..., 0] if own_prompts else image_features @ text_features.T
    logits = encoder.logit_scale * cosines
    if encoder.logit_bias is not None:
        logits = logits + encoder.logit_bias
    return PromptedOutput(logits, image_features, text_features)


def prompted_logits(
    model: Any, pixel_values: Tensor, plan: PackedPrompts, text_features: Tensor | None = None, **image_kwargs: Any
) -> Tensor:
    """The logits `[N, C]` of `prompted_outputs`; call it inside ONE module's forward under distributed training.

    Args:
        model (`nn.Module`): a supported CLIP, bare or with an adapter of this package.
        pixel_values (`Tensor [N, 3, H, W]`): images.
        plan (`PackedPrompts`): C class prompts, from `plan_prompts`.
        text_features (`Tensor [C, d]`, *optional*): see `prompted_outputs`.
        **image_kwargs: further inputs of the image tower.

    Returns:
        `Tensor [N, C]`.

    Example:
        ```python
        >>> from hf_clipalign.tuners import build_prompts, plan_prompts, prompted_logits
        >>> plan = plan_prompts(model, build_prompts(model, processor, ["cat", "dog", "owl"]))
        >>> prompted_logits(model, **processor(images=images.read(0), return_tensors="pt"), plan=plan).shape
        torch.Size([1, 3])
        ```
    """
    return prompted_outputs(model, pixel_values, plan, text_features, **image_kwargs).logits


def has_text_prompts(model: Any) -> bool:
    """Whether the active adapter changes the text tower. If not, class text features may be computed once.

    Args:
        model (`nn.Module`): a supported CLIP, bare or with an adapter of this package.

    Returns:
        `bool`.

    Example:
        ```python
        >>> from hf_clipalign.tuners import has_text_prompts
        >>> has_text_prompts(model)
        False
        ```
    """
    return active_context(as_dual_encoder(model)) is not None


def _conditional_text_features(
    encoder: DualEncoder, layer: TextPrompts, plan: PackedPrompts, normalize: bool, image_features: Tensor
) -> Tensor:
    """One text pass per image, as many images at once as the memory allows: `[N, C, d]`."""
    at_once = max(1, _BLOCK_TOKENS // plan.n_tokens)
    parts = []
    for images in F.normalize(image_features, dim=-1).split(at_once):
        with layer.for_images(images, rows_per_image=len(plan.input_ids)):
            copies = plan.repeat(len(images))
            features = encode_prompts(encoder, copies, batch_tokens=copies.n_tokens)
        parts.append(project_texts(encoder, features, normalize).unflatten(0, (len(images), len(plan))))
    return torch.cat(parts)
