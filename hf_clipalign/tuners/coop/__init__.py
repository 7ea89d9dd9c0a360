"""CoOp: learned context words in front of, around or behind the class name."""

from hf_clipalign.tuners._registration import register_method
from hf_clipalign.tuners.coop.config import CoOpConfig
from hf_clipalign.tuners.coop.layer import CoOpContext
from hf_clipalign.tuners.coop.model import CoOpModel

__all__ = ["CoOpConfig", "CoOpContext", "CoOpModel"]

register_method("clip_coop", CoOpConfig, CoOpModel)
