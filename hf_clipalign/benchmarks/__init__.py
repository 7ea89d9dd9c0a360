"""The registry of the papers' data sets: where they are, how they are read, and what is scored on them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
