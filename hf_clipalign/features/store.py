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
from hf_clipalign.features.in_memory import Features
from hf_clipalign.features.key import describe_model, run_key
from hf_clipalign.features.shards import (
    FORMAT,
    DamagedShard,
    Shard,
    file_hash,
    read_manifest,
    read_shard,
    remove_store,
    remove_strays,
    shard_name,
    store_lock,
    write_manifest,
    write_shard,
)

if TYPE_CHECKING:
    import datasets


class FeatureStore:
    """Features before the projector in a folder, as `extract_to_store` and `Features.save` write them.

    Opening reads the manifest only. A shard is compared with its checksum when it is first used, and is mapped into
    memory, not copied. Get one with `FeatureStore.open`.

    Example:
        ```python
        >>> store = FeatureStore.open("features/")
        >>> store.values([0, 70_000]).shape
        torch.Size([2, 768])
        >>> for block in store.blocks():
        ...     index.add(block.values.numpy())
        ```
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._sound: set[int] = set()

    @classmethod
    def open(cls, folder: str | Path) -> FeatureStore:
        """Opens a complete store.

        Raises:
            `ClipAlignError`: the folder holds no features, an unfinished run, or a shard is missing or cut off.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if manifest is None:
            raise ClipAlignError(
                f"{str(folder)!r} holds no features: make them with `clipalign embed IMAGES --out {folder}`."
            )
        if not manifest.get("complete"):
            raise ClipAlignError(
                f"the features in {str(folder)!r} are unfinished: run the same `clipalign embed` again to go on."
            )
        store = cls(folder, manifest)
        for entry in manifest["shards"]:
            if problem := store._size_problem(entry):
                raise store._damaged(entry["file"], problem)
        return store

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.folder)!r}, {len(self):,} {self.modality} features, width {self.width})"

    def __len__(self) -> int:
        return self.manifest["n_rows"]

    @property
    def modality(self) -> Any:
        """`"image"` or `"text"`."""
        return self.manifest["modality"]

    @property
    def width(self) -> int:
        """Numbers per feature."""
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
        return [name for shard in self._shards() for name in shard.ids]

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Class numbers of all rows, int64 `[N]`."""
        labels = [shard.labels for shard in self._shards()]
        present = [part for part in labels if part is not None]
        return np.concatenate(present) if len(present) == len(labels) else None

    @cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """Name and reason of what could not be read."""
        return [entry for shard in self._shards() for entry in shard.skipped]

    def values(self, rows: Sequence[int] | np.ndarray | None = None) -> Tensor:
        """Features `[N, w]` of some rows in the given order, or of all; only their shards are read.

        Raises:
            `ClipAlignError`: a row beyond the end, or a damaged shard.
        """
        index = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise ClipAlignError(f"rows go from 0 to {len(self) - 1}; {index.min()} to {index.max()} were asked for.")
        values = np.empty((len(index), self.width), np.float32)
        shard_of = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(shard_of):
            places = np.flatnonzero(shard_of == number)
            start = self._ends[number] - self.manifest["shards"][number]["rows"]
            values[places] = self._shard(number).values[index[places] - start]
        return torch.from_numpy(values)

    def blocks(self) -> Iterator[Features]:
        """The features shard by shard, so that memory does not grow with their number."""
        for shard in self._shards():
            if len(shard.ids):
                yield self._features(torch.from_numpy(np.array(shard.values)), shard.ids, shard.labels, shard.skipped)

    def to_features(self) -> Features:
        """Everything in memory."""
        return self._features(self.values(), self.ids, self.labels, self.skipped)

    def to_dataset(self) -> datasets.Dataset:
        """A `datasets.Dataset` with `id`, `features` (fixed-size float32 vectors) and `label`, mapped, not copied.

        Returns:
            `datasets.Dataset`: keep the folder while it is used.

        Example:
            ```python
            >>> dataset = store.to_dataset()
            >>> dataset.add_faiss_index("features")
            >>> scores, neighbours = dataset.get_nearest_examples("features", query, k=10)
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
        tables = [_arrow_table(shard, features.arrow_schema) for shard in self._shards() if len(shard.ids)]
        return datasets.Dataset(
            datasets.table.InMemoryTable(pa.concat_tables(tables)),
            info=datasets.DatasetInfo(features=features),
            fingerprint=run_key(self.manifest)[:16],
        )

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
        for number in range(len(self.manifest["shards"])):
            self._check(number)

    def damaged(self) -> list[str]:
        """File names of the shards that are not as they were written."""
        entries = self.manifest["shards"]
        return [entry["file"] for entry in entries if self._size_problem(entry) or self._hash_problem(entry)]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([entry["rows"] for entry in self.manifest["shards"]])

    def _shards(self) -> Iterator[Shard]:
        return (self._shard(number) for number in range(len(self.manifest["shards"])))

    def _shard(self, number: int) -> Shard:
        self._check(number)
        file = self.folder / self.manifest["shards"][number]["file"]
        try:
            return read_shard(file)
        except DamagedShard as problem:
            raise self._damaged(file.name, str(problem)) from problem

    def _check(self, number: int) -> None:
        entry = self.manifest["shards"][number]
        if number not in self._sound:
            if problem := self._size_problem(entry) or self._hash_problem(entry):
                raise self._damaged(entry["file"], problem)
            self._sound.add(number)

    def _size_problem(self, entry: dict[str, Any]) -> str | None:
        try:
            size = (self.folder / entry["file"]).stat().st_size
        except OSError:
            return "it is missing"
        return None if size == entry["bytes"] else f"it has {size:,} bytes instead of {entry['bytes']:,}"

    def _hash_problem(self, entry: dict[str, Any]) -> str | None:
        return None if file_hash(self.folder / entry["file"]) == entry["sha256"] else "its content has changed"

    def _damaged(self, file: str, problem: str) -> ClipAlignError:
        return ClipAlignError(
            f"the features in {str(self.folder)!r} are damaged: {file}: {problem}. Run the same `clipalign embed` "
            "again: it makes what is damaged anew."
        )

    def _features(
        self, values: Tensor, ids: list[str], labels: np.ndarray | None, skipped: list[tuple[str, str]]
    ) -> Features:
        kept = None if labels is None else np.array(labels)
        return Features(values, self.modality, ids, kept, self.class_names, skipped, self.model)


def save_features(features: Features, folder: str | Path) -> None:
    """Writes features that are in memory as a store of one shard; what the folder held is replaced.

    Raises:
        `ClipAlignError`: the folder cannot be written to, or another run is writing there.
    """
    folder = Path(folder)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "complete": False,
        "modality": features.modality,
        "width": features.values.shape[1],
        "model": {"name": features.model, "weights": None},
        "data": {"name": None, "fingerprint": None},
        "class_names": features.class_names,
        "shard_size": max(1, len(features)),
        "batch_size": max(1, len(features)),
    }
    rows = np.arange(len(features))
    shard = Shard(features.values.numpy(), rows, features.ids, features.labels, features.skipped)
    with store_lock(folder):
        remove_strays(folder)
        remove_store(folder)
        write_manifest(folder, manifest)
        write_shard(folder, 0, shard, run_key(manifest))
        finish_store(folder, manifest, 1)


def finish_store(folder: Path, manifest: dict[str, Any], n_shards: int) -> None:
    """Writes the manifest that makes a store complete, with size and checksum of every shard."""
    shards: list[dict[str, Any]] = []
    has_labels = True
    for file in (folder / shard_name(index) for index in range(n_shards)):
        shard = read_shard(file)
        has_labels = has_labels and shard.labels is not None
        counts = {"rows": len(shard.rows), "skipped": len(shard.skipped)}
        shards.append({"file": file.name, **counts, "bytes": file.stat().st_size, "sha256": file_hash(file)})
    totals = {f"n_{name}": sum(entry[name] for entry in shards) for name in ("rows", "skipped")}
    write_manifest(folder, manifest | {"complete": True, "labels": has_labels} | totals | {"shards": shards})


def _arrow_table(shard: Shard, schema: Any) -> Any:
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(shard.values.reshape(-1)), shard.values.shape[1])
    columns = {"id": pa.array(shard.ids), "features": vectors}
    if shard.labels is not None:
        columns["label"] = pa.array(shard.labels)
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)
