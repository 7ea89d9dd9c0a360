"""ChineseCLIP and AltCLIP: CLIP's image tower, a text tower that looks both ways, read at its first token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hf_clipalign.backbones.clip import ProjectedTowersEncoder
from hf_clipalign.backbones.registry import register_backbone

_STOCK_CLASSES = {"image": "CLIPVisionModelWithProjection"}


@register_backbone("chinese_clip", "altclip")
class FirstTokenTextEncoder(ProjectedTowersEncoder):
    """`ChineseCLIPModel` and `AltCLIPModel`. Padded texts need their `attention_mask`.

    The image tower is CLIP's, so its stock export is a `CLIPVisionModelWithProjection`; transformers has no class for
    the text tower with a projector.
    """

    causal_text = False
    stock_classes = _STOCK_CLASSES

    @property
    def token_table(self) -> nn.Module | None:
        return input_table(self.model.text_model)

    @property
    def patch_table(self) -> nn.Module | None:
        return input_table(self.model.vision_model)

    @property
    def max_text_length(self) -> int:
        return n_positions(self.model.text_model)

    def text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        outputs = super().text_outputs(input_ids, attention_mask, **kwargs)
        outputs.pooler_output = outputs.last_hidden_state[:, 0]
        return outputs


def input_table(tower: Any) -> nn.Module | None:
    """The module that a tower's inputs meet first, where its class names one."""
    try:
        return tower.get_input_embeddings()
    except NotImplementedError:
        return None
    except AttributeError:  # image towers of the first 5.x releases
        return getattr(getattr(tower, "embeddings", None), "patch_embedding", None)


def n_positions(text_model: Any) -> int:
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
