"""VisionTextDualEncoder: any image tower and any text tower of transformers, joined by two projectors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.asked_towers import AskedTowersEncoder
from hf_clipalign.backbones.clip import clip_end_positions
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.backbones.registry import register_backbone

_CLIP_TEXT = "clip_text_model"
_STOCK_CLASSES = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    _CLIP_TEXT: "CLIPTextModelWithProjection",
}


@register_backbone("vision-text-dual-encoder")
class VisionTextEncoder(AskedTowersEncoder):
    """`VisionTextDualEncoderModel`. Both towers are read at their `pooler_output`.

    A CLIP text tower is causal; BERT-like ones look both ways and need the `attention_mask` of padded texts. Towers
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
