"""PEFT model of RE-tune."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.tuners._base import check_when_loaded
from hf_clipalign.tuners.retune.embeddings import heads_and_width
from hf_clipalign.tuners.retune.layer import RETuneLayer


class RETuneModel(BaseTuner):
    """RE-tune: the modules that give the features of the shared space are wrapped.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.tuners import EmbeddingSpace, RETuneConfig
        >>> type(get_peft_model(EmbeddingSpace(128), RETuneConfig()).base_model).__name__
        'RETuneModel'
        ```
    """

    prefix = "clip_retune_"
    tuner_layer_cls = RETuneLayer
    target_module_mapping: dict[str, Any] = {}  # noqa: RUF012 (as declared by PEFT)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        check_when_loaded(self)
        heads, width = heads_and_width(model)
        saved = list(peft_config.modules_to_save or ())
        own = [path for path in heads.values() if any(_is_below(path, name) for name in saved)]
        if own:
            raise ClipAlignError(
                f"modules_to_save={saved!r} would train {own[0]!r}, which the adapter stands behind: leave it out."
            )
        if peft_config.embed_dim not in (None, width):
            raise ClipAlignError(
                f"the adapter is for a shared space of dimension {peft_config.embed_dim}, the model's has {width}: "
                "load it on the model that it was trained for."
            )
        peft_config.embed_dim, peft_config.image_head, peft_config.text_head = width, heads["image"], heads["text"]
        wrapped = heads.values() if peft_config.sides in ("both", "shared") else [heads[peft_config.sides]]
        peft_config.target_modules = "|".join(re.escape(path) for path in wrapped)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target if isinstance(target, RETuneLayer) else RETuneLayer(target)
        if peft_config.sides == "shared" and current_key == peft_config.text_head:
            layer.share_adapter(adapter_name, peft_config.inference_mode)
        else:
            hidden = peft_config.adapter == "mlp"
            layer.add_adapter(
                adapter_name, peft_config.embed_dim, hidden, peft_config.identity_start, peft_config.inference_mode
            )
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)
        self._join(peft_config)

    def _join(self, config: Any) -> None:
        """Shows the text head's wrapper the image head's, whose weights a shared adapter uses."""
        image, text = (self.model.get_submodule(path) for path in (config.image_head, config.text_head))
        if isinstance(image, RETuneLayer) and isinstance(text, RETuneLayer):
            text.partner = [image]

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version copies child.weight when unloading, which pooling heads lack
        setattr(parent, child_name, new_module)


def _is_below(path: str, name: str) -> bool:
    """Whether PEFT takes a name in `modules_to_save` for this module, or for one around it."""
    return any(part == name or part.endswith(f".{name}") for part in accumulate(path.split("."), "{}.{}".format))
