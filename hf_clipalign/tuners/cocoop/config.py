"""Configuration of CoCoOp."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_clipalign.tuners._base import ContextConfig
from hf_clipalign.tuners._registration import peft_type


@dataclass
class CoCoOpConfig(ContextConfig):
    """Configuration of CoCoOp (Zhou et al., 2022): `Linear(d, d/16)`, ReLU, `Linear(d/16, d_t)` shifts the context.

    The network reads the unit-length image feature; its output is added to every context vector, so every image has
    its own text pass. The stock forward and pipelines give these logits too; `get_text_features`, which sees no image,
    gives the features of the context without a shift.

    Args:
        n_ctx (`int`, *optional*, defaults to `4`): number of context vectors.
        ctx_init (`str`, *optional*): words that the context starts from. Default None: drawn from N(0, 0.02).
        reduction (`int`, *optional*, defaults to `16`): the network's hidden size is the shared embedding size divided
            by this.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import CoCoOpConfig
        >>> model = get_peft_model(load_mini().student, CoCoOpConfig(n_ctx=4))
        >>> model.get_nb_trainable_parameters()[0]
        2696
        ```
    """

    reduction: int = field(default=16, metadata={"help": "Embedding size divided by the network's hidden size."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive(reduction=self.reduction)
        self.peft_type = peft_type("CLIP_COCOOP")
