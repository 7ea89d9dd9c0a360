"""CLIP, MetaCLIP 2, CLIPSeg: two towers, two linear projectors without bias, causal text attention."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality, ModulePaths, Projector
from hf_clipalign.backbones.registry import register_backbone

_LEGACY_EOS_TOKEN_ID = 2
_CLIP_STOCK = {"image": "CLIPVisionModelWithProjection", "text": "CLIPTextModelWithProjection"}
_METACLIP_STOCK = {"image": "MetaClip2VisionModelWithProjection", "text": "MetaClip2TextModelWithProjection"}
_NOT_TAKEN_OVER = ("model_type", "architectures", "transformers_version")


class ProjectedTowersEncoder(DualEncoder):
    """Models with `vision_model`, `text_model`, `visual_projection`, `text_projection` and `logit_scale`."""

    feature_heads: ClassVar[dict[Modality, str] | None] = {"image": "visual_projection", "text": "text_projection"}
    stock_classes: ClassVar[dict[str, str]] = {}
    """For each modality the transformers class that holds such a tower with its projector; none if it is missing."""

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

    def stock_class_name(self, modality: Modality) -> str | None:
        """Name of the transformers class for `stock_tower`, or None."""
        return self.stock_classes.get(modality)

    def stock_tower(self, modality: Modality, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
        class_name, tower = self.stock_class_name(modality), "vision" if modality == "image" else "text"
        if class_name is None:
            raise ClipAlignError(no_stock_class_message(self.model, modality))
        if bias is not None:
            raise ClipAlignError(
                f"the {modality} projector of {type(self.model).__name__} has a bias, which the stock class "
                f"{class_name} would silently drop. Save the aligned model with save_pretrained, or export ONNX."
            )
        stock = empty_stock(class_name, getattr(self.config, f"{tower}_config"), weight, projection_dim=len(weight))
        source = getattr(self.model, f"{tower}_model")
        getattr(stock, f"{tower}_model").load_state_dict(getattr(source, f"{tower}_model", source).state_dict())
        projection = stock.visual_projection if modality == "image" else stock.text_projection
        projection.weight.data.copy_(weight)
        return stock

    def image_feature_tower(self) -> nn.Module:
        class_name = self.stock_class_name("image")
        if class_name is None:
            return self.model.vision_model
        # every image tower with such a stock class is built as CLIP's is
        stock = empty_stock("CLIPVisionModel", self.config.vision_config, self.model.visual_projection.weight)
        source = self.model.vision_model
        getattr(stock, "vision_model", stock).load_state_dict(getattr(source, "vision_model", source).state_dict())
        return stock

    def drop_text_tower(self) -> bool:
        self.model.text_model = nn.Module()
        return True

    def with_projectors(self, image: Projector | None = None, text: Projector | None = None) -> nn.Module:
        replaced = copy.deepcopy(self.model)
        for linear, projector in ((replaced.visual_projection, image), (replaced.text_projection, text)):
            if projector is not None:
                linear.weight.data.copy_(projector.weight)
        return replaced


def empty_stock(class_name: str, source_config: Any, weight: Tensor, **changes: Any) -> Any:
    """An untrained stock model with a tower's configuration, on the device and in the dtype of `weight`."""
    stock_class = getattr(transformers, class_name)
    values = {name: value for name, value in source_config.to_dict().items() if name not in _NOT_TAKEN_OVER}
    return stock_class(stock_class.config_class(**{**values, **changes})).to(weight.device, weight.dtype).eval()


def no_stock_class_message(model: nn.Module, modality: Modality) -> str:
    """Why a tower has no stock export, and what there is instead."""
    return (
        f"transformers has no class for the {modality} tower of {type(model).__name__} with a projector on top. "
        "Save the aligned model with save_pretrained, or export it to sentence-transformers or ONNX."
    )


@register_backbone("clip")
class CLIPEncoder(ProjectedTowersEncoder):
    """`CLIPModel`."""

    causal_text = True
    module_paths = ModulePaths()
    stock_classes = _CLIP_STOCK

    def end_positions(self, input_ids: Tensor) -> Tensor:
        return clip_end_positions(input_ids, self.config.text_config.eos_token_id)

    @property
    def true_end_token(self) -> int | None:
        legacy = self.config.text_config.eos_token_id == _LEGACY_EOS_TOKEN_ID
        return self.config.text_config.vocab_size - 1 if legacy else None


@register_backbone("metaclip_2")
class MetaCLIP2Encoder(CLIPEncoder):
    """`MetaClip2Model`: CLIP's towers with a multilingual vocabulary whose end token really is 2."""

    stock_classes = _METACLIP_STOCK
    true_end_token = None

    def end_positions(self, input_ids: Tensor) -> Tensor:
        return _first_position(input_ids, self.config.text_config.eos_token_id)


@register_backbone("clipseg")
class CLIPSegEncoder(CLIPEncoder):
    """`CLIPSegModel`: CLIP's towers, as the segmentation model is built on; its decoder is not looked at."""


def clip_end_positions(input_ids: Tensor, eos_token_id: int) -> Tensor:
    """Where CLIP reads a text, `LongTensor [N]`: the highest id in old configurations, else the first end token."""
    if eos_token_id == _LEGACY_EOS_TOKEN_ID:
        return input_ids.to(torch.int).argmax(dim=-1)
    return _first_position(input_ids, eos_token_id)


def _first_position(input_ids: Tensor, token_id: int) -> Tensor:
    return (input_ids == token_id).to(torch.int).argmax(dim=-1)
