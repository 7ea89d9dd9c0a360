"""MaPLe: text prompts in several layers, and image prompts that are linear maps of them."""

from hf_clipalign.tuners._registration import register_method
from hf_clipalign.tuners.maple.config import MaPLeConfig
from hf_clipalign.tuners.maple.layer import MaPLeImage, MaPLeText
from hf_clipalign.tuners.maple.model import MaPLeModel

__all__ = ["MaPLeConfig", "MaPLeImage", "MaPLeModel", "MaPLeText"]

register_method("clip_maple", MaPLeConfig, MaPLeModel)
