"""Features in a folder of shards, read where and when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.features.description import describe_model
from hf_clipalign.features.in_memory import Features, collected, gathered
from hf_clipalign.features.rows import Rows, all_rows, not_features, open_features, read_rows
from hf_clipalign.features.storage.folder import ShardFolder

if TYPE_CHECKING:
    import datasets


class StoredRows:
    """Rows in shards, whatever they are: read where and when they are needed.

    Args:
        shards (`ShardFolder`): the folder.
    """

    def __init__(self, shards: ShardFolder) -> None:
        self._store = shards
        self.folder = shards.place
        self.manifest = shards.manifest

    def __repr__(self) -> str:
        noun, width = f"{self.modality} {self._store.kind.noun}", f"width {self.width}"
        return f"{type(self).__name__}({str(self.folder)!r}, {len(self):,} {noun}, {width})"

    def __len__(self) -> int:
        return self.manifest["n_rows"]

    @property
    def modality(self) -> Any:
        """`"image"` or `"text"`."""
        return self.manifest["modality"]

    @property
    def width(self) -> int:
        """Dimensions of a feature."""
        return self.manifest["width"]

    @property
    def model(self) -> str | None:
        """Where the model came from."""
        return self.manifest["model"]["name"]

    @property
    def class_names(self) -> list[str] | None:
        """What the labels mean."""
        return self.manifest["class_names"]

    @property
    def n_skipped(self) -> int:
        """How many images could not be read."""
        return self.manifest["n_skipped"]

    @cached_property
    def ids(self) -> list[str]:
        """Names of all rows."""
        return [name for rows in all_rows(self._store) for name in rows.ids]

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Class numbers of all rows, int64 `[N]`."""
        if not self.manifest["labels"]:
            return None
        return np.concatenate(
            [rows.labels.numpy().copy() for rows in all_rows(self._store) if rows.labels is not None]
        )

    @cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """Name and reason of what could not be read."""
        return [entry for rows in all_rows(self._store) for entry in rows.skipped]

    def values(self, rows: Sequence[int] | np.ndarray | None = None) -> Tensor:
        """Features `[N, w]` of some rows in the given order, or of all; only their shards are read.

        Raises:
            `ClipAlignError`: a row beyond the end, or a damaged shard.
        """
        index = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise ClipAlignError(f"rows go from 0 to {len(self) - 1}; {index.min()} to {index.max()} were asked for.")
        values = torch.empty((len(index), self.width))
        shard_of = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(shard_of):
            places = np.flatnonzero(shard_of == number)
            start = self._ends[number] - self._store.shards[number]["rows"]
            stored = read_rows(self._store, int(number)).values.float()
            values[torch.from_numpy(places)] = stored[torch.from_numpy(index[places] - start)]
        return values

    @property
    def key(self) -> str:
        """Hash of all that decides about the content."""
        return self._store.key

    @property
    def n_shards(self) -> int:
        """How many files there are."""
        return len(self._store.shards)

    def shard(self, index: int) -> Rows:
        """The rows of one shard, compared with its checksum.

        Raises:
            `ClipAlignError`: it is damaged.
        """
        return read_rows(self._store, index)

    def parts(self) -> Iterator[tuple[int, Rows]]:
        """The shards that hold rows, one after the other, each with the number of its first row."""
        start = 0
        for rows in all_rows(self._store):
            if rows.ids:
                yield start, rows
            start += len(rows.ids)

    def check_model(self, encoder: Any) -> None:
        """Compares the weights of a model with those that made the features.

        Args:
            encoder (`DualEncoder`): the model that the features will be used with.

        Raises:
            `ClipAlignError`: they are another model's, named.
        """
        stored, given = self.manifest["model"], describe_model(encoder, None)
        if stored["weights"] is not None and stored["weights"] != given["weights"]:
            raise ClipAlignError(
                f"the features in {str(self.folder)!r} are of another model ({stored['name']}) than the one given "
                f"({given['name']}): give that model, or make features with this one."
            )

    def verify(self) -> None:
        """Compares every shard with its checksum.

        Raises:
            `ClipAlignError`: naming the first damaged shard.
        """
        self._store.verify()

    def damaged(self) -> list[str]:
        """File names of the shards that are not as they were written."""
        return self._store.damaged()

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([entry["rows"] for entry in self._store.shards])


class FeatureStore(StoredRows):
    """Features before the projector in a folder, as `extract_to_store` and `Features.save` write them.

    Opening reads the manifest only. A shard is compared with its checksum when it is first used, and is mapped into
    memory, not copied; no file stays open. Behind a URL (`s3://…`, `memory://…`, what fsspec knows) a shard is read as
    a whole each time that it is used, compared with its checksum, and not kept: memory holds the one in use, and the
    next one while it is fetched. Get a store with `FeatureStore.open`.

    Args:
        shards (`ShardFolder`): the folder; `FeatureStore.open` reads it.

    Example:
        ```python
        >>> from hf_clipalign.features import FeatureStore, extract_to_store
        >>> path = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False).folder
        >>> store = FeatureStore.open(path)
        >>> store.values([0, 11]).shape
        torch.Size([2, 128])
        >>> [len(block.values) for block in store.blocks()]
        [8, 4]
        ```
    """

    @classmethod
    def open(cls, folder: str | Path) -> FeatureStore:
        """Opens a complete store.

        Args:
            folder (`str` or `Path`): a folder, or a URL of fsspec; credentials come from the environment.

        Raises:
            `ClipAlignError`: the folder holds no features, an unfinished run, or a shard is missing or cut off; or the
                URL does not answer.
        """
        if isinstance(folder, StoredRows):
            raise not_features(str(folder.folder))
        return cls(open_features(folder))

    def blocks(self) -> Iterator[Features]:
        """The features shard by shard, so that memory does not grow with their number."""
        for _, rows in self.parts():
            yield gathered(self.manifest, [rows])

    def to_features(self) -> Features:
        """Everything in memory: 4 bytes a dimension and the names, and one shard meanwhile."""
        return collected(self.manifest, all_rows(self._store))

    def to_dataset(self) -> datasets.Dataset:
        """A `datasets.Dataset` with `id`, `features` (fixed-size float32 vectors) and `label`, mapped, not copied.

        Returns:
            `datasets.Dataset`: keep the folder while it is used.

        Example:
            ```python
            >>> store = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False)
            >>> dataset = store.to_dataset()
            >>> len(dataset), dataset.column_names
            (12, ['id', 'features', 'label'])
            ```
        """
        import datasets
        import pyarrow as pa

        columns: dict[str, Any] = {
            "id": datasets.Value("string"),
            "features": datasets.List(datasets.Value("float32"), length=self.width),
        }
        if self.manifest["labels"]:
            names = self.class_names
            columns["label"] = datasets.Value("int64") if names is None else datasets.ClassLabel(names=names)
        features = datasets.Features(columns)
        tables = [_arrow_table(rows, features.arrow_schema) for rows in all_rows(self._store) if rows.ids]
        return datasets.Dataset(
            datasets.table.InMemoryTable(pa.concat_tables(tables)),
            info=datasets.DatasetInfo(features=features),
            fingerprint=self._store.key[:16],
        )


def _arrow_table(rows: Rows, schema: Any) -> Any:
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.values.numpy().reshape(-1)), rows.values.shape[1])
    columns = {"id": pa.array(rows.ids), "features": vectors}
    if rows.labels is not None:
        columns["label"] = pa.array(rows.labels.numpy())
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)
