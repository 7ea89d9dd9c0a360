"""PEFT model of PromptSRC."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.tuners._base import PromptTuner, Site, checked_depth, n_layers, random_prompts
from hf_clipalign.tuners._context import initial_context, resolve_context
from hf_clipalign.tuners._layers import PromptLayer
from hf_clipalign.tuners.promptsrc.layer import PromptSRCImage, PromptSRCText

_PUBLISHED_DEPTH = 9


class PromptSRCModel(PromptTuner):
    """PromptSRC: token table, image embeddings and the first layers of both towers are wrapped.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import PromptSRCConfig
        >>> type(get_peft_model(load_mini().student, PromptSRCConfig()).base_model).__name__
        'PromptSRCModel'
        ```
    """

    prefix = "clip_promptsrc_"
    method_name = "PromptSRC"

    def depths(self, config: Any, encoder: DualEncoder) -> dict[Modality, int]:
        return {"text": config.text_depth, "image": config.image_depth}

    def check(self, config: Any, encoder: DualEncoder) -> None:
        for name, tower in (("text_depth", "text"), ("image_depth", "image")):
            available = n_layers(encoder, tower)  # type: ignore[arg-type]
            setattr(config, name, checked_depth(name, getattr(config, name), available, _PUBLISHED_DEPTH))
        resolve_context(config, encoder)

    def wrap(self, module: nn.Module, site: Site, encoder: DualEncoder) -> PromptLayer:
        if site.tower == "text":
            return PromptSRCText(module, encoder.text_start_tokens)
        return PromptSRCImage(module, appends=site.index == 0)

    def fill(self, layer: Any, adapter_name: str, site: Site, config: Any, encoder: DualEncoder) -> None:
        if site.tower == "image":
            values = random_prompts(config.n_prompts, encoder.vision_dim, encoder)
        elif site.index:
            values = random_prompts(config.n_ctx, encoder.text_dim, encoder)
        else:
            values = initial_context(config, encoder)
        layer.add_prompts(adapter_name, values, config.inference_mode)
