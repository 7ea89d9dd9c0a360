"""PEFT model of CoOp."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.tuners._base import PromptTuner, Site, random_prompts
from hf_clipalign.tuners._context import initial_context, resolve_context
from hf_clipalign.tuners.coop.layer import CoOpContext


class CoOpModel(PromptTuner):
    """CoOp: only the token table is wrapped.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import CoOpConfig
        >>> type(get_peft_model(load_mini().student, CoOpConfig()).base_model).__name__
        'CoOpModel'
        ```
    """

    prefix = "clip_coop_"
    method_name = "CoOp"

    def depths(self, config: Any, encoder: DualEncoder) -> dict[Modality, int]:
        return {"text": 1}

    def check(self, config: Any, encoder: DualEncoder) -> None:
        if config.class_token_position != "end" and not encoder.text_start_tokens:
            raise ClipAlignError(
                f"class_token_position={config.class_token_position!r} marks the context with start tokens, which "
                f"{type(encoder.model).__name__} has not. Use class_token_position='end'."
            )
        resolve_context(config, encoder)

    def wrap(self, module: nn.Module, site: Site, encoder: DualEncoder) -> CoOpContext:
        return CoOpContext(module, encoder.text_start_tokens)

    def fill(self, layer: Any, adapter_name: str, site: Site, config: Any, encoder: DualEncoder) -> None:
        layer.clip_coop_position[adapter_name] = config.class_token_position
        context = initial_context(config, encoder)
        if config.class_specific and config.ctx_init_ids is None:
            n_vectors = config.n_classes * config.n_ctx
            context = random_prompts(n_vectors, encoder.text_dim, encoder).unflatten(0, (config.n_classes, -1))
        elif config.class_specific:
            context = context.expand(config.n_classes, -1, -1)
        layer.add_prompts(adapter_name, context, config.inference_mode)
