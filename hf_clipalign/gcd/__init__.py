"""SpectralGCD: known classes and classes that nobody named."""

import lazy_loader

from hf_clipalign._registration import register_with_auto_classes

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_with_auto_classes(f"{__name__}.modeling")
