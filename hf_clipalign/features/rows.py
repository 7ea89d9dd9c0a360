"""What a shard of features holds: rows of a source, as tensors and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import natural
from hf_clipalign._io.urls import shown_place
from hf_clipalign.features.storage.folder import ShardFolder
from hf_clipalign.features.storage.headers import DamagedShard
from hf_clipalign.features.storage.manifest import Column, Kind
from hf_clipalign.features.storage.remote import open_folder
from hf_clipalign.features.storage.shards import Shard

LAYOUT = ("shard_size", "batch_size")
"""What decides about the bytes of the files, but not about the meaning of the features."""

NAME_COLUMNS = {"id_text": Column("uint8", 1, per_row=False), "id_ends": Column("int64", 1)}
"""Names of rows: UTF-8 text in one piece, and where it is cut."""

# what features and embeddings have in common
_OF_ROWS = {"rows": Column("int64", 1), **NAME_COLUMNS, "labels": Column("int64", 1, optional=True)}
_ABOUT_ROWS = {
    "modality": lambda value: value in ("image", "text"),
    "width": natural,
    "data": {"name": (str, None), "fingerprint": (str, None)},
    "class_names": ([str], None),
    "n_rows?": natural,
    "n_skipped?": natural,
    "labels?": bool,
}
_COUNTS = ("rows", "skipped")
_RESTART = "Make them again in a new folder, or with --overwrite"

FEATURES = Kind(
    name="features",
    noun="features",
    columns={
        "values": Column("float32", 2),
        **_OF_ROWS,
        "content": Column("uint8", 2, optional=True),
    },
    identity=(
        *("modality", "model.class", "model.weights", "model.dtype", "processor", "data.fingerprint"),
        *LAYOUT,
    ),
    content=("data.fingerprint", *LAYOUT),
    description={
        **_ABOUT_ROWS,
        "model": {"name": (str, None), "weights": (str, None), "class?": str, "dtype?": str},
        "shard_size": natural,
        "batch_size": natural,
    },
    remedy="Run the same `clipalign embed` again: it makes what is damaged anew",
    titles={"model.class": "model class", "model.weights": "model weights", "model.dtype": "dtype"}
    | {"data.fingerprint": "data"},
    counts=_COUNTS,
    restart=_RESTART,
)

EMBEDDINGS = Kind(
    name="embeddings",
    noun="embeddings",
    columns={
        "values": Column("float", 2),
        **_OF_ROWS,
        "metadata": Column("uint8", 1, optional=True, per_row=False),
    },
    identity=("modality", "space", "head", "dtype", "model.weights", "data.fingerprint"),
    description={
        **_ABOUT_ROWS,
        "space": lambda value: value == "projected",
        "dtype": lambda value: value in ("float16", "float32"),
        "head": (str, None),
        "model": {"name": (str, None), "weights": (str, None)},
        "normalized?": bool,
    },
    remedy="Make the folder again from what it was made of",
    titles={"model.weights": "model weights", "data.fingerprint": "data"},
    counts=_COUNTS,
    restart=_RESTART,
)
"""Rows behind a projector: of another kind than features, so that no projector is applied to them a second time."""


@dataclass
class Rows:
    """Features of some consecutive rows of a source, without the rows that could not be read.

    Attributes:
        values (`Tensor [k, w]`): float32; embeddings may be float16.
        rows (`Tensor [k]`): int64, positions in the source.
        ids (`list[str]`): k names.
        labels (`Tensor [k]`, *optional*): int64.
        skipped (`list[tuple[str, str]]`): name and reason of what could not be read.
        content (`Tensor [k, 16]`, *optional*): uint8, hash of each image or text; zeros where there is none.
        metadata (`Tensor [b]`, *optional*): uint8, a Parquet file about the rows of embeddings.
    """

    values: Tensor
    rows: Tensor
    ids: list[str]
    labels: Tensor | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    content: Tensor | None = None
    metadata: Tensor | None = None


_OPTIONAL = ("labels", "content", "metadata")


def write_rows(folder: ShardFolder, index: int, rows: Rows) -> None:
    """Writes a shard."""
    values = rows.values if folder.kind is EMBEDDINGS else rows.values.float()
    tensors = {"values": values, "rows": rows.rows.long(), **names_as_tensors(rows.ids)}
    tensors |= {name: value for name in _OPTIONAL if (value := getattr(rows, name)) is not None}
    folder.write(index, tensors, {"skipped": rows.skipped})


def read_rows(folder: ShardFolder, index: int) -> Rows:
    """A shard whose tensors stay on the disk until they are used.

    Raises:
        `ClipAlignError`: it is damaged, or cannot be read.
    """
    shard = folder.read(index)
    try:
        if (width := shard.tensors["values"].shape[1]) != folder.manifest["width"]:
            raise DamagedShard(f"its features have {width} dimensions instead of {folder.manifest['width']}")
        return rows_of(shard)
    except DamagedShard as damage:
        raise folder.damage(folder.file(index).name, str(damage)) from None


def rows_of(shard: Shard) -> Rows:
    """The rows of an open shard; raises `DamagedShard` if they make no sense."""
    tensors, names = shard.tensors, names_from_tensors(shard.tensors)
    optional = {name: tensors.get(name) for name in _OPTIONAL}
    return Rows(tensors["values"], tensors["rows"], names, skipped=skipped_in(shard), **optional)


def skipped_in(shard: Shard) -> list[tuple[str, str]]:
    """Name and reason of what could not be read; raises `DamagedShard` if they make no sense."""
    try:
        return [(str(name), str(reason)) for name, reason in shard.meta["skipped"]]
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedShard(f"its list of skipped images is unreadable: {error}") from None


def finish_rows(folder: ShardFolder, n_shards: int, **more: Any) -> ShardFolder:
    """Makes a store of rows complete: counts, sizes and checksums go into the manifest, with what else is given."""
    counts, labelled = [], True
    for index in range(n_shards):
        rows = read_rows(folder, index)
        counts.append({"rows": len(rows.ids), "skipped": len(rows.skipped)})
        labelled = labelled and rows.labels is not None
    totals = {f"n_{name}": sum(entry[name] for entry in counts) for name in ("rows", "skipped")}
    return folder.finish(n_shards, counts, labels=labelled, **totals, **more)


def open_features(path: str | Path) -> ShardFolder:
    """A complete store of features, on a disk or behind a URL of fsspec.

    Raises:
        `ClipAlignError`: the folder holds no features, or embeddings, or an unfinished run, or a shard is missing or
            cut off.
    """
    folder = open_folder(path, FEATURES)
    if folder is not None:
        return opened_rows(folder, "run the same `clipalign embed` again to resume")
    name = shown_place(path)
    if open_folder(path, EMBEDDINGS) is not None:
        raise not_features(name)
    raise ClipAlignError(f"{name!r} holds no features: make them with `clipalign embed IMAGES --out {name}`.")


def opened_rows(folder: ShardFolder, remedy: str) -> ShardFolder:
    """A store of rows that is complete and has all its files.

    Raises:
        `ClipAlignError`: it is unfinished, and how to resume; or a shard is missing or cut off.
    """
    if not folder.complete:
        raise ClipAlignError(f"the {folder.kind.noun} in {str(folder.place)!r} are unfinished: {remedy}.")
    folder.check_sizes()
    for name in folder.kind.counts:
        if folder.manifest.get(f"n_{name}") != (total := sum(entry[name] for entry in folder.shards)):
            raise folder.damage(folder.kind.manifest_file, f"its n_{name} is not {total}, the sum over its shards")
    return folder


def not_features(name: str) -> ClipAlignError:
    """The error of whatever applies a projector or a band, for embeddings."""
    return ClipAlignError(
        f"{name!r} holds embeddings, which are behind a projector already: no projector and no band can be applied to "
        "them. Give features of `clipalign embed`, or open them with EmbeddingStore.open."
    )


def all_rows(folder: ShardFolder) -> Iterator[Rows]:
    """The shards of a complete store, one after the other."""
    return (read_rows(folder, index) for index in range(len(folder.shards)))


def names_as_tensors(names: Sequence[str]) -> dict[str, Tensor]:
    """The two tensors that hold names."""
    encoded = [str(name).encode("utf-8", "surrogatepass") for name in names]
    text = np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()
    ends = torch.tensor([len(name) for name in encoded], dtype=torch.int64).cumsum(0)
    return {"id_text": torch.from_numpy(text), "id_ends": ends}


def names_from_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names that two tensors hold.

    Raises:
        `DamagedShard`: they do not fit each other.
    """
    text, ends = tensors["id_text"].numpy().tobytes(), tensors["id_ends"].tolist()
    if sorted(ends) != ends or (ends[-1] if ends else 0) != len(text):
        raise DamagedShard("its names are unreadable: the cuts do not fit the text")
    try:
        pieces = [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=False)]
        return [piece.decode("utf-8", "surrogatepass") for piece in pieces]
    except UnicodeDecodeError as error:
        raise DamagedShard(f"its names are unreadable: {error}") from None
