"""PEFT model of MaPLe."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.tuners._base import PromptTuner, Site, checked_depth, n_layers, random_prompts
from hf_clipalign.tuners._context import initial_context, resolve_context
from hf_clipalign.tuners._layers import PromptLayer
from hf_clipalign.tuners.maple.layer import MaPLeImage, MaPLeText

_PUBLISHED_DEPTH = 9


class MaPLeModel(PromptTuner):
    """MaPLe: token table, image embeddings and the first layers of both towers are wrapped.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import MaPLeConfig
        >>> type(get_peft_model(load_mini().student, MaPLeConfig(depth=3)).base_model).__name__
        'MaPLeModel'
        ```
    """

    prefix = "clip_maple_"
    method_name = "MaPLe"

    def depths(self, config: Any, encoder: DualEncoder) -> dict[Modality, int]:
        return {"text": config.depth, "image": config.depth}

    def check(self, config: Any, encoder: DualEncoder) -> None:
        available = min(n_layers(encoder, "text"), n_layers(encoder, "image"))
        config.depth = checked_depth("depth", config.depth, available, _PUBLISHED_DEPTH)
        resolve_context(config, encoder)

    def wrap(self, module: nn.Module, site: Site, encoder: DualEncoder) -> PromptLayer:
        if site.tower == "text":
            return MaPLeText(module, encoder.text_start_tokens)
        return MaPLeImage(module, site.index == 0, self._at(Site("text", site.index), encoder))

    def fill(self, layer: Any, adapter_name: str, site: Site, config: Any, encoder: DualEncoder) -> None:
        if site.tower == "text":
            deep = random_prompts(config.n_ctx, encoder.text_dim, encoder) if site.index else None
            values = initial_context(config, encoder) if deep is None else deep
            layer.add_prompts(adapter_name, values, config.inference_mode)
            return
        layer.add_projection(
            adapter_name, (encoder.text_dim, encoder.vision_dim), encoder.dtype, config.inference_mode
        )
        if site.index > 1:  # the maps of the deeper layers start as copies of one another
            first = self._at(Site("image", 1), encoder).clip_maple_projection[adapter_name]
            layer.clip_maple_projection[adapter_name].load_state_dict(first.state_dict())

    def _at(self, site: Site, encoder: DualEncoder) -> Any:
        """The wrapper at a place; the text tower comes first in the order of the modules."""
        paths = encoder.module_paths
        assert paths is not None
        if site.tower == "text":
            path = paths.token_embedding if site.index == 0 else f"{paths.text_layers}.{site.index}"
        else:
            path = f"{paths.image_layers}.{site.index}"
        return encoder.model.get_submodule(path)
