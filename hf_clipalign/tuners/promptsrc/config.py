"""Configuration of PromptSRC."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_clipalign.tuners._base import ContextConfig
from hf_clipalign.tuners._registration import peft_type


@dataclass
class PromptSRCConfig(ContextConfig):
    """Configuration of PromptSRC (Khattak et al., 2023): independent prompts in both towers.

    The self-regularisation and the average over epochs belong to training: `hf_clipalign.losses.promptsrc_losses` and
    `gaussian_prompt_weights`.

    Args:
        n_ctx (`int`, *optional*, defaults to `4`): number of text prompts in each layer.
        n_prompts (`int`, *optional*, defaults to `4`): number of image prompts in each layer.
        ctx_init (`str`, *optional*): words that the first layer's text prompts start from. Default None: N(0, 0.02).
        text_depth (`int`, *optional*): text layers with prompts of their own. Default None: 9, or all if fewer.
        image_depth (`int`, *optional*): image layers with prompts of their own. Default None: 9, or all if fewer.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import PromptSRCConfig
        >>> model = get_peft_model(load_mini().student, PromptSRCConfig(n_ctx=4))
        >>> model.get_nb_trainable_parameters()[0]
        4096
        ```
    """

    n_prompts: int = field(default=4, metadata={"help": "Number of learned image prompts in each layer."})
    text_depth: int | None = field(
        default=None, metadata={"help": "Text layers with own prompts; None is 9, or all if fewer."}
    )
    image_depth: int | None = field(
        default=None, metadata={"help": "Image layers with own prompts; None is 9, or all if fewer."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive(n_prompts=self.n_prompts, text_depth=self.text_depth, image_depth=self.image_depth)
        self.peft_type = peft_type("CLIP_PROMPTSRC")
