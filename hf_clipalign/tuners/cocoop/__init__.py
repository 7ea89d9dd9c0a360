"""CoCoOp: a context that a small network shifts for every image."""

from hf_clipalign.tuners._registration import register_method
from hf_clipalign.tuners.cocoop.config import CoCoOpConfig
from hf_clipalign.tuners.cocoop.layer import CoCoOpContext
from hf_clipalign.tuners.cocoop.model import CoCoOpModel

__all__ = ["CoCoOpConfig", "CoCoOpContext", "CoCoOpModel"]

register_method("clip_cocoop", CoCoOpConfig, CoCoOpModel)
