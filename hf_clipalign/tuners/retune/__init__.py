"""RE-tune: small adapters behind the two projectors, for findings that are learned one after the other."""

from hf_clipalign.tuners._registration import register_method
from hf_clipalign.tuners.retune.config import RETuneConfig
from hf_clipalign.tuners.retune.embeddings import EmbeddingSpace, adapt_image, adapt_text, load_without_towers
from hf_clipalign.tuners.retune.layer import RETuneLayer
from hf_clipalign.tuners.retune.model import RETuneModel

__all__ = [
    "EmbeddingSpace",
    "RETuneConfig",
    "RETuneLayer",
    "RETuneModel",
    "adapt_image",
    "adapt_text",
    "load_without_towers",
]

register_method("clip_retune", RETuneConfig, RETuneModel)
