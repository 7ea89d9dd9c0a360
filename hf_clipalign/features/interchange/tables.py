"""Vectors as columns of Parquet and Arrow: lists of a fixed size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import readable_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file
from hf_clipalign.features.interchange.embeddings import EmbeddingStore
from hf_clipalign.features.rows import Rows
from hf_clipalign.features.store import FeatureStore

_ENDINGS = (".parquet", ".arrow")
_FACTS = b"hf_clipalign"


def vector_type(width: int) -> Any:
    """The type of a column of float32 vectors, as databases and `datasets` know it."""
    import pyarrow as pa

    return pa.list_(pa.field("element", pa.float32(), nullable=False), width)


def vector_column(values: np.ndarray) -> Any:
    """Vectors `[N, d]` as a column."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=vector_type(values.shape[1]))


def export_table(store: FeatureStore | EmbeddingStore, path: str | Path) -> Path:
    """Writes a store as one table with vectors of a fixed size, shard by shard: memory holds one shard.

    The columns are `id`; `features` (before the projector) or, of embeddings, `image_embeds` or `text_embeds`, float32
    lists of a fixed size; and, where there are labels, `label`, the class. What they were made from stands as JSON in
    the metadata of the schema. `LabelledEmbeddings.from_file` reads `image_embeds`.

    Args:
        store (`FeatureStore` or `EmbeddingStore`): what to write.
        path (`str` or `Path`): a file ending in `.parquet` (one row group a shard) or `.arrow` (one batch a shard).

    Returns:
        `Path`: the file.

    Raises:
        `ClipAlignError`: another ending, a damaged shard, or the file cannot be written.

    Example:
        ```python
        >>> import pyarrow.parquet as pq
        >>> from hf_clipalign.features import export_table, extract_to_store
        >>> store = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False)
        >>> table = pq.read_table(export_table(store, "features.parquet"))
        >>> table.column_names, str(table.schema.field("features").type)
        (['id', 'features', 'label'], 'fixed_size_list<element: float not null>[128]')
        ```
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = Path(path)
    if target.suffix not in _ENDINGS:
        raise ClipAlignError(f"{str(path)!r}: a table ends in {' or '.join(_ENDINGS)}: give such a name.")
    schema = _schema(store)
    with atomic_file(target) as staging:
        if target.suffix == ".parquet":
            with pq.ParquetWriter(staging, schema) as writer:
                for table in _tables(store, schema):
                    writer.write_table(table, row_group_size=max(1, table.num_rows))
        else:
            with pa.OSFile(str(staging), "wb") as file, pa.ipc.new_file(file, schema) as writer:
                for table in _tables(store, schema):
                    writer.write_table(table)
    return target


def _schema(store: FeatureStore | EmbeddingStore) -> Any:
    import pyarrow as pa

    column = f"{store.modality}_embeds" if isinstance(store, EmbeddingStore) else "features"
    fields = [pa.field("id", pa.string()), pa.field(column, vector_type(store.width))]
    if store.manifest["labels"]:
        fields.append(pa.field("label", pa.int64() if store.class_names is None else pa.string()))
    space = store.manifest.get("space", "before the projector")
    facts = {"space": space, "modality": store.modality, "model": store.model, "head": store.manifest.get("head")}
    return pa.schema(fields, {_FACTS: json.dumps(facts, ensure_ascii=False).encode()})


def _tables(store: FeatureStore | EmbeddingStore, schema: Any) -> Iterator[Any]:
    import pyarrow as pa

    for _, rows in store.parts():
        columns = [[readable_name(name) for name in rows.ids], vector_column(rows.values.numpy())]
        if len(schema.names) > len(columns):
            columns.append(_classes(rows, store.class_names))
        yield pa.table(columns, schema=schema)


def _classes(rows: Rows, names: list[str] | None) -> list[Any]:
    assert rows.labels is not None
    numbers = rows.labels.tolist()
    return numbers if names is None else [names[number] for number in numbers]
