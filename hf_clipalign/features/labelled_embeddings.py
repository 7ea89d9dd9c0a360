"""Image embeddings with the labels of a multi-label task: checked, and joined by the names of the images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._checks.quoting import quoted
from hf_clipalign._checks.tensors import as_numbers, not_finite_rows
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_content, explained_read
from hf_clipalign._io.limited_json import checked_json
from hf_clipalign.backbones import DualEncoder, as_dual_encoder, weights_hash
from hf_clipalign.data import FindingLabels
from hf_clipalign.features.extraction import extract_to_store
from hf_clipalign.features.rows import NAME_COLUMNS, names_as_tensors, names_from_tensors
from hf_clipalign.features.storage.headers import METADATA, DamagedShard, ForeignFile
from hf_clipalign.features.storage.manifest import Column, Kind
from hf_clipalign.features.storage.single_file import read_file, write_file
from hf_clipalign.features.store import FeatureStore

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 8192
_MOST_FOLDERS = 4  # a label file names images from a folder at most so many levels above the embedded one
_EMBEDS, _IDS = "image_embeds", "ids"

EMBEDDINGS = Kind(
    name="labelled-embeddings",
    noun="embeddings",
    columns={_EMBEDS: Column("float", 2), **NAME_COLUMNS},
    identity=("model", "ids"),
    description=dict,
    remedy="Make them again with LabelledEmbeddings.save",
)


@dataclass(frozen=True)
class LabelledEmbeddings:
    """Image embeddings of the shared space (behind the projector, not of unit length) and their labels.

    Args:
        embeds (`Tensor [N, d]`): floating point, in the order of the labels; NumPy arrays are taken too.
        labels (`FindingLabels`): N rows.
        model (`str`, *optional*): hash of the weights that made them (`weights_hash(…, before_projector=True)`), so
            that embeddings of another model are refused. Default: not known.

    Raises:
        `ClipAlignError`: shapes that do not fit, or NaN and infinite values.

    Example:
        ```python
        >>> from hf_clipalign.features import LabelledEmbeddings
        >>> data = LabelledEmbeddings(embeds, labels)
        >>> data.embeds.shape, data.labels.findings
        (torch.Size([24, 128]), ['Edema', 'Fracture'])
        ```
    """

    embeds: Tensor
    labels: FindingLabels
    model: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "embeds", as_numbers(self.embeds, "embeddings", "numbers [N, d]"))
        if self.embeds.dim() != 2 or not self.embeds.is_floating_point() or not self.embeds.numel():
            raise ClipAlignError(
                f"embeddings must be numbers [N, d], got {tuple(self.embeds.shape)} {self.embeds.dtype}."
            )
        if len(self.embeds) != len(self.labels):
            raise ClipAlignError(
                f"{len(self.embeds)} embeddings for the {len(self.labels)} rows of {self.labels.name}."
            )
        if bad := not_finite_rows(self.embeds):
            raise ClipAlignError(
                f"{len(bad)} of {len(self.embeds)} embeddings hold NaN or infinite values, first that of "
                f"{self.labels.ids[bad[0]]!r}: make them again or leave these rows out."
            )

    def __len__(self) -> int:
        return len(self.embeds)

    @classmethod
    def from_store(
        cls, store: FeatureStore | str | Path, labels: FindingLabels, model: Any, partial: bool = False
    ) -> LabelledEmbeddings:
        """Features that `clipalign embed` or `extract_to_store` wrote, through the model's own projector.

        Args:
            store (`FeatureStore`, `str` or `Path`): image features; a URL of fsspec is read shard by shard, once.
            labels (`FindingLabels`): joined by id; leading folders that one side lacks are left out.
            model (`PeftModel`, `nn.Module` or `DualEncoder`): the backbone that made the features.
            partial (`bool`, *optional*, defaults to `False`): drop labels without features instead of raising. Images
                that could not be read are always dropped, with a warning.

        Raises:
            `ClipAlignError`: text features, features of another model, ids that occur twice or do not match.
        """
        store = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
        encoder = as_dual_encoder(model)
        if store.modality != "image":
            raise ClipAlignError(f"{str(store.folder)!r} holds {store.modality} features: give those of images.")
        store.check_model(encoder)
        width = encoder.vision_dim
        if store.width not in (width, width + 1):
            raise ClipAlignError(
                f"the features in {str(store.folder)!r} have dimension {store.width}, {type(encoder.model).__name__} "
                f"takes {width}: they are of another model."
            )
        unread = {name for name, _ in store.skipped}
        rows, kept = matched_rows(store.ids, labels, str(store.folder), unread, partial)
        return cls(_embeds(store, rows, encoder), labels.select(kept), store.manifest["model"]["weights"])

    @classmethod
    def from_file(cls, path: str | Path, labels: FindingLabels, partial: bool = False) -> LabelledEmbeddings:
        """Embeddings of the shared space from one file.

        Args:
            path (`str` or `Path`): `.safetensors` with `image_embeds [N, d]` and, in its metadata, `ids`, a JSON list
                (without it the rows are those of the labels); or `.parquet` / `.arrow` with the columns `id` and
                `image_embeds`.
            labels, partial: see `from_store`.

        Raises:
            `ClipAlignError`: the file cannot be read, or as `from_store`.
        """
        path = Path(path)
        embeds, ids, model = _read_embeddings(path)
        if ids is None:
            return cls(embeds, labels, model)
        rows, kept = matched_rows(ids, labels, str(path), set(), partial)
        return cls(embeds[torch.from_numpy(rows)], labels.select(kept), model)

    @classmethod
    def from_images(
        cls, labels: FindingLabels, root: str | Path, model: Any, processor: Any, folder: str | Path, **kwargs: Any
    ) -> LabelledEmbeddings:
        """Images below `root`, through the image tower once: their features go to `folder`, and stay there.

        Args:
            labels (`FindingLabels`): their ids are paths below `root`. Those that cannot be read are left out, with a
                warning.
            root (`str` or `Path`): where the images are.
            model, processor: the backbone and its processor.
            folder (`str` or `Path`): the feature store; a second call reads it.
            **kwargs: passed to `extract_to_store`.
        """
        store = extract_to_store(model, labels.source(root), processor, folder, **kwargs)
        return cls.from_store(store, labels, model)

    def save(self, path: str | Path) -> Path:
        """Writes `.safetensors` that `from_file` reads; the labels are not in it."""
        path, ids = Path(path), "\n".join(map(str, self.labels.ids))
        description = {"model": self.model, "ids": hashlib.sha256(ids.encode("utf-8", "surrogatepass")).hexdigest()}
        write_file(path, EMBEDDINGS, description, {_EMBEDS: self.embeds, **names_as_tensors(self.labels.ids)})
        return path

    def select(self, rows: Any = None, findings: Sequence[str] | None = None) -> LabelledEmbeddings:
        """Some rows (numbers or a mask) and some findings."""
        index = np.arange(len(self))[slice(None) if rows is None else np.asarray(rows)]
        return LabelledEmbeddings(
            self.embeds[torch.from_numpy(index)], self.labels.select(index, findings), self.model
        )


def backbone_hash(model: Any) -> str:
    """The hash of a backbone that feature stores and embeddings name, whatever adapter is behind its projectors.

    Args:
        model (`PeftModel`, `nn.Module` or `DualEncoder`): the backbone.

    Returns:
        `str`: `weights_hash(…, before_projector=True)`.

    Example:
        ```python
        >>> from hf_clipalign.features import backbone_hash
        >>> len(backbone_hash(model)), backbone_hash(model) == backbone_hash(encoder)
        (64, True)
        ```
    """
    return weights_hash(as_dual_encoder(model).model, before_projector=True)


def matched_rows(
    ids: Sequence[str], labels: FindingLabels, name: str, unread: set[str], partial: bool
) -> tuple[np.ndarray, np.ndarray]:
    """For each label that has one, the row among `ids`; and which labels these are.

    Raises:
        `ClipAlignError`: an id occurs twice, none match, or (unless `partial`) some labels have none.
    """
    row_of = {item: row for row, item in enumerate(ids)}
    if len(row_of) != len(ids):
        twice = next(item for row, item in enumerate(ids) if row_of[item] != row)
        raise ClipAlignError(f"the id {twice!r} occurs twice in {name!r}: every image needs one row.")
    wanted = _without_common_folders(labels.ids, row_of)
    found = np.array([row_of.get(item, -1) for item in wanted])
    kept = np.flatnonzero(found >= 0)
    absent = [wanted[row] for row in np.flatnonzero(found < 0)]
    if not len(kept):
        raise ClipAlignError(
            f"no image of {labels.name} is in {name!r}: the labels name images like {labels.ids[0]!r}, there are "
            f"{next(iter(ids), '')!r}, …"
        )
    missing = [item for item in absent if item not in unread]
    if missing and not partial:
        raise ClipAlignError(
            f"{len(missing)} of {len(labels)} images of {labels.name} are not in {name!r}, first {missing[0]!r}: "
            "embed them, or leave them out with partial=True."
        )
    if lost := [item for item in absent if item in unread]:
        logger.warning(
            "%d of %d images of %s could not be read when %s was made, and are left out, first %r",
            *(len(lost), len(labels), labels.name, name, lost[0]),
        )
    return found[kept], kept


def _without_common_folders(wanted: list[str], known: dict[str, int]) -> list[str]:
    """The names without as many leading folders as it takes for the first one to be known."""
    for levels in range(_MOST_FOLDERS + 1):
        shorter = [name.split("/", levels)[-1] for name in wanted]
        if any(name in known for name in shorter):
            return shorter if len(set(shorter)) == len(shorter) else wanted
    return wanted


def _embeds(store: FeatureStore, rows: np.ndarray, encoder: DualEncoder) -> Tensor:
    """The embeddings `[R, d]` of some rows of a store, each of whose shards is read once."""
    embeds = torch.empty(len(rows), encoder.embed_dim)
    for start, part in store.parts():
        places = np.flatnonzero((rows >= start) & (rows < start + len(part.ids)))
        for first in range(0, len(places), _BLOCK_ROWS):
            chosen = torch.from_numpy(places[first : first + _BLOCK_ROWS])
            block = part.values[torch.from_numpy(rows)[chosen] - start][:, : encoder.vision_dim]
            embeds[chosen] = _projected(encoder, block)
    return embeds


@torch.no_grad()
def _projected(encoder: DualEncoder, features: Tensor) -> Tensor:
    moved = features.to(encoder.device, encoder.dtype)
    return encoder.project_image(moved, adapted=False).float().cpu()


def _read_embeddings(path: Path) -> tuple[Tensor, list[str] | None, str | None]:
    """Embeddings, names and the hash of the model of a file."""
    if path.suffix not in (".safetensors", ".parquet", ".arrow"):
        raise ClipAlignError(
            f"{path}: embeddings must be a .safetensors, .parquet or .arrow file, or a feature store."
        )
    with explained_read(path):
        is_there = path.is_file()
    if not is_there:
        raise ClipAlignError(
            f"{path}: no such file; make embeddings with `clipalign embed` or LabelledEmbeddings.save."
        )
    with explained_content(path):
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_table(path)


def _read_safetensors(path: Path) -> tuple[Tensor, list[str] | None, str | None]:
    from safetensors import safe_open

    try:
        shard = read_file(path, EMBEDDINGS, {})
        assert shard is not None
        return shard.tensors[_EMBEDS], names_from_tensors(shard.tensors), shard.meta["description"]["model"]
    except ForeignFile as problem:
        with safe_open(path, framework="pt") as file:
            ours = {"id_text", "id_ends"} & set(file.keys()) or METADATA in (file.metadata() or {})
            if ours:
                raise ClipAlignError(f"{path}: is damaged ({problem}); make it again.") from None
            return _read_foreign(path, file)
    except DamagedShard as damage:
        raise ClipAlignError(f"{path}: is damaged ({damage}); make it again.") from None


def _read_foreign(path: Path, file: Any) -> tuple[Tensor, list[str] | None, str | None]:
    """A safetensors file that others wrote: nothing proves it but its own header."""
    if _EMBEDS not in file.keys():  # noqa: SIM118 (no dictionary)
        raise ClipAlignError(f"{path}: holds no tensor {_EMBEDS!r}, only {quoted(file.keys())}.")
    metadata, embeds = file.metadata() or {}, file.get_tensor(_EMBEDS)
    ids = checked_json(metadata[_IDS].encode(), [str]) if _IDS in metadata else None
    if ids is not None and len(ids) != len(embeds):
        raise ClipAlignError(f"{path}: {len(ids)} ids for {len(embeds)} embeddings.")
    return embeds, ids, metadata.get("model")


def _read_table(path: Path) -> tuple[Tensor, list[str], None]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        table = pq.read_table(path)
    else:
        with pa.memory_map(str(path)) as file:
            try:
                table = pa.ipc.open_file(file).read_all()
            except pa.ArrowInvalid:
                table = pa.ipc.open_stream(file).read_all()
    missing = [name for name in ("id", _EMBEDS) if name not in table.column_names]
    if missing:
        raise ClipAlignError(f"{path}: no column {missing[0]!r}; the columns are {quoted(table.column_names)}.")
    column = table[_EMBEDS].combine_chunks()
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)  # NaN where there is no vector
    if not len(column):
        raise ClipAlignError(f"{path}: there are no rows.")
    if len(others := np.flatnonzero(lengths != lengths[0])):
        raise ClipAlignError(
            f"{path}: the vectors in {_EMBEDS!r} differ in length, first that of row {others[0]} (from 0)."
        )
    flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    return (
        torch.from_numpy(flat.reshape(len(column), -1).copy()),
        [str(item) for item in table["id"].to_pylist()],
        None,
    )
