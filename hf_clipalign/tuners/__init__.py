"""Prompt learning as PEFT methods. Importing this package makes them known to PEFT."""

import lazy_loader

from hf_clipalign.tuners._registration import register_methods

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_methods()
