"""Towers of other families under CLIP's projectors: ChineseCLIP, AltCLIP, and any two that transformers joins."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.clip import ProjectedTowersEncoder, clip_end_positions
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.backbones.registry import register_backbone

_CLIP_TEXT = "clip_text_model"
_STOCK_CLASSES = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    _CLIP_TEXT: "CLIPTextModelWithProjection",
}


class ForeignTowersEncoder(ProjectedTowersEncoder):
    """Models whose towers come from other families than CLIP: BERT-like text towers, image towers of any kind.

    Where such a tower keeps its tables is asked of the tower.
    """

    @property
    def token_table(self) -> nn.Module | None:
        return _input_table(self.model.text_model)

    @property
    def patch_table(self) -> nn.Module | None:
        return _input_table(self.model.vision_model)

    @property
    def max_text_length(self) -> int:
        return _n_positions(self.model.text_model)


@register_backbone("chinese_clip", "altclip")
class FirstTokenTextEncoder(ForeignTowersEncoder):
    """`ChineseCLIPModel` and `AltCLIPModel`. Padded texts need their `attention_mask`.

    The image tower is CLIP's, so its stock export is a `CLIPVisionModelWithProjection`; transformers has no class for
    the text tower with a projector.
    """

    causal_text = False
    stock_classes: ClassVar[dict[str, str]] = {"image": "CLIPVisionModelWithProjection"}

    def text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        outputs = super().text_outputs(input_ids, attention_mask, **kwargs)
        outputs.pooler_output = outputs.last_hidden_state[:, 0]
        return outputs


@register_backbone("vision-text-dual-encoder")
class VisionTextEncoder(ForeignTowersEncoder):
    """`VisionTextDualEncoderModel`. Both towers are read at their `pooler_output`.

    A CLIP text tower is causal; BERT-like ones are bidirectional and need the `attention_mask` of padded texts. Towers
    that are CLIP's export to stock classes, others have none.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.causal_text = self.config.text_config.model_type == _CLIP_TEXT

    def end_positions(self, input_ids: Tensor) -> Tensor:
        if not self.causal_text:
            return super().end_positions(input_ids)
        return clip_end_positions(input_ids, self.config.text_config.eos_token_id)

    def image_outputs(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        return self._pooled(super().image_outputs(pixel_values, **kwargs), "vision")

    def text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        return self._pooled(super().text_outputs(input_ids, attention_mask, **kwargs), "text")

    def stock_class_name(self, modality: Modality) -> str | None:
        tower = self.config.vision_config if modality == "image" else self.config.text_config
        return _STOCK_CLASSES.get(tower.model_type)

    def _pooled(self, outputs: Any, tower: str) -> Any:
        if getattr(outputs, "pooler_output", None) is None:
            tower_class = type(getattr(self.model, f"{tower}_model")).__name__
            raise ClipAlignError(
                f"the {tower} tower {tower_class} gives no pooled feature, so its projector has no input. "
                "Use a tower with a pooler."
            )
        return outputs


def _input_table(tower: Any) -> nn.Module | None:
    """The module that a tower's inputs meet first, where its class names one."""
    try:
        return tower.get_input_embeddings()
    except NotImplementedError:
        return None
    except AttributeError:  # image towers of the first 5.x releases
        return getattr(getattr(tower, "embeddings", None), "patch_embedding", None)


def _n_positions(text_model: Any) -> int:
    """Longest text of a BERT-like tower: RoBERTa's position table starts after its padding position."""
    tables = [
        module
        for name, module in text_model.named_modules()
        if name.rpartition(".")[2] in ("position_embeddings", "position_embedding")
    ]
    if not tables:
        return text_model.config.max_position_embeddings
    first = tables[0].padding_idx
    return tables[0].num_embeddings - (0 if first is None else first + 1)
