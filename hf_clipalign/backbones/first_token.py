"""ChineseCLIP and AltCLIP: CLIP's image tower, a text tower that looks both ways, read at its first token."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hf_clipalign.backbones.asked_towers import AskedTowersEncoder
from hf_clipalign.backbones.registry import register_backbone

_STOCK_CLASSES = {"image": "CLIPVisionModelWithProjection"}


@register_backbone("chinese_clip", "altclip")
class FirstTokenTextEncoder(AskedTowersEncoder):
    """`ChineseCLIPModel` and `AltCLIPModel`. Padded texts need their `attention_mask`.

    The image tower is CLIP's, so its stock export is a `CLIPVisionModelWithProjection`; transformers has no class for
    the text tower with a projector.
    """

    causal_text = False
    stock_classes = _STOCK_CLASSES

    def text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        outputs = super().text_outputs(input_ids, attention_mask, **kwargs)
        outputs.pooler_output = outputs.last_hidden_state[:, 0]
        return outputs
