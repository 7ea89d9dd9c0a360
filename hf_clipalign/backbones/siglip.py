"""SigLIP and SigLIP 2: bidirectional text attention, a linear text head with bias, an attention-pooling image head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality, ModulePaths, Projector
from hf_clipalign.backbones.registry import register_backbone


@register_backbone("siglip", "siglip2")
class SiglipEncoder(DualEncoder):
    """`SiglipModel` and `Siglip2Model`. The image head is not linear, so there is no image projector."""

    causal_text = False
    exact_image_projector = False
    module_paths = ModulePaths()
    text_start_tokens = 0

    @property
    def image_projector(self) -> Projector:
        raise ClipAlignError(
            f"{type(self.model).__name__} has no linear image projector: its head pools the image tokens by attention."
        )

    @property
    def text_projector(self) -> Projector:
        return Projector(self.model.text_model.head.weight, self.model.text_model.head.bias)

    @property
    def embed_dim(self) -> int:
        return self.text_projector.weight.shape[0]

    @property
    def vision_dim(self) -> int:
        return self.config.vision_config.hidden_size

    @property
    def device(self) -> torch.device:
        return self.text_projector.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.text_projector.weight.dtype

    @property
    def image_size(self) -> int:
        return self.config.vision_config.image_size

    @property
    def max_text_length(self) -> int:
        return self.config.text_config.max_position_embeddings

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale.exp()

    @property
    def logit_bias(self) -> Tensor:
        return self.model.logit_bias

    @property
    def n_patches(self) -> int:
        flexible = getattr(self.config.vision_config, "num_patches", None)
        return super().n_patches if flexible is None else flexible

    def blank_images(self, n: int) -> dict[str, Any]:
        vision = self.config.vision_config
        if not hasattr(vision, "num_patches"):
            return super().blank_images(n)
        patch = torch.zeros(1, 1, vision.num_channels * vision.patch_size**2, device=self.device, dtype=self.dtype)
        side = round(vision.num_patches**0.5)
        return {
            "pixel_values": patch.expand(n, vision.num_patches, -1),
            "pixel_attention_mask": torch.ones(n, vision.num_patches, dtype=torch.int32, device=self.device),
            "spatial_shapes": torch.full((n, 2), side, device=self.device),
        }

    def image_outputs(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        return self.model.vision_model(pixel_values=pixel_values, **kwargs)

    def encode_image(self, pixel_values: Tensor, normalize: bool = False, **kwargs: Any) -> Tensor:
        features = self.image_outputs(pixel_values, **kwargs).pooler_output
        return F.normalize(features, dim=-1) if normalize else features

    def text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        outputs = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        outputs.pooler_output = outputs.last_hidden_state[:, -1]
        return outputs

    def stock_tower(self, modality: Modality, weight: Tensor) -> nn.Module:
        raise ClipAlignError(
            f"transformers has no single-tower class with a projector for {type(self.model).__name__}."
        )
