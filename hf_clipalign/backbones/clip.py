"""CLIP and MetaCLIP 2: two towers, two linear projectors without bias, causal text attention."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality, ModulePaths, Projector
from hf_clipalign.backbones.registry import register_backbone

_LEGACY_EOS_TOKEN_ID = 2


class ProjectedTowersEncoder(DualEncoder):
    """Models with `vision_model`, `text_model`, `visual_projection`, `text_projection` and `logit_scale`."""

    def __init__(self, model: nn.Module):
        missing = [name for name in ("vision_model", "text_model") if not hasattr(model, name)]
        if missing:
            raise ClipAlignError(
                f"{type(model).__name__} has no {' and no '.join(missing)}: it is one tower of a CLIP. "
                "Load the full two-tower model, for example with AutoModel."
            )
        super().__init__(model)

    @property
    def image_projector(self) -> Projector:
        return Projector(self.model.visual_projection.weight, self.model.visual_projection.bias)

    @property
    def text_projector(self) -> Projector:
        return Projector(self.model.text_projection.weight, self.model.text_projection.bias)

    @property
    def image_size(self) -> int:
        return self.config.vision_config.image_size

    @property
    def max_text_length(self) -> int:
        return self.config.text_config.max_position_embeddings

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale.exp()

    def image_outputs(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        return self.model.vision_model(pixel_values=pixel_values, **kwargs)

    def text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        return self.model.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


@register_backbone("clip")
class CLIPEncoder(ProjectedTowersEncoder):
    """`CLIPModel`."""

    causal_text = True
    module_paths = ModulePaths()
    _class_prefix = "CLIP"

    def end_positions(self, input_ids: Tensor) -> Tensor:
        if self.config.text_config.eos_token_id == _LEGACY_EOS_TOKEN_ID:
            return input_ids.to(torch.int).argmax(dim=-1)
        return _first_position(input_ids, self.config.text_config.eos_token_id)

    @property
    def true_end_token(self) -> int | None:
        legacy = self.config.text_config.eos_token_id == _LEGACY_EOS_TOKEN_ID
        return self.config.text_config.vocab_size - 1 if legacy else None

    def stock_tower(self, modality: Modality, weight: Tensor) -> nn.Module:
        tower = "vision" if modality == "image" else "text"
        stock_class = getattr(transformers, f"{self._class_prefix}{tower.title()}ModelWithProjection")
        config = copy.deepcopy(getattr(self.config, f"{tower}_config"))
        config.projection_dim = weight.shape[0]
        stock = stock_class(config).to(weight.device, weight.dtype).eval()
        getattr(stock, f"{tower}_model").load_state_dict(getattr(self.model, f"{tower}_model").state_dict())
        projection = stock.visual_projection if modality == "image" else stock.text_projection
        projection.weight.data.copy_(weight)
        return stock


@register_backbone("metaclip_2")
class MetaCLIP2Encoder(CLIPEncoder):
    """`MetaClip2Model`: CLIP's towers with a multilingual vocabulary whose end token really is 2."""

    _class_prefix = "MetaClip2"
    true_end_token = None

    def end_positions(self, input_ids: Tensor) -> Tensor:
        return _first_position(input_ids, self.config.text_config.eos_token_id)


def _first_position(input_ids: Tensor, token_id: int) -> Tensor:
    return (input_ids == token_id).to(torch.int).argmax(dim=-1)
