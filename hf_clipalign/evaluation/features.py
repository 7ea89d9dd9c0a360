"""Features before the projector, taken once, so that every head and band can be scored from one pass."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._files import atomic_folder
from hf_clipalign.backbones import DualEncoder, as_dual_encoder, tokenize
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.data import ImageSource

_FEW_PICTURES = 256
_MOST_WORKERS = 8
_TENSORS_FILE, _MANIFEST_FILE = "features.safetensors", "features.json"


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
    """

    values: Tensor
    modality: Modality
    ids: list[str]
    labels: np.ndarray | None = None
    class_names: list[str] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    model: str | None = None

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: Sequence[int] | np.ndarray) -> Features:
        """The features of some rows, in that order."""
        index = np.asarray(rows)
        if index.dtype == bool:
            index = np.flatnonzero(index)
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
        """Writes `features.safetensors` and `features.json` to a folder, atomically.

        Raises:
            `ClipAlignError`: the folder cannot be written.
        """
        manifest = {name: value for name, value in asdict(self).items() if name not in ("values", "labels")}
        tensors = {"values": self.values.contiguous()}
        if self.labels is not None:
            tensors["labels"] = torch.from_numpy(np.ascontiguousarray(self.labels))
        with atomic_folder(folder) as staging:
            save_file(tensors, staging / _TENSORS_FILE)
            (staging / _MANIFEST_FILE).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Features:
        """Reads what `save` wrote.

        Raises:
            `ClipAlignError`: the folder holds no features, or a file is damaged.
        """
        folder = Path(folder)
        try:
            tensors = load_file(folder / _TENSORS_FILE)
            manifest = json.loads((folder / _MANIFEST_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ClipAlignError(
                f"{str(folder)!r} holds no features: make them with `clipalign embed IMAGES --out {folder}`."
            ) from error
        except Exception as error:
            raise ClipAlignError(f"the features in {str(folder)!r} are damaged: make them again.") from error
        labels = tensors["labels"].numpy() if "labels" in tensors else None
        manifest["skipped"] = [(name, reason) for name, reason in manifest["skipped"]]
        return cls(values=tensors["values"], labels=labels, **manifest)


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
    """Runs the image tower over a source of pictures; reading and resizing happen in worker processes.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode, on the device to use.
        source (`ImageSource`): the pictures; see `hf_clipalign.data.open_source`.
        processor (`ProcessorMixin` or image processor): the checkpoint's processor.
        batch_size (`int`): pictures per pass. Default 64.
        num_workers (`int`, *optional*): processes that read pictures. Default: none for few pictures, else all cores
            but one, at most 8.
        strict (`bool`): raise at the first picture that cannot be read, instead of recording it in `skipped`.
        progress (`bool`): show a progress bar. Default True.

    Returns:
        `Features`: rows in the order of the source, without the skipped pictures.

    Raises:
        `ClipAlignError`: the source is empty, no picture can be read, or (`strict`) one cannot.
    """
    encoder = as_dual_encoder(model)
    if len(source) == 0:
        raise ClipAlignError("there are no pictures to take features of.")
    blocks, rows, skipped = [], [], []
    for kept, inputs, failures in _read_batches(source, processor, batch_size, num_workers, progress):
        if failures and strict:
            raise ClipAlignError(failures[0][1])
        skipped += [(source.ids[row], reason) for row, reason in failures]
        if kept:
            blocks.append(_image_block(encoder, inputs))
            rows += kept
    if not rows:
        raise ClipAlignError(f"none of the {len(source)} pictures can be read; the first reason: {skipped[0][1]}")
    return Features(
        values=torch.cat(blocks),
        modality="image",
        ids=[source.ids[row] for row in rows],
        labels=None if source.labels is None else np.asarray(source.labels)[rows],
        class_names=source.class_names,
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
        batch_size (`int`): texts per pass. Default 256.
        truncate (`bool`): cut texts over the context length instead of raising. Default False.
        progress (`bool`): show a progress bar. Default True.

    Returns:
        `Features`: rows in the order of `texts`; ids are row numbers.

    Raises:
        `ClipAlignError`: no texts, labels of another length, or a text over the context length.
    """
    encoder = as_dual_encoder(model)
    if not len(texts):
        raise ClipAlignError("there are no texts to take features of.")
    if labels is not None and len(labels) != len(texts):
        raise ClipAlignError(f"{len(texts)} texts but {len(labels)} labels: give one label for each text.")
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    values = torch.empty(len(texts), encoder.text_projector.matrix.shape[1])
    with tqdm(total=len(texts), desc="texts", unit="text", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenize(encoder, tokenizer, [texts[row] for row in rows], truncate=truncate)
            with torch.no_grad():
                features = encoder.text_projector.lift(encoder.text_preprojection(**batch))
            values[rows] = features.float().cpu()
            bar.update(len(rows))
    return Features(
        values=values,
        modality="text",
        ids=[str(row) for row in range(len(texts))],
        labels=None if labels is None else np.asarray(labels),
        model=encoder.config._name_or_path or None,
    )


@torch.no_grad()
def _image_block(encoder: DualEncoder, inputs: dict[str, Tensor]) -> Tensor:
    moved = {
        name: value.to(encoder.device, encoder.dtype if value.is_floating_point() else None, non_blocking=True)
        for name, value in inputs.items()
    }
    features = encoder.image_preprojection(**moved)
    return encoder.image_projector.lift(features).float().cpu()


Batch = tuple[list[int], Any, list[tuple[int, str]]]


class _PictureBatches(Dataset):
    """Reads and processes one batch of rows at a time: what a worker does. Failures travel back as text."""

    def __init__(self, source: ImageSource, processor: Any):
        self.source = source
        self.image_processor = getattr(processor, "image_processor", processor)

    def __getitem__(self, rows: list[int]) -> Batch:
        pictures, kept, failures = [], [], []
        for row in rows:
            try:
                pictures.append(self.source.read(row))
                kept.append(row)
            except ClipAlignError as error:
                failures.append((row, str(error)))
        return kept, self._inputs(pictures) if pictures else None, failures

    def _inputs(self, pictures: list[Any]) -> dict[str, Tensor]:
        # arrays with a stated layout: a picture one pixel wide or high has no layout that could be guessed
        arrays = [np.asarray(picture) for picture in pictures]
        return dict(self.image_processor(images=arrays, input_data_format="channels_last", return_tensors="pt"))


def _read_batches(
    source: ImageSource, processor: Any, batch_size: int, num_workers: int | None, progress: bool
) -> Iterator[Batch]:
    if batch_size < 1:
        raise ClipAlignError(f"batch_size is {batch_size}: give 1 or more.")
    batches = [list(range(start, min(start + batch_size, len(source)))) for start in range(0, len(source), batch_size)]
    loader: DataLoader = DataLoader(
        _PictureBatches(source, processor),
        batch_size=None,
        sampler=batches,
        num_workers=_default_workers(len(source)) if num_workers is None else num_workers,
    )
    with tqdm(total=len(source), desc="pictures", unit="picture", disable=not progress) as bar:
        for rows, batch in zip(batches, loader, strict=True):
            yield batch
            bar.update(len(rows))


def _default_workers(n_pictures: int) -> int:
    return 0 if n_pictures < _FEW_PICTURES else max(1, min(_MOST_WORKERS, (os.cpu_count() or 2) - 1))
