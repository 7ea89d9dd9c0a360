"""Configuration of MaPLe."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_clipalign.tuners._base import ContextConfig
from hf_clipalign.tuners._registration import peft_type


@dataclass
class MaPLeConfig(ContextConfig):
    """Configuration of MaPLe (Khattak et al., 2023): deep text prompts, and image prompts computed from them.

    In the first `depth` layers of the text tower the n positions after the start token are learned; a linear map per
    layer turns them into the n tokens that are appended to the image patches at that depth.

    Args:
        n_ctx (`int`, *optional*, defaults to `2`): number of prompts in each layer.
        ctx_init (`str`, *optional*): words that the first layer's prompts start from. Default None: N(0, 0.02).
        depth (`int`, *optional*): layers with prompts of their own. Default None: 9, or all of a shallower tower.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import MaPLeConfig
        >>> model = get_peft_model(load_mini().student, MaPLeConfig(n_ctx=2, depth=3))
        >>> model.get_nb_trainable_parameters()[0]
        50304
        ```
    """

    n_ctx: int = field(default=2, metadata={"help": "Number of learned prompts in each layer."})
    depth: int | None = field(default=None, metadata={"help": "Layers with own prompts; None is 9, or all if fewer."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive(depth=self.depth)
        self.peft_type = peft_type("CLIP_MAPLE")
