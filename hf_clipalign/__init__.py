"""Align any CLIP: better image-image and text-text similarity, prompts without labels, unknown classes, new findings.

Public names are loaded on first use (they are listed in `__init__.pyi`), so `import hf_clipalign` costs milliseconds.
Importing the package also makes its models known to the Auto classes of transformers as soon as those are loaded.
"""

import lazy_loader

from hf_clipalign._hooks import before_first_push

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# rooms whose models register themselves
from hf_clipalign import gcd, isoclip  # noqa: E402, F401


def _load_hub() -> None:
    """The room that pushes registers its hooks when it is imported: on the first `push_to_hub`."""
    import hf_clipalign.hub.push  # noqa: F401


before_first_push(_load_hub)
