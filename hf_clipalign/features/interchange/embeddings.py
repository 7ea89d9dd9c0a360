"""Embeddings behind a projector in shards: of other programs, or of features and a head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import hf_clipalign
from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.tensors import as_numbers, check_finite
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.urls import shown_place
from hf_clipalign._rows import map_rows, similarities, top_k, unit_rows
from hf_clipalign.backbones import Projector
from hf_clipalign.features.rows import EMBEDDINGS, FEATURES, Rows, finish_rows, opened_rows, write_rows
from hf_clipalign.features.storage.folder import ShardFolder, folder_lock, remove_store
from hf_clipalign.features.storage.manifest import differences
from hf_clipalign.features.storage.remote import open_folder
from hf_clipalign.features.store import FeatureStore, StoredRows

EmbeddingDtype = Literal["float16", "float32"]

_UNIT = 0.01  # float16 rounds a length by less
_PROBES = 4  # rows by whose image a head is known again


class EmbeddingStore(StoredRows):
    """Embeddings in shards, from behind a projector: what other programs keep, or a head made of features.

    They can be compared, searched, filtered and exported. No projector and no band can be applied to them any more:
    whatever does that takes a `FeatureStore` and refuses these. Make one with `import_clip_retrieval` or
    `project_store`, get one with `open`.

    Args:
        shards (`ShardFolder`): the folder; `EmbeddingStore.open` reads it.

    Example:
        ```python
        >>> from hf_clipalign.features import EmbeddingStore, extract_to_store, project_store
        >>> store = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False)
        >>> path = project_store(store, encoder.image_projector, "embeddings").folder
        >>> embeddings = EmbeddingStore.open(path)
        >>> embeddings.width, embeddings.manifest["dtype"], embeddings.normalized
        (128, 'float16', True)
        >>> scores, rows = embeddings.search(embeddings.values([3]), top_k=2)
        >>> embeddings.ids[rows[0, 0]]
        'cat/4.png'
        ```
    """

    @classmethod
    def open(cls, folder: str | Path) -> EmbeddingStore:
        """Opens a complete store.

        Args:
            folder (`str` or `Path`): a folder, or a URL of fsspec; credentials come from the environment.

        Raises:
            `ClipAlignError`: the folder holds no embeddings, an unfinished import, or a shard is missing or cut off.
        """
        shards, name = open_folder(folder, EMBEDDINGS), shown_place(folder)
        if shards is None:
            raise ClipAlignError(
                f"{name!r} holds no embeddings: make them with `clipalign import FOLDER --out {name}`."
            )
        return _opened(shards)

    @property
    def normalized(self) -> bool:
        """Whether all have unit length, as far as their type can hold it."""
        return self.manifest["normalized"]

    @property
    def head(self) -> str | None:
        """What made them of features, None where that is not known."""
        return self.manifest["head"]

    def blocks(self) -> Iterator[Tensor]:
        """The embeddings `[n, d]` shard by shard in float32: what `spectral_filter` takes."""
        for _, rows in self.parts():
            yield rows.values.float()

    def metadata(self, shard: int) -> Any:
        """What the other program wrote about the rows of a shard, a `pyarrow.Table`; None if nothing."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = self._store.read(shard).tensors.get("metadata")
        return None if content is None else pq.read_table(pa.BufferReader(content.numpy().tobytes()))

    def search(self, queries: Any, top_k: int = 10) -> tuple[Tensor, Tensor]:
        """The nearest rows of given query embeddings by cosine: exact, shard by shard.

        Args:
            queries (`Tensor` or array `[Q, d]`): in the same space, of any length.
            top_k (`int`, *optional*, defaults to `10`): rows for each query.

        Returns:
            `(Tensor [Q, k], LongTensor [Q, k])`: cosines, best first, and row numbers; equal ones by row number.

        Raises:
            `ClipAlignError`: queries of another width, or a damaged shard.
        """
        return nearest_rows(self, queries, check_integer("top_k", top_k))


def open_store(folder: str | Path) -> FeatureStore | EmbeddingStore:
    """Opens what a folder holds: features before the projector, or embeddings behind one.

    Args:
        folder (`str` or `Path`): a folder, or a URL of fsspec.

    Raises:
        `ClipAlignError`: it holds neither, or an unfinished run, or a shard is missing or cut off.

    Example:
        ```python
        >>> from hf_clipalign.features import open_store
        >>> features.save("emoji-features")
        >>> open_store("emoji-features")
        FeatureStore('emoji-features', 24 image features, width 128)
        ```
    """
    shards = open_folder(folder, EMBEDDINGS)
    if shards is None:
        return FeatureStore.open(folder)
    if open_folder(folder, FEATURES) is not None:
        raise ClipAlignError(f"{shown_place(folder)!r} holds features and embeddings: move one of them elsewhere.")
    return _opened(shards)


def _opened(shards: ShardFolder) -> EmbeddingStore:
    return EmbeddingStore(opened_rows(shards, "run the same import again to resume"))


def nearest_rows(store: EmbeddingStore, queries: Any, k: int) -> tuple[Tensor, Tensor]:
    """See `EmbeddingStore.search`."""
    wanted = as_numbers(queries, "queries").float()
    if wanted.ndim != 2 or wanted.shape[1] != store.width:
        raise ClipAlignError(
            f"queries have the shape {tuple(wanted.shape)}, the embeddings in {str(store.folder)!r} dimension "
            f"{store.width}: give [Q, {store.width}]."
        )
    units = unit_rows(wanted)
    scores, rows = torch.empty(len(units), 0), torch.empty(len(units), 0, dtype=torch.int64)
    for start, part in store.parts():
        found = similarities(units, unit_rows(part.values))
        scores = torch.cat([scores, found], dim=1)
        rows = torch.cat([rows, torch.arange(start, start + found.shape[1]).expand(len(units), -1)], dim=1)
        best = top_k(scores, min(k, scores.shape[1]))
        scores, rows = scores.gather(1, best), rows.gather(1, best)
    return scores, rows


def project_store(
    store: FeatureStore,
    head: Projector | Callable[[Tensor], Tensor],
    folder: str | Path,
    *,
    name: str | None = None,
    dtype: EmbeddingDtype = "float16",
    overwrite: bool = False,
) -> EmbeddingStore:
    """Features through a head, as embeddings of unit length, shard by shard; a killed run is resumed.

    Args:
        store (`FeatureStore`): features before the projector.
        head (`Projector` or `Callable`): `encoder.image_projector`, `model.aligned_projector("image")`, or a map from
            `[N, w]` to `[N, d]`.
        folder (`str` or `Path`): where the embeddings go.
        name (`str`, *optional*): what the manifest calls the head, such as `"aligned 150,50"`.
        dtype (`"float16"` or `"float32"`, *optional*, defaults to `"float16"`): how they are stored.
        overwrite (`bool`, *optional*, defaults to `False`): replace other embeddings in the folder.

    Returns:
        `EmbeddingStore`.

    Raises:
        `ClipAlignError`: the head takes another width, or the folder holds other embeddings.

    Example:
        ```python
        >>> from hf_clipalign.features import extract_to_store, project_store
        >>> store = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False)
        >>> head = aligned.aligned_projector("image", compact=True)
        >>> project_store(store, head, "aligned-embeddings", name="aligned 1,48")
        EmbeddingStore('aligned-embeddings', 12 image embeddings, width 79)
        ```
    """
    project = _as_map(store, head)
    probe = project(torch.randn(_PROBES, store.width, generator=torch.Generator().manual_seed(0))).detach().cpu()
    made = hashlib.sha256(store.key.encode() + probe.float().contiguous().numpy().tobytes())
    description = {
        "modality": store.modality,
        "width": probe.shape[1],
        "dtype": dtype,
        "head": name,
        "model": dict(store.manifest["model"]),
        "data": {"name": str(store.folder), "fingerprint": made.hexdigest()},
        "class_names": store.class_names,
    }

    def shards() -> Iterator[Callable[[], Rows]]:
        for index in range(store.n_shards):
            yield lambda index=index: _projected(store.shard(index), project, dtype)  # type: ignore[misc]

    return fill_embeddings(folder, description, shards(), overwrite=overwrite)


def fill_embeddings(
    folder: str | Path,
    description: Mapping[str, Any],
    shards: Iterable[Callable[[], Rows]],
    *,
    overwrite: bool = False,
) -> EmbeddingStore:
    """Writes a store of embeddings; what is there of the same run is kept.

    Args:
        folder (`str` or `Path`): where.
        description (`Mapping`): of the manifest, without `space`.
        shards (`Iterable[Callable]`): what makes each shard, called for those that are missing.
        overwrite (`bool`, *optional*, defaults to `False`): replace other embeddings in the folder.

    Raises:
        `ClipAlignError`: the folder holds other embeddings, another process writes there, or a row is not finite.
    """
    path = Path(folder)
    about = {"created_by": f"hf_clipalign {hf_clipalign.__version__}", "space": "projected", **description}
    with folder_lock(path, EMBEDDINGS):
        if overwrite:
            remove_store(path, EMBEDDINGS)
        if ShardFolder.open(path, FEATURES) is not None:
            raise ClipAlignError(f"{str(folder)!r} holds features: give another folder for the embeddings.")
        stored = ShardFolder.open(path, EMBEDDINGS)
        wanted = ShardFolder.describe(path, EMBEDDINGS, about)
        if stored is not None and (found := differences(EMBEDDINGS, stored.manifest, wanted.manifest)):
            raise ClipAlignError(
                f"{str(folder)!r} holds other embeddings; what differs: {'; '.join(found.values())}. Use another "
                "folder, or replace them with overwrite=True."
            )
        if stored is None or not stored.complete or stored.damaged():
            wanted.begin()
            _write_missing(wanted, shards)
    return EmbeddingStore.open(folder)


def _write_missing(folder: ShardFolder, shards: Iterable[Callable[[], Rows]]) -> None:
    done, count, normalized = folder.done(), 0, True
    for index, make in enumerate(shards):
        if index not in done:
            rows = make()
            check_finite(rows.values, f"shard {index}: embeddings", lambda row, ids=rows.ids: repr(ids[row]))  # type: ignore[misc]
            write_rows(folder, index, rows)
        lengths = folder.read(index).tensors["values"].float().norm(dim=1)
        normalized = normalized and bool((lengths - 1).abs().max() < _UNIT if len(lengths) else True)
        count += 1
    finish_rows(folder, count, normalized=normalized)


def _as_map(store: FeatureStore, head: Projector | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    if not isinstance(head, Projector):
        return head
    matrix = head.matrix.detach().float().cpu()
    if matrix.shape[1] != store.width:
        raise ClipAlignError(
            f"the features in {str(store.folder)!r} have dimension {store.width}, the projector takes "
            f"{matrix.shape[1]}: they are of another model."
        )
    return lambda features: features @ matrix.T


@torch.no_grad()
def _projected(rows: Rows, project: Callable[[Tensor], Tensor], dtype: str) -> Rows:
    if not rows.ids:
        values = project(torch.zeros(1, rows.values.shape[1]))[:0]
    else:
        values = unit_rows(map_rows(project, rows.values))
    return Rows(values.to(getattr(torch, dtype)), rows.rows, rows.ids, rows.labels, rows.skipped)
