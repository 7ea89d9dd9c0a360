"""The token table with a context that depends on the image."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.tuners._layers import TextPrompts, replace_positions


class CoCoOpContext(TextPrompts):
    """Puts CoCoOp's context, shifted for every image, behind the token table."""

    adapter_layer_names = ("clip_cocoop_context", "clip_cocoop_linear1", "clip_cocoop_linear2")
    is_conditional = True

    def __init__(self, base_layer: nn.Module, start: int):
        super().__init__(base_layer, start)
        self.clip_cocoop_linear1 = nn.ModuleDict()
        self.clip_cocoop_linear2 = nn.ModuleDict()
        self._shift: Tensor | None = None

    def add_network(self, adapter_name: str, sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
        """Adds an adapter's network: `sizes` are those of its input, hidden layer and output."""
        options: dict[str, Any] = {"dtype": dtype, "device": next(self.get_base_layer().parameters()).device}
        self.clip_cocoop_linear1[adapter_name] = nn.Linear(sizes[0], sizes[1], **options)
        self.clip_cocoop_linear2[adapter_name] = nn.Linear(sizes[1], sizes[2], **options)

    def shift(self, image_features: Tensor) -> Tensor:
        """What each image adds to the context vectors: `[N, d_t]` from unit-length features `[N, d]`."""
        name = str(self.active_adapter_name)
        first: Any = self.clip_cocoop_linear1[name]
        second = self.clip_cocoop_linear2[name]
        return second(F.relu(first(image_features.to(first.weight.dtype))))

    def put(self, hidden_states: Tensor, input_ids: Tensor | None = None) -> Tensor:
        if self.active_adapter_name is None:
            return hidden_states
        context = self.active_prompts
        if self._shift is not None:
            context = context + self._shift[:, None]
        return replace_positions(hidden_states, context, self.start)

    @contextlib.contextmanager
    def for_images(self, image_features: Tensor, rows_per_image: int) -> Iterator[None]:
        self._shift = self.shift(image_features).repeat_interleave(rows_per_image, dim=0)
        try:
            with self.for_classes(image_features):
                yield
        finally:
            self._shift = None


def condition_on_images(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Forward hook of the full model: the logits of the stock forward, with every image's own prompts.

    Raises:
        `ClipAlignError`: the contrastive loss, or an output as a tuple, is asked for.
    """
    from hf_clipalign.tuners.outputs import has_text_prompts, plan_prompts, prompted_outputs

    if not has_text_prompts(model):
        return None
    given = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
    given |= given.pop("kwargs", {})
    if given.get("return_loss") or isinstance(output, tuple):
        raise ClipAlignError("CoCoOp's stock forward gives logits only: leave return_loss and return_dict alone.")
    image_names = ("pixel_attention_mask", "spatial_shapes", "interpolate_pos_encoding")
    image_kwargs = {name: given[name] for name in image_names if given.get(name) is not None}
    plan = plan_prompts(model, given["input_ids"])
    found = prompted_outputs(model, given["pixel_values"], plan, **image_kwargs)
    output.logits_per_image, output.logits_per_text = found.logits, found.logits.T
    output.text_embeds = found.text_features.squeeze(0)
    return output
