"""PromptSRC: independent deep prompts in both towers, held near the frozen model by a regulariser."""

from hf_clipalign.tuners._registration import register_method
from hf_clipalign.tuners.promptsrc.config import PromptSRCConfig
from hf_clipalign.tuners.promptsrc.layer import PromptSRCImage, PromptSRCText
from hf_clipalign.tuners.promptsrc.model import PromptSRCModel

__all__ = ["PromptSRCConfig", "PromptSRCImage", "PromptSRCModel", "PromptSRCText"]

register_method("clip_promptsrc", PromptSRCConfig, PromptSRCModel)
