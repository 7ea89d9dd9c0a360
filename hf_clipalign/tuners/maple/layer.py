"""MaPLe's prompts in both towers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_clipalign.tuners._layers import ImagePrompts, TextPrompts


class MaPLeText(TextPrompts):
    """The token table or a text encoder layer with MaPLe's prompts `[n, d_t]`."""

    adapter_layer_names = ("clip_maple_context",)


class MaPLeImage(ImagePrompts):
    """The image embeddings or an image encoder layer; its prompts are a linear map of the text layer's.

    Args:
        base_layer (`nn.Module`): see `ImagePrompts`.
        appends (`bool`): see `ImagePrompts`.
        text (`MaPLeText`): the text tower's wrapper at the same depth.
    """

    adapter_layer_names = ("clip_maple_projection",)

    def __init__(self, base_layer: nn.Module, appends: bool, text: MaPLeText):
        super().__init__(base_layer, appends)
        self.clip_maple_projection = nn.ModuleDict()
        self._text = [text]  # in a list: the text wrapper is no part of this module

    @property
    def _holder(self) -> Any:
        return self.clip_maple_projection

    def current_prompts(self, adapter_name: str) -> Tensor:
        projection = self.clip_maple_projection[adapter_name]
        return projection(self._text[0].prompts[adapter_name].to(projection.weight.dtype))

    def add_projection(self, adapter_name: str, sizes: tuple[int, int], dtype: torch.dtype, inference: bool) -> None:
        """Adds an adapter's linear map; `sizes` are the widths of the text and the image tower."""
        device = next(self.get_base_layer().parameters()).device
        self.clip_maple_projection[adapter_name] = nn.Linear(*sizes, dtype=dtype, device=device)
        self.set_adapter(self.active_adapters, inference_mode=inference)
