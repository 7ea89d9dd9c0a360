"""PEFT model of VPT."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.tuners._base import PromptTuner, Site, checked_depth, n_layers, random_prompts
from hf_clipalign.tuners.vpt.layer import VPTPrompts


class VPTModel(PromptTuner):
    """VPT: the image embeddings and the first encoder layers are wrapped.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import VPTConfig
        >>> type(get_peft_model(load_mini().student, VPTConfig()).base_model).__name__
        'VPTModel'
        ```
    """

    prefix = "clip_vpt_"
    method_name = "VPT"

    def depths(self, config: Any, encoder: DualEncoder) -> dict[Modality, int]:
        return {"image": config.depth}

    def check(self, config: Any, encoder: DualEncoder) -> None:
        available = n_layers(encoder, "image")
        config.depth = checked_depth("depth", config.depth, available, default=available)

    def wrap(self, module: nn.Module, site: Site, encoder: DualEncoder) -> VPTPrompts:
        return VPTPrompts(module, appends=site.index == 0)

    def fill(self, layer: Any, adapter_name: str, site: Site, config: Any, encoder: DualEncoder) -> None:
        values = random_prompts(config.n_prompts, encoder.vision_dim, encoder)
        layer.add_prompts(adapter_name, values, config.inference_mode)
