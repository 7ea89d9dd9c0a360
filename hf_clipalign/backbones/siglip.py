"""SigLIP and SigLIP 2: bidirectional text attention, a linear text head with bias, an attention-pooling image head."""

from __future__ import annotations

import copy
import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.clip import empty_stock
from hf_clipalign.backbones.dual_encoder import DualEncoder, Layout, Modality, ModulePaths, Projector
from hf_clipalign.backbones.linearization import (
    check_layout,
    folded_into_attention,
    in_layout,
    linearize_pooling_head,
    residual_head,
)
from hf_clipalign.backbones.registry import register_backbone


@register_backbone("siglip", "siglip2")
class SiglipEncoder(DualEncoder):
    """`SiglipModel` and `Siglip2Model`.

    The image head pools by attention and ends in `x + MLP(LayerNorm(x))`. Features before the projector are the pooled
    x; `project_image` and `encode_image` are exact; `image_projector` is an APPROXIMATION (`linearize_pooling_head`,
    whose real error `image_projection_error` measures). `Siglip2Model` (flexible image shapes) also needs
    `pixel_attention_mask` and `spatial_shapes`; they go through as keyword arguments.

    Args:
        model (`nn.Module`): the two-tower model.
        layout (`"consistent"` or `"reference"`): how projectors are stacked, see `linearize_pooling_head`. The
            reference layout is only for reproducing the authors' numbers.
    """

    causal_text = False
    full_length_text = True
    exact_image_projector = False
    module_paths = ModulePaths()
    feature_heads: ClassVar[dict[Modality, str] | None] = {"image": "vision_model.head", "text": "text_model.head"}
    text_start_tokens = 0

    def __init__(self, model: nn.Module, layout: Layout = "consistent"):
        check_layout(layout)
        super().__init__(model)
        if not hasattr(self.model.vision_model, "head"):
            raise ClipAlignError(
                f"this {type(model).__name__} has no attention-pooling image head (vision_use_head is False), so it "
                "has no image feature in the shared space. Load a checkpoint with its head."
            )
        self.layout = layout
        self.flexible_images = self.config.model_type == "siglip2"

    def with_layout(self, layout: Layout) -> SiglipEncoder:
        check_layout(layout)
        return SiglipEncoder(self.model, layout)

    @property
    def image_projector(self) -> Projector:
        return linearize_pooling_head(self._image_head, self.layout)

    @property
    def text_projector(self) -> Projector:
        head = self._text_head
        return in_layout(Projector(head.weight, head.bias), self.layout)

    @property
    def embed_dim(self) -> int:
        return self._text_head.out_features

    @property
    def vision_dim(self) -> int:
        return self.config.vision_config.hidden_size

    @property
    def device(self) -> torch.device:
        return self._text_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._text_head.weight.dtype

    @property
    def image_size(self) -> int:
        config = self.config.vision_config
        side = getattr(config, "image_size", None)
        return side if side is not None else round(config.num_patches**0.5) * config.patch_size

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
        return self.config.vision_config.num_patches if self.flexible_images else super().n_patches

    def blank_images(self, n: int) -> dict[str, Any]:
        if not self.flexible_images:
            return super().blank_images(n)
        vision = self.config.vision_config
        patch = torch.zeros(1, 1, vision.num_channels * vision.patch_size**2, device=self.device, dtype=self.dtype)
        side = round(vision.num_patches**0.5)
        return {
            "pixel_values": patch.expand(n, vision.num_patches, -1),
            "pixel_attention_mask": torch.ones(n, vision.num_patches, dtype=torch.int32, device=self.device),
            "spatial_shapes": torch.full((n, 2), side, device=self.device),
        }

    def image_outputs(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        vision = self.model.vision_model
        if "pixel_attention_mask" in kwargs and "attention_mask" in inspect.signature(vision.forward).parameters:
            kwargs["attention_mask"] = kwargs.pop("pixel_attention_mask")  # its name in the first 5.x releases
        pooled: list[Tensor] = []
        handle = self._image_head.layernorm.register_forward_pre_hook(
            lambda module, args: pooled.append(args[0][:, 0])
        )
        try:
            outputs = vision(pixel_values=pixel_values, **kwargs)
        finally:
            handle.remove()
        outputs.pooler_output = pooled[-1]
        return outputs

    def project_image(self, features: Tensor, adapted: bool = True) -> Tensor:
        projected = residual_head(self._image_head, features)
        return self.behind_head("image", projected) if adapted else projected

    def project_text(self, features: Tensor, adapted: bool = True) -> Tensor:
        projected = self._text_head(features)
        return self.behind_head("text", projected) if adapted else projected

    @property
    def _image_head(self) -> Any:
        return _without_adapter(self.model.vision_model.head)

    @property
    def _text_head(self) -> Any:
        return _without_adapter(self.model.text_model.head)

    def text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        outputs = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        outputs.pooler_output = outputs.last_hidden_state[:, -1]
        return outputs

    def stock_tower(self, modality: Modality, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
        """The tower as `SiglipTextModel` or `SiglipVisionModel`; the aligned feature is its `pooler_output`.

        The text head has a bias of its own. On the image side the projector is folded into the attention's output map
        and the MLP is silenced, so that the stock head gives exactly the aligned feature.
        """
        prefix = "Siglip2" if self.flexible_images else "Siglip"
        if modality == "text":
            return self._stock_text(f"{prefix}TextModel", weight, bias)
        if len(weight) != self.vision_dim:
            raise ClipAlignError(
                f"a stock {prefix}VisionModel gives features as wide as its tower, dimension {self.vision_dim}: a "
                f"compact one of {len(weight)} cannot be written. Leave compact out, or export "
                "sentence-transformers or ONNX."
            )
        return self._stock_image(f"{prefix}VisionModel", Projector(weight, bias))

    def _stock_text(self, class_name: str, weight: Tensor, bias: Tensor | None) -> nn.Module:
        stock = empty_stock(class_name, self.config.text_config, weight, projection_size=len(weight))
        state = {
            **self.model.text_model.state_dict(),
            "head.weight": weight,
            "head.bias": weight.new_zeros(len(weight)),
        }
        if bias is not None:
            state["head.bias"] = bias
        getattr(stock, "text_model", stock).load_state_dict(state)
        return stock

    def drop_text_tower(self) -> bool:
        head = self.model.text_model.head
        self.model.text_model = nn.Module()
        self.model.text_model.head = head
        return True

    def image_feature_tower(self) -> nn.Module:
        return self._stock_image("Siglip2VisionModel" if self.flexible_images else "SiglipVisionModel", None)

    def with_projectors(self, image: Projector | None = None, text: Projector | None = None) -> nn.Module:
        replaced = copy.deepcopy(self.model)
        if image is not None:
            _fold(replaced.vision_model.head, image)
        if text is not None:
            for parameter, value in zip(replaced.text_model.head.parameters(), (text.weight, text.bias), strict=True):
                parameter.data.copy_(value)
        return replaced

    def _stock_image(self, class_name: str, projector: Projector | None) -> nn.Module:
        stock = empty_stock(class_name, self.config.vision_config, self.model.text_model.head.weight)
        tower = getattr(stock, "vision_model", stock)
        tower.load_state_dict(self.model.vision_model.state_dict())
        _fold(tower.head, projector)
        return stock


def _without_adapter(head: Any) -> Any:
    """The head itself where an adapter has been put in its place."""
    return getattr(head, "base_layer", head)


def _fold(head: Any, projector: Projector | None) -> None:
    """Makes a pooling head give `projector(x)` of its attention-pooled x, or x itself for None."""
    for parameter in head.mlp.fc2.parameters():
        parameter.data.zero_()
    if projector is None:
        return
    output = head.attention.out_proj
    for parameter, value in zip((output.weight, output.bias), folded_into_attention(projector, output), strict=True):
        parameter.data.copy_(value)
