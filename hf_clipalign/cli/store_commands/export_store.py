"""`clipalign export FEATURES`: a store of features or embeddings, for other programs or in another place."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.models import chosen_model, load
from hf_clipalign.cli.options import console

STORE_FORMATS = ("arrow", "embeddings", "clip-retrieval", "store")
_HEADS = ("raw", "aligned")


@dataclass(frozen=True)
class StoreExport:
    """What was asked for.

    Args:
        source (`str`): folder or URL of the store.
        to (`str`): the format.
        out (`str`, *optional*): where to.
        model (`str`, *optional*): for features that are to be projected.
        head (`str`, *optional*): `"raw"` or `"aligned"`.
        bands (pair): image and text band, None where there is none.
        base_model (`str`, *optional*): the published model whose bands are taken.
        overwrite (`bool`): replace what is there.
    """

    source: str
    to: str
    out: str | None
    model: str | None
    head: str | None
    bands: tuple[tuple[int, int] | None, tuple[int, int] | None]
    base_model: str | None
    overwrite: bool


def export_store(job: StoreExport) -> None:
    """Writes the store and says where it is."""
    from hf_clipalign.features import FeatureStore, copy_store, export_table, open_store

    if job.to not in STORE_FORMATS:
        raise unknown_name("format", job.to, STORE_FORMATS, " of features and embeddings")
    store = open_store(job.source)
    if job.to == "arrow":
        file = export_table(store, job.out or f"{Path(job.source).name}.parquet")
        console.print(f"{len(store):,} vectors of dimension {store.width}: {file}", soft_wrap=True)
        return
    if job.to == "store":
        if job.out is None:
            raise ClipAlignError("--to store needs --out URL, such as s3://bucket/features.")
        console.print(
            f"{len(store):,} rows: {copy_store(job.source, job.out, overwrite=job.overwrite)}", soft_wrap=True
        )
        return
    if not isinstance(store, FeatureStore) and (job.head or any(job.bands) or job.to == "embeddings"):
        from hf_clipalign.features.rows import not_features

        raise not_features(job.source)
    out = Path(job.out or job.to)
    written = _projected(job, store, out) if job.to == "embeddings" else _clip_retrieval(job, store, out)
    console.print(f"{len(store):,} embeddings of dimension {written}: {out}", soft_wrap=True)


def _clip_retrieval(job: StoreExport, store: Any, out: Path) -> int:
    from hf_clipalign.features import EmbeddingStore, export_clip_retrieval

    if isinstance(store, EmbeddingStore):
        export_clip_retrieval(store, out, overwrite=job.overwrite)
        return store.width
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".embeddings-") as folder:
        width = _projected(job, store, Path(folder))
        export_clip_retrieval(EmbeddingStore.open(folder), out, overwrite=job.overwrite)
        return width


def _projected(job: StoreExport, store: Any, out: Path) -> int:
    """Embeddings of features in a folder, and their dimension."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.features import project_store

    loaded, _ = load(chosen_model(job.model, job.source), with_processor=False)
    store.check_model(as_dual_encoder(loaded))
    head, name = _head(job, loaded, store.modality)
    return project_store(store, head, out, name=name, overwrite=job.overwrite).width


def _head(job: StoreExport, loaded: Any, modality: Any) -> tuple[Callable[[Any], Any] | Any, str]:
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.features import project_image_features
    from hf_clipalign.isoclip import IsoCLIPModel

    base = getattr(loaded, "aligned_backbone", None)
    head = job.head or ("aligned" if any(job.bands) or job.base_model or base is not None else "raw")
    if head not in _HEADS:
        raise unknown_name("head", head, _HEADS)
    if head == "raw":
        encoder = as_dual_encoder(loaded)
        image = functools.partial(project_image_features, encoder)
        return (image if modality == "image" else encoder.text_projector), "raw"
    aligned = loaded
    if base is None or any(job.bands) or job.base_model:
        aligned = IsoCLIPModel.from_clip_pretrained(loaded if base is None else base, *job.bands, job.base_model)
    band = getattr(aligned.config, f"{modality}_band")
    return aligned.aligned_projector(modality), f"aligned {','.join(map(str, band or ()))}".strip()
