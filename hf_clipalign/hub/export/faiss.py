"""A faiss index of aligned embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._checks.tensors import check_finite, parse_dtype
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_folder
from hf_clipalign._rows import map_rows, unit_rows
from hf_clipalign.backbones import Projector
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.features import Features, FeatureStore
from hf_clipalign.hub.export.common import EXPORT_DTYPES
from hf_clipalign.isoclip import IsoCLIPModel

INDEX_FILE, IDS_FILE, FACTS_FILE = "index.faiss", "ids.json", "index.json"
FAISS_FILES = (INDEX_FILE, IDS_FILE, FACTS_FILE)


def export_faiss(
    model: IsoCLIPModel,
    path: str | Path,
    features: str | Path,
    modality: Modality = "image",
    compact: bool = False,
    dtype: Literal["float32", "float16"] | torch.dtype = "float32",
) -> Path:
    """Writes a faiss index of stored features as a model aligns them (extra `faiss`).

    Args:
        model (`IsoCLIPModel`): the aligned model.
        path (`str` or `Path`): folder for `index.faiss`, `ids.json` (names by row) and `index.json` (band, dimension).
        features (`str` or `Path`): folder that `clipalign embed` wrote, with the same base model.
        modality (`"image"` or `"text"`): what the features are of, defaults to `"image"`.
        compact (`bool`): the exact smaller embedding with the same cosines, defaults to False.
        dtype (`"float32"` or `"float16"`): how vectors are stored, defaults to `"float32"`.

    Returns:
        `Path`: the index file.

    Raises:
        `ClipAlignError`: the features are of another model or modality; or as `build_faiss_index`.

    Example:
        ```python
        >>> import faiss
        >>> from hf_clipalign.features import extract_to_store
        >>> from hf_clipalign.hub import export_faiss
        >>> store = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False)
        >>> index = faiss.read_index(str(export_faiss(aligned, "photos-index", store.folder, compact=True)))
        >>> index.ntotal, index.d
        (12, 79)
        ```
    """
    store = FeatureStore.open(features)
    if store.modality != modality:
        raise ClipAlignError(f"{str(features)!r} holds {store.modality} features, but {modality} ones are asked for.")
    store.check_model(model.encoder)
    projector = model.aligned_projector(modality, compact)
    facts = {**model.export_facts("faiss", modality, compact), "dimension": len(projector.weight)}
    return build_faiss_index(store.to_features(), path, projector, dtype, facts)


def build_faiss_index(
    features: Features | Tensor,
    path: str | Path,
    projector: Projector | None = None,
    dtype: Literal["float32", "float16"] | torch.dtype = "float32",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Writes an exact inner-product index of unit vectors: a search gives cosines (extra `faiss`).

    Args:
        features (`Features` or `Tensor [N, w]`): features before the projector (with `projector`), or embeddings.
        path (`str` or `Path`): folder for `index.faiss` and, for `Features`, `ids.json` with the N names by row.
        projector (`Projector`, *optional*): `model.aligned_projector("image", compact=True)`, for example.
        dtype (`"float32"` or `"float16"`, *optional*, defaults to `"float32"`): how vectors are stored; float16 halves
            the file.
        facts (`Mapping[str, Any]`, *optional*): more for `index.json`, which holds dimension, number and similarity.

    Returns:
        `Path`: the index file.

    Raises:
        `ClipAlignError`: faiss is missing, there are no features, a feature is NaN, the projector has another width,
            or the folder cannot be written.

    Example:
        ```python
        >>> import faiss
        >>> from hf_clipalign.hub import build_faiss_index
        >>> file = build_faiss_index(features, "index", aligned.aligned_projector("image"))
        >>> index = faiss.read_index(str(file))
        >>> index.ntotal, index.d
        (24, 128)
        ```
    """
    faiss = _faiss()
    vectors = _unit_vectors(features.values if isinstance(features, Features) else features, projector)
    if parse_dtype(dtype, *EXPORT_DTYPES) == torch.float16:
        kind, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        index: Any = faiss.IndexScalarQuantizer(vectors.shape[1], kind, metric)
        index.train(vectors)
    else:
        index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    described = {"dimension": index.d, "vectors": index.ntotal, "normalized": True, "similarity": "cosine"}
    with atomic_folder(path, keep=lambda name: name not in FAISS_FILES) as staging:
        content = json.dumps({"hf_clipalign": {**described, **(facts or {})}}, indent=1)
        (staging / FACTS_FILE).write_text(content, encoding="utf-8")
        faiss.write_index(index, str(staging / INDEX_FILE))
        if isinstance(features, Features):
            (staging / IDS_FILE).write_text(json.dumps(features.ids, ensure_ascii=False), encoding="utf-8")
    return Path(path) / INDEX_FILE


def _unit_vectors(features: Tensor, projector: Projector | None) -> np.ndarray:
    features = features.detach().cpu()
    features = features if features.dtype == torch.float64 else features.float()
    if features.ndim != 2 or not len(features):
        raise ClipAlignError(f"an index needs features [N, width] with N of at least 1, got {tuple(features.shape)}.")
    if projector is not None:
        features = _project(features, projector)
    check_finite(features, "features")
    return np.ascontiguousarray(unit_rows(features).numpy())


def _project(features: Tensor, projector: Projector) -> Tensor:
    """Features with or without the column of ones that stands for a bias."""
    width = projector.weight.shape[1]
    if features.shape[1] == width:
        features = projector.lift(features)
    matrix = projector.matrix.detach().cpu().to(features)
    if features.shape[1] != matrix.shape[1]:
        raise ClipAlignError(
            f"the features have dimension {features.shape[1]}, but the projector takes {width}: give features before "
            "the projector, of the same model."
        )
    return map_rows(lambda rows: rows @ matrix.T, features)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ClipAlignError("an index needs the package faiss: pip install 'hf_clipalign[faiss]'.") from error
    return faiss
