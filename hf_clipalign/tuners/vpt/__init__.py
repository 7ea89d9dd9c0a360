"""VPT: learned tokens behind the image patches."""

from hf_clipalign.tuners._registration import register_method
from hf_clipalign.tuners.vpt.config import VPTConfig
from hf_clipalign.tuners.vpt.layer import VPTPrompts
from hf_clipalign.tuners.vpt.model import VPTModel

__all__ = ["VPTConfig", "VPTModel", "VPTPrompts"]

register_method("clip_vpt", VPTConfig, VPTModel)
