"""The embeddings of a folder index, for other stores: faiss, usearch, and Parquet for vector databases."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import printable, quoted, readable_name
from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_folder
from hf_clipalign._io.replacing import files_below
from hf_clipalign.features.interchange.tables import vector_column, vector_type
from hf_clipalign.hub.export.faiss import FACTS_FILE, IDS_FILE, INDEX_FILE
from hf_clipalign.hub.outputs import refuse_protected
from hf_clipalign.search import ImageIndex
from hf_clipalign.search.answers.filters import class_of
from hf_clipalign.search.rows import block_ranges

logger = logging.getLogger(__name__)

VECTORS_FILE, GRAPH_FILE = "vectors.parquet", "index.usearch"
INDEX_FORMATS = ("faiss", "usearch", "arrow")


def export_index(
    index: ImageIndex | str | Path,
    path: str | Path,
    to: str = "arrow",
    head: str | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Writes the unit embeddings of an index for another store: their inner product is the cosine.

    Args:
        index (`ImageIndex`, `str` or `Path`): the index, or its folder.
        path (`str` or `Path`): a folder to write as a whole. `"arrow"`: `vectors.parquet` with a row an image: `id`,
            `path`, `also` (further files with the same bytes), `class`, `bytes`, `modified` and `vector`, a list of
            fixed size that LanceDB, Qdrant, pgvector, Milvus and others load. `"faiss"`: `index.faiss`, exact, and
            `ids.json` with the paths by row. `"usearch"`: `index.usearch`, a graph, and `ids.json`. With each
            `index.json`: model, head, band, dimension.
        to (`"arrow"`, `"faiss"` or `"usearch"`, *optional*, defaults to `"arrow"`): the format.
        head (`str`, *optional*): in whose space. Default: `"aligned"` if the index has it, else `"raw"`. Words can
            only be compared with `"raw"`.
        overwrite (`bool`, *optional*, defaults to `False`): replace whatever the folder holds, after a warning that
            says what is lost; never the index itself or its images.

    Returns:
        `Path`: the folder.

    Raises:
        `ClipAlignError`: no such head or format, an empty index, a package is missing, or the folder holds something
            else, the index or its images.

    Example:
        ```python
        >>> import pyarrow.parquet as pq
        >>> from hf_clipalign.hub import export_index
        >>> table = pq.read_table(export_index("photos.index", "photos-vectors") / "vectors.parquet")
        >>> table.num_rows, str(table.schema.field("vector").type)
        (12, 'fixed_size_list<element: float not null>[128]')
        ```
    """
    if to not in INDEX_FORMATS:
        raise unknown_name("format", to, INDEX_FORMATS, " of an index")
    index = index if isinstance(index, ImageIndex) else ImageIndex.open(index)
    name = head or index.heads[-1]
    embeddings = index.embeddings(name)
    if not len(embeddings):
        raise ClipAlignError(f"the index {printable(str(index.path))!r} holds no images: there is nothing to export.")
    refuse_protected(Path(path), [index.path, *index.roots])
    _check_target(Path(path), to, overwrite)
    facts = {
        "format": to,
        "source": index.description["model"]["name"],
        "modality": "image",
        "head": name,
        "band": index.band if name != "raw" else None,
        "dimension": embeddings.width,
        "vectors": len(embeddings),
        "normalized": True,
        "similarity": "cosine",
    }
    with atomic_folder(path, keep=False) as staging:
        _WRITERS[to](index, embeddings, staging)
        (staging / FACTS_FILE).write_text(json.dumps({"hf_clipalign": facts}, indent=1), encoding="utf-8")
    return Path(path)


def _check_target(path: Path, to: str, overwrite: bool) -> None:
    held = set(files_below(path)) if path.is_dir() else set()
    if not held or (FACTS_FILE in held and held <= _FILES[to]):
        return
    if overwrite:
        logger.warning("%s is replaced; what it held is lost: %s", path, quoted(sorted(held), most=5))
        return
    raise ClipAlignError(
        f"{str(path)!r} holds other files ({quoted(sorted(held), most=5)}): give another folder, or overwrite=True to "
        "lose them."
    )


def _write_faiss(index: ImageIndex, embeddings: Any, folder: Path) -> None:
    faiss = _imported("faiss", "faiss")
    flat = faiss.IndexFlatIP(embeddings.width)
    for _, block in _blocks(embeddings):
        flat.add(np.ascontiguousarray(block))
    faiss.write_index(flat, str(folder / INDEX_FILE))
    _write_paths(index, folder)


def _write_usearch(index: ImageIndex, embeddings: Any, folder: Path) -> None:
    graph = _imported("usearch.index", "search").Index(ndim=embeddings.width, metric="ip", dtype="f32")
    for start, block in _blocks(embeddings):
        graph.add(np.arange(start, start + len(block)), block)
    graph.save(str(folder / GRAPH_FILE))
    _write_paths(index, folder)


def _write_parquet(index: ImageIndex, embeddings: Any, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("path", pa.string()),
            pa.field("also", pa.list_(pa.string())),
            pa.field("class", pa.string()),
            pa.field("bytes", pa.int64()),
            pa.field("modified", pa.timestamp("us", "UTC")),
            pa.field("vector", vector_type(embeddings.width)),
        ]
    )
    files = index.files
    with pq.ParquetWriter(folder / VECTORS_FILE, schema) as writer:
        for start, block in _blocks(embeddings):
            rows = range(start, start + len(block))
            of_image = [files.of_image(row).tolist() for row in rows]
            first = [numbers[0] for numbers in of_image]
            columns = {
                "id": pa.array(rows, pa.int64()),
                "path": [readable_name(files.path(i)) for i in first],
                "also": [[readable_name(files.path(i)) for i in numbers[1:]] for numbers in of_image],
                "class": [class_of(files.names[i]) for i in first],
                "bytes": pa.array(files.sizes[first]),
                "modified": pa.array((files.modified[first] * 1e6).astype("datetime64[us]")),
                "vector": vector_column(block),
            }
            writer.write_table(pa.table(columns, schema=schema))


def _blocks(embeddings: Any) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start, stop in block_ranges(embeddings):
        yield start, embeddings.read(start, stop)


def _write_paths(index: ImageIndex, folder: Path) -> None:
    files = index.files
    paths = [readable_name(files.path(int(files.of_image(row)[0]))) for row in range(len(index))]
    (folder / IDS_FILE).write_text(json.dumps(paths, ensure_ascii=False), encoding="utf-8")


def _imported(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ClipAlignError(f"this needs the package {package}: pip install 'hf_clipalign[{extra}]'.") from error


_WRITERS: dict[str, Callable[[ImageIndex, Any, Path], None]] = {
    "faiss": _write_faiss,
    "usearch": _write_usearch,
    "arrow": _write_parquet,
}
_FILES = {
    "faiss": {INDEX_FILE, IDS_FILE, FACTS_FILE},
    "usearch": {GRAPH_FILE, IDS_FILE, FACTS_FILE},
    "arrow": {VECTORS_FILE, FACTS_FILE},
}
