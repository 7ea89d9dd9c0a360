"""Prompt learning and RE-tune as PEFT methods. Importing this package makes them known to PEFT."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# methods register themselves when they are imported
from hf_clipalign.tuners import cocoop, coop, maple, promptsrc, retune, vpt  # noqa: E402, F401
