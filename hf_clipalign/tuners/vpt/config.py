"""Configuration of VPT."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_clipalign.tuners._base import PromptConfig
from hf_clipalign.tuners._registration import peft_type


@dataclass
class VPTConfig(PromptConfig):
    """Configuration of VPT (Jia et al., 2022): tokens appended to the patches, without position embedding.

    They are appended before the norm in front of the first layer; before the layers 2 to `depth` they are replaced by
    that layer's own, and after that they run on. The text tower stays as it is.

    Args:
        n_prompts (`int`, *optional*, defaults to `8`): number of tokens.
        depth (`int`, *optional*): layers with tokens of their own: 1 is VPT-shallow, None (default) is every layer.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import VPTConfig
        >>> model = get_peft_model(load_mini().student, VPTConfig(n_prompts=8))
        >>> model.get_nb_trainable_parameters()[0]
        5120
        ```
    """

    n_prompts: int = field(default=8, metadata={"help": "Number of learned image tokens."})
    depth: int | None = field(default=None, metadata={"help": "Layers with own tokens: 1 is shallow, None is all."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive(n_prompts=self.n_prompts, depth=self.depth)
        self.peft_type = peft_type("CLIP_VPT")
