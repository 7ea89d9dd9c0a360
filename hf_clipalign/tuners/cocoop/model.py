"""PEFT model of CoCoOp."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.tuners._base import PromptTuner, Site
from hf_clipalign.tuners._context import initial_context, resolve_context
from hf_clipalign.tuners.cocoop.layer import CoCoOpContext, condition_on_images


class CoCoOpModel(PromptTuner):
    """CoCoOp: only the token table is wrapped; a hook gives the model's own forward one text pass per image.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import CoCoOpConfig
        >>> type(get_peft_model(load_mini().student, CoCoOpConfig()).base_model).__name__
        'CoCoOpModel'
        ```
    """

    prefix = "clip_cocoop_"
    method_name = "CoCoOp"
    hooks = (*PromptTuner.hooks, condition_on_images)

    def depths(self, config: Any, encoder: DualEncoder) -> dict[Modality, int]:
        return {"text": 1}

    def check(self, config: Any, encoder: DualEncoder) -> None:
        resolve_context(config, encoder)

    def wrap(self, module: nn.Module, site: Site, encoder: DualEncoder) -> CoCoOpContext:
        if condition_on_images not in self.model._forward_hooks.values():
            self.model.register_forward_hook(condition_on_images, with_kwargs=True)
        return CoCoOpContext(module, encoder.text_start_tokens)

    def fill(self, layer: Any, adapter_name: str, site: Site, config: Any, encoder: DualEncoder) -> None:
        sizes = encoder.embed_dim, max(1, encoder.embed_dim // config.reduction), encoder.text_dim
        layer.add_network(adapter_name, sizes, encoder.dtype)
        layer.add_prompts(adapter_name, initial_context(config, encoder), config.inference_mode)
