"""Features before the projector, taken once, so that every head and band can be scored from one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_clipalign._checks.sequences import as_array, as_list, as_positions
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, as_dual_encoder, tokenize
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.data import ImageSource, TextSource
from hf_clipalign.features.reading import ImageJob, default_workers, image_batches
from hf_clipalign.features.rows import FEATURES, LAYOUT, Rows, all_rows, finish_rows, open_features, write_rows
from hf_clipalign.features.storage.folder import ShardFolder, folder_lock, remove_store


@dataclass
class Features:
    """Features before the projector and what they belong to.

    Attributes:
        values (`Tensor [N, w]`): float32, on the CPU; with a last column of ones for projectors that have a bias.
        modality (`"image"` or `"text"`): which tower they come from.
        ids (`list[str]`): N names, unique.
        labels (`np.ndarray [N]`, *optional*): class numbers.
        class_names (`list[str]`, *optional*): what the numbers mean.
        skipped (`list[tuple[str, str]]`): name and reason of what could not be read.
        model (`str`, *optional*): where the model came from.

    Example:
        ```python
        >>> features.values.shape, features.modality, features.ids[:2]
        (torch.Size([24, 128]), 'image', ['0', '1'])
        >>> features.save("emoji-features")
        >>> Features.load("emoji-features").values.equal(features.values)
        True
        ```
    """

    values: Tensor
    modality: Modality
    ids: list[str]
    labels: np.ndarray | None = None
    class_names: list[str] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    model: str | None = None

    def __post_init__(self) -> None:
        self.ids = as_list(self.ids, "ids")
        self.labels = None if self.labels is None else as_array(self.labels, "labels")

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: Sequence[int] | np.ndarray) -> Features:
        """The features of some rows, in that order."""
        index = as_positions(rows, len(self), "rows")
        return Features(
            values=self.values[torch.from_numpy(index)],
            modality=self.modality,
            ids=[self.ids[row] for row in index],
            labels=None if self.labels is None else self.labels[index],
            class_names=self.class_names,
            skipped=self.skipped,
            model=self.model,
        )

    def save(self, folder: str | Path) -> None:
        """Writes the features to a folder that `load` and `FeatureStore.open` read.

        Raises:
            `ClipAlignError`: the folder cannot be written to.
        """
        path = Path(folder)
        description = {
            "modality": self.modality,
            "width": self.values.shape[1],
            "model": {"name": self.model, "weights": None},
            "data": {"name": None, "fingerprint": None},
            "class_names": self.class_names,
            **dict.fromkeys(LAYOUT, max(1, len(self))),
        }
        labels = None if self.labels is None else torch.as_tensor(self.labels)
        rows = Rows(self.values, torch.arange(len(self)), self.ids, labels, self.skipped)
        with folder_lock(path, FEATURES):
            remove_store(path, FEATURES)
            store = ShardFolder.create(path, FEATURES, description)
            write_rows(store, 0, rows)
            finish_rows(store, 1)

    @classmethod
    def load(cls, folder: str | Path) -> Features:
        """Reads what `save` or `extract_to_store` wrote, all of it into memory.

        Raises:
            `ClipAlignError`: the folder holds no features, or a file is damaged.
        """
        store = open_features(folder)
        return collected(store.manifest, all_rows(store))


def gathered(manifest: Mapping[str, Any], parts: Sequence[Rows]) -> Features:
    """Rows of a store as one copy in memory.

    Args:
        manifest (`Mapping`): the store's.
        parts (`Sequence[Rows]`): some of its shards, in order.
    """
    return collected({**manifest, "n_rows": sum(len(part.ids) for part in parts)}, parts)


def collected(manifest: Mapping[str, Any], parts: Iterable[Rows]) -> Features:
    """All rows of a store as one copy in memory, of whose shards one at a time is held beside it."""
    values = torch.empty(manifest["n_rows"], manifest["width"])
    ids: list[str] = []
    skipped: list[tuple[str, str]] = []
    labels: list[np.ndarray] | None = []
    for part in parts:
        values[len(ids) : len(ids) + len(part.ids)] = part.values
        ids += part.ids
        skipped += part.skipped
        labels = None if labels is None or part.labels is None else [*labels, part.labels.numpy().copy()]
    return Features(
        values=values,
        modality=manifest["modality"],
        ids=ids,
        labels=np.concatenate(labels) if labels else None,
        class_names=manifest["class_names"],
        skipped=skipped,
        model=manifest["model"]["name"],
    )


def extract_image_features(
    model: Any,
    source: ImageSource,
    processor: Any,
    *,
    batch_size: int = 64,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Features:
    """Runs the image tower over a source of images; reading and resizing happen in worker processes.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode, on the device to use.
        source (`ImageSource`): the images; see `hf_clipalign.data.open_source`.
        processor (`ProcessorMixin` or image processor): the checkpoint's processor.
        batch_size (`int`, *optional*, defaults to `64`): images per pass.
        num_workers (`int`, *optional*): processes that read images. Default: none for few images, else all cores
            but one, at most 8.
        strict (`bool`): raise at the first image that cannot be read, instead of recording it in `skipped`.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `Features`: rows in the order of the source, without the skipped images.

    Raises:
        `ClipAlignError`: the source is empty, no image can be read, or (`strict`) one cannot.

    Example:
        ```python
        >>> from hf_clipalign.features import extract_image_features
        >>> extract_image_features(model, images, processor, progress=False).values.shape
        torch.Size([24, 128])
        ```
    """
    encoder = as_dual_encoder(model)
    if len(source) == 0:
        raise ClipAlignError("there are no images to take features of.")
    if batch_size < 1:
        raise ClipAlignError(f"batch_size is {batch_size}: give 1 or more.")
    starts = range(0, len(source), batch_size)
    jobs = [ImageJob(0, range(start, min(start + batch_size, len(source)))) for start in starts]
    workers = default_workers(len(source)) if num_workers is None else num_workers
    blocks, rows, skipped = [], [], []
    with tqdm(total=len(source), desc="images", unit="image", disable=None if progress else True) as bar:
        for batch in image_batches(source, processor, jobs, workers):
            if batch.failures and strict:
                raise ClipAlignError(batch.failures[0][1])
            skipped += batch.failures
            if batch.inputs is not None:
                blocks.append(image_block(encoder, batch.inputs))
                rows += batch.rows
            bar.update(batch.n_rows)
    if not rows:
        raise ClipAlignError(f"none of the {len(source)} images can be read; the first reason: {skipped[0][1]}")
    return Features(
        values=torch.cat(blocks),
        modality="image",
        ids=[source.ids[row] for row in rows],
        labels=None if source.labels is None else np.asarray(source.labels)[rows],
        class_names=None if source.class_names is None else list(source.class_names),
        skipped=skipped,
        model=encoder.config._name_or_path or None,
    )


def extract_text_features(
    model: Any,
    texts: Sequence[str],
    tokenizer: Any,
    *,
    labels: Any = None,
    batch_size: int = 256,
    truncate: bool = False,
    progress: bool = True,
) -> Features:
    """Runs the text tower over texts, sorted by length inside so that little padding is computed.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode, on the device to use.
        texts (`Sequence[str]`): N texts.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the checkpoint's tokenizer or processor.
        labels (array `[N]`, *optional*): for retrieval: texts of one image or class share a label.
        batch_size (`int`, *optional*, defaults to `256`): texts per pass.
        truncate (`bool`, *optional*, defaults to `False`): cut texts over the context length instead of raising.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `Features`: rows in the order of `texts`; ids are row numbers.

    Raises:
        `ClipAlignError`: no texts, labels of another length, or a text over the context length.

    Example:
        ```python
        >>> from hf_clipalign.features import extract_text_features
        >>> extract_text_features(model, ["a cat", "a dog"], processor, progress=False).values.shape
        torch.Size([2, 128])
        ```
    """
    encoder = as_dual_encoder(model)
    source = TextSource(as_texts(texts, "texts"), labels=labels)
    with tqdm(total=len(source), desc="texts", unit="text", disable=None if progress else True) as bar:
        values = text_block(encoder, source.texts, tokenizer, batch_size, truncate, bar)
    return Features(
        values=values,
        modality="text",
        ids=[str(row) for row in range(len(source))],
        labels=source.labels,
        class_names=source.class_names,
        model=encoder.config._name_or_path or None,
    )


@torch.no_grad()
def image_block(encoder: DualEncoder, inputs: dict[str, Any]) -> Tensor:
    """Features before the projector `[N, w]`, float32 on the CPU, of a processed batch of images."""
    moved = {
        name: value.to(encoder.device, encoder.dtype if value.is_floating_point() else None, non_blocking=True)
        for name, value in inputs.items()
    }
    return encoder.image_projector.lift(encoder.image_preprojection(**moved)).float().cpu()


@torch.no_grad()
def text_block(
    encoder: DualEncoder, texts: Sequence[str], tokenizer: Any, batch_size: int, truncate: bool, bar: tqdm
) -> Tensor:
    """Features before the projector `[N, w]`; sorted by length inside, so that little padding is computed."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    values = torch.empty(len(texts), encoder.text_projector.matrix.shape[1])
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenize(encoder, tokenizer, [texts[row] for row in rows], truncate=truncate)
        values[rows] = encoder.text_projector.lift(encoder.text_preprojection(**batch)).float().cpu()
        bar.update(len(rows))
    return values


def project_image_features(encoder: DualEncoder, features: Tensor) -> Tensor:
    """The model's own image head on stored features.

    Args:
        encoder (`DualEncoder`): the backbone that they come from.
        features (`Tensor [N, w]`): before the projector, with or without the column of ones.

    Returns:
        `Tensor [N, d]`: in the dtype and on the device of `features`.

    Example:
        ```python
        >>> from hf_clipalign.features import project_image_features
        >>> project_image_features(encoder, features.values).shape
        torch.Size([24, 128])
        ```
    """
    with torch.no_grad():
        projected = encoder.project_image(features[:, : encoder.vision_dim].to(encoder.device, encoder.dtype))
    return projected.to(features)
