"""The names of `hf_clipalign.features` that are also public here."""

from hf_clipalign.features import (
    Features,
    FeatureStore,
    LabelledEmbeddings,
    backbone_hash,
    extract_image_features,
    extract_text_features,
    extract_to_store,
    text_embeddings,
)

__all__ = [
    "FeatureStore",
    "Features",
    "LabelledEmbeddings",
    "backbone_hash",
    "extract_image_features",
    "extract_text_features",
    "extract_to_store",
    "text_embeddings",
]
