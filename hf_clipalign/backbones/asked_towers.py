"""Towers of any family under CLIP's projectors: where their tables are is asked of the towers themselves."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_clipalign.backbones.clip import ProjectedTowersEncoder


class AskedTowersEncoder(ProjectedTowersEncoder):
    """Models whose towers come from other families than CLIP: BERT-like text towers, image towers of any kind."""

    @property
    def token_table(self) -> nn.Module | None:
        return _input_table(self.model.text_model)

    @property
    def patch_table(self) -> nn.Module | None:
        return _input_table(self.model.vision_model)

    @property
    def max_text_length(self) -> int:
        return _n_positions(self.model.text_model)


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
