"""The folders that clip-retrieval writes: embeddings as npy, and what belongs to them as Parquet."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_clipalign._checks.quoting import quoted, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_folder, explained_content, explained_read
from hf_clipalign._io.replacing import files_below
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.data.images.source import digest, file_state
from hf_clipalign.data.labels.columns import is_missing, read_labels
from hf_clipalign.features.interchange.embeddings import EmbeddingStore, fill_embeddings
from hf_clipalign.features.rows import Rows

_FOLDERS: dict[Modality, str] = {"image": "img_emb", "text": "text_emb"}
_NAMES: dict[Modality, tuple[str, ...]] = {"image": ("image_path", "key"), "text": ("key", "image_path")}
_DTYPES = {"float16": "float16", "float32": "float32"}
_METADATA = "metadata"
_WRITTEN = re.compile(r"(img_emb/img_emb|text_emb/text_emb)_\d+\.npy|metadata/metadata_\d+\.parquet")


class _Part(NamedTuple):
    """One npy file and the table beside it, None if there is none."""

    array: Path
    table: Path | None
    n_rows: int
    width: int
    dtype: str


def import_clip_retrieval(
    folder: str | Path,
    out: str | Path,
    *,
    modality: Modality = "image",
    model: str | None = None,
    label_column: str | None = None,
    overwrite: bool = False,
) -> EmbeddingStore:
    """Reads what `clip-retrieval inference` wrote into a store of embeddings; one npy file becomes one shard.

    `img_emb/img_emb_0.npy`, `text_emb/text_emb_0.npy` (one row an item, mostly float16, of unit length, behind the
    projector) and `metadata/metadata_0.parquet` (a row for each of them) have one number. Sizes, widths and numbers of
    rows are compared before anything is written. The type stays as it is, and the tables are kept to the byte, so that
    `export_clip_retrieval` gives the same files back. A killed import is resumed.

    Args:
        folder (`str` or `Path`): the output folder of clip-retrieval.
        out (`str` or `Path`): folder of the store.
        modality (`"image"` or `"text"`, *optional*, defaults to `"image"`): which of the two.
        model (`str`, *optional*): the model that made them, which the files don't say.
        label_column (`str`, *optional*): a column of the metadata with classes.
        overwrite (`bool`, *optional*, defaults to `False`): replace other embeddings in `out`.

    Returns:
        `EmbeddingStore`: its names are `image_path` or `key`, else row numbers.

    Raises:
        `ClipAlignError`: a file is missing, cut off, of another width or type, pickled, or has another number of rows
            than its table; or an embedding is NaN.

    Example:
        ```python
        >>> from hf_clipalign.features import import_clip_retrieval
        >>> store = import_clip_retrieval("clip-retrieval", "imported", model="openai/clip-vit-base-patch32")
        >>> len(store), store.width, store.ids[0], store.metadata(0).column_names
        (12, 128, 'cat/1.png', ['image_path'])
        ```
    """
    root = Path(folder)
    if modality not in _FOLDERS:
        raise ClipAlignError(f"unknown modality {modality!r}: give 'image' or 'text'.")
    parts = _parts(root, modality)
    labels, class_names = _labels(parts, label_column, str(root))
    ends = np.cumsum([part.n_rows for part in parts])
    description = {
        "modality": modality,
        "width": parts[0].width,
        "dtype": parts[0].dtype,
        "head": None,
        "model": {"name": model, "weights": None},
        "data": {"name": str(root), "fingerprint": _fingerprint(parts, model, label_column)},
        "class_names": class_names,
    }

    def shards() -> Iterator[Callable[[], Rows]]:
        for part, end in zip(parts, ends.tolist(), strict=True):
            start = end - part.n_rows
            yield partial(_rows, part, start, modality, None if labels is None else labels[start:end])

    return fill_embeddings(out, description, shards(), overwrite=overwrite)


def export_clip_retrieval(
    store: EmbeddingStore, folder: str | Path, *, texts: EmbeddingStore | None = None, overwrite: bool = False
) -> Path:
    """Writes embeddings as clip-retrieval does, for its index, filter and back end; one shard becomes one npy file.

    Args:
        store (`EmbeddingStore`): embeddings of images or texts, behind a projector: of features, see `project_store`.
        folder (`str` or `Path`): written as a whole.
        texts (`EmbeddingStore`, *optional*): embeddings of the images' texts, row by row, in shards of the same sizes.
        overwrite (`bool`, *optional*, defaults to `False`): replace other files in the folder.

    Returns:
        `Path`: the folder, with `img_emb/`, `text_emb/` and `metadata/`: the table that was imported, else one with
        `image_path` (of texts: `caption`), the names, and `label`, the classes.

    Raises:
        `ClipAlignError`: the folder holds something else, or images and texts differ in number.

    Example:
        ```python
        >>> from hf_clipalign.features import export_clip_retrieval, extract_to_store, project_store
        >>> features = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False)
        >>> embeddings = project_store(features, encoder.image_projector, "embeddings")
        >>> folder = export_clip_retrieval(embeddings, "for-clip-retrieval")
        >>> np.load(folder / "img_emb" / "img_emb_0.npy").shape
        (8, 128)
        ```
    """
    target, stores = Path(folder), [store] if texts is None else [store, texts]
    _check_target(target, overwrite)
    sizes = [[entry["rows"] for entry in one.manifest["shards"]] for one in stores]
    if texts is not None and (sizes[0] != sizes[1] or (store.modality, texts.modality) != ("image", "text")):
        raise ClipAlignError(
            f"{str(store.folder)!r} and {str(texts.folder)!r} are no images and their texts row by row "
            f"({len(store):,} and {len(texts):,} rows): import both from one folder."
        )
    digits = len(str(store.n_shards))
    with atomic_folder(target, keep=False) as staging:
        for index in range(store.n_shards):
            number = str(index).zfill(digits)
            for one in stores:
                _write_array(one.shard(index), staging / _FOLDERS[one.modality], number)
            _write_table(store, index, staging / _METADATA / f"metadata_{number}.parquet")
    return target


def _parts(root: Path, modality: Modality) -> list[_Part]:
    """The files in the order of their numbers, all of one width and type."""
    name = _FOLDERS[modality]
    arrays, tables = _numbered(root / name, f"{name}_", ".npy"), _numbered(root / _METADATA, "metadata_", ".parquet")
    if not arrays:
        raise ClipAlignError(
            f"{str(root)!r} holds no {name}/{name}_0.npy: give the output folder of `clip-retrieval inference`, or "
            "another modality."
        )
    if tables and (alone := sorted(set(arrays) ^ set(tables))):
        file = arrays.get(alone[0]) or tables[alone[0]]
        other = f"metadata_{alone[0]}.parquet" if alone[0] in arrays else f"{name}_{alone[0]}.npy"
        raise ClipAlignError(f"{str(file)!r} is there without {other}: fetch that, too.")
    parts = [_part(arrays[number], tables.get(number)) for number in sorted(arrays)]
    for part in parts:
        if (part.width, part.dtype) != (parts[0].width, parts[0].dtype):
            raise ClipAlignError(
                f"{str(part.array)!r} holds {part.dtype} of dimension {part.width}, {parts[0].array.name} "
                f"{parts[0].dtype} of {parts[0].width}: they are of different models."
            )
    return parts


def _numbered(folder: Path, prefix: str, ending: str) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    pattern = re.compile(rf"{prefix}(\d+){re.escape(ending)}")
    with explained_read(folder):
        matches = [pattern.fullmatch(name) for name in os.listdir(folder)]
    return {int(match[1]): folder / match[0] for match in matches if match}


def _part(array: Path, table: Path | None) -> _Part:
    import pyarrow.parquet as pq

    values = _mapped(array)
    dtype = _DTYPES.get(values.dtype.name)
    if values.ndim != 2 or dtype is None or values.dtype.byteorder == ">":
        raise ClipAlignError(
            f"{str(array)!r} holds {values.dtype} {values.shape}: embeddings are float16 or float32 [N, d]."
        )
    if table is not None:
        with explained_content(table):
            n_rows = pq.read_metadata(table).num_rows
        if n_rows != len(values):
            raise ClipAlignError(f"{str(array)!r} has {len(values):,} rows, its table {table.name} {n_rows:,}.")
    return _Part(array, table, values.shape[0], values.shape[1], dtype)


def _mapped(array: Path) -> np.ndarray:
    """An npy file whose size is what its header says, mapped into memory."""
    with explained_read(array):
        try:
            values = np.load(array, mmap_mode="r", allow_pickle=False)
        except OSError:
            raise
        except Exception as error:  # NumPy parses the header as Python, and raises what its parser does
            raise ClipAlignError(f"{str(array)!r} is cut off or no npy file ({short_reason(error)}).") from None
        size = os.stat(array).st_size
    if not isinstance(values, np.memmap) or size != values.offset + values.nbytes:
        raise ClipAlignError(f"{str(array)!r} has {size:,} bytes, not what its header says: fetch it again.")
    return values


def _rows(part: _Part, start: int, modality: Modality, labels: np.ndarray | None) -> Rows:
    ids, metadata = [str(row) for row in range(start, start + part.n_rows)], None
    if part.table is not None:
        with explained_read(part.table):
            metadata = torch.from_numpy(np.fromfile(part.table, dtype=np.uint8))
        columns = _columns(part.table)
        if (column := next((name for name in _NAMES[modality] if name in columns), None)) is not None:
            ids = [
                one if is_missing(name) else str(name)
                for one, name in zip(ids, _cells(part.table, column), strict=True)
            ]
    positions = torch.arange(start, start + part.n_rows)
    values = torch.from_numpy(np.array(_mapped(part.array), order="C"))
    return Rows(values, positions, ids, None if labels is None else torch.from_numpy(labels), metadata=metadata)


def _labels(parts: list[_Part], column: str | None, name: str) -> tuple[np.ndarray | None, list[str] | None]:
    if column is None:
        return None, None
    cells: list[Any] = []
    for part in parts:
        if part.table is None or column not in (present := _columns(part.table)):
            there = "there is no metadata" if part.table is None else f"the columns are {quoted(present)}"
            raise ClipAlignError(f"{str(part.table or part.array)!r}: no column {column!r}; {there}.")
        cells += _cells(part.table, column)
    return read_labels(cells, column, name)


def _columns(table: Path) -> list[str]:
    import pyarrow.parquet as pq

    with explained_content(table):
        return pq.read_schema(table).names


def _cells(table: Path, column: str) -> list[Any]:
    import pyarrow.parquet as pq

    with explained_content(table):
        return pq.read_table(table, columns=[column])[column].to_pylist()


def _fingerprint(parts: list[_Part], model: str | None, label_column: str | None) -> str:
    files = [file for part in parts for file in (part.array, part.table) if file is not None]
    return digest([str(model), str(label_column)], [f"{file.name} {file_state(str(file))}" for file in files])


def _write_array(rows: Rows, folder: Path, number: str) -> None:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{folder.name}_{number}.npy", rows.values.numpy())


def _write_table(store: EmbeddingStore, index: int, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(exist_ok=True)
    rows = store.shard(index)
    if rows.metadata is not None:
        file.write_bytes(rows.metadata.numpy().tobytes())
        return
    columns: dict[str, Any] = {"image_path" if store.modality == "image" else "caption": rows.ids}
    if rows.labels is not None:
        names, numbers = store.class_names, rows.labels.tolist()
        columns["label"] = numbers if names is None else [names[number] for number in numbers]
    pq.write_table(pa.table(columns), file)


def _check_target(target: Path, overwrite: bool) -> None:
    held = set(files_below(target)) if target.is_dir() else set()
    if overwrite or all(_WRITTEN.fullmatch(name) for name in held):
        return
    raise ClipAlignError(
        f"{str(target)!r} holds other files ({quoted(sorted(held), most=5)}): give another folder, or overwrite=True "
        "to lose them."
    )
