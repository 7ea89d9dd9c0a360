"""Features of any number of images or texts, into a folder: in shards, resumable, over several processes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

import hf_clipalign
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._tensors import parse_dtype
from hf_clipalign.backbones import DualEncoder, as_dual_encoder
from hf_clipalign.data import Captions, ImageSource, ImageStream, StreamRecord, TextSource, open_source, open_stream
from hf_clipalign.features.in_memory import encode_texts, image_block
from hf_clipalign.features.key import (
    LAYOUT,
    describe_image_processor,
    describe_model,
    describe_tokenizer,
    differences,
    run_key,
)
from hf_clipalign.features.ranks import Ranks
from hf_clipalign.features.reading import ImageBatch, ImageJob, default_workers, image_batches
from hf_clipalign.features.shards import (
    FORMAT,
    DamagedShard,
    Shard,
    check_shard,
    read_manifest,
    remove_store,
    remove_strays,
    shard_files,
    store_lock,
    write_manifest,
    write_shard,
)
from hf_clipalign.features.store import FeatureStore, finish_store

logger = logging.getLogger(__name__)

_DTYPES = ("float32", "bfloat16", "float16")

Source = ImageSource | ImageStream | TextSource


def extract_to_store(
    model: Any,
    source: Any,
    processor: Any,
    folder: str | Path,
    *,
    shard_size: int = 4096,
    batch_size: int = 64,
    num_workers: int | None = None,
    strict: bool = False,
    truncate: bool = False,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
    model_name: str | None = None,
    progress: bool = True,
) -> FeatureStore:
    """Writes features before the projector to a folder, shard by shard; what is there already is not made again.

    A run that was killed goes on where it stopped, and the files come out byte for byte as if it had not been. That
    holds on the same machine with the same number of threads: shards and the batches in them are fixed rows. Under
    `torchrun` or `accelerate launch` shard i is made by process `i % world_size`; the files are the same. No more than
    one shard a process is in memory, however many items there are.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode, on the device to use.
        source (`ImageSource`, `ImageStream`, `TextSource`, `Captions`, list of texts, `datasets.IterableDataset`, or
            what `open_source` takes): the items, in an order that does not change.
        processor (`ProcessorMixin`, image processor or tokenizer): the checkpoint's processor.
        folder (`str` or `Path`): where the store is or will be.
        shard_size (`int`): rows of the source in one file. Default 4,096.
        batch_size (`int`): items per pass. Default 64.
        num_workers (`int`, *optional*): processes that read images. Default: none for few images, else this
            process's share of the cores but one, at most 8.
        strict (`bool`): raise at the first image that cannot be read, instead of recording it. Default False.
        truncate (`bool`): cut texts over the context length instead of raising. Default False.
        dtype (`str` or `torch.dtype`, *optional*): compute in `"float32"`, `"bfloat16"` or `"float16"`, with a copy of
            the model; the features are kept in float32 and go with the given model. Default: the model's own type.
        overwrite (`bool`): remove what the folder holds of another model, other data or other sizes. Default False.
        model_name (`str`, *optional*): what to call the model. Default: where it was loaded from.
        progress (`bool`): show a progress bar in the first process. Default True.

    Returns:
        `FeatureStore`: the complete store, in every process.

    Raises:
        `ClipAlignError`: the folder holds something else, another run is writing to it, nothing can be read, or
            (`strict`) one image cannot.

    Example:
        ```python
        >>> store = extract_to_store(model, "photos/", processor, "features/")
        >>> len(store), store.width
        (120, 768)
        ```
    """
    folder, ranks, encoder = Path(folder), Ranks.current(), as_dual_encoder(model)
    for name, size in (("shard_size", shard_size), ("batch_size", batch_size)):
        if size < 1:
            raise ClipAlignError(f"{name} is {size}: give 1 or more.")
    dtype = encoder.dtype if dtype is None else parse_dtype(dtype, *_DTYPES)
    items = _as_source(source)
    lock = store_lock(folder)
    ranks.from_first(lock.__enter__)
    try:
        sizes = {"shard_size": shard_size, "batch_size": batch_size}
        plan = ranks.from_first(
            lambda: _begin(
                folder, _describe(encoder, dtype, items, processor, truncate, model_name) | sizes, overwrite
            )
        )
        if not plan.complete:
            computing, bar = _in_dtype(encoder, dtype), progress and ranks.index == 0
            run = _Run(computing, items, processor, plan, ranks, num_workers, truncate, bar)
            for index, shard in run.shards():
                if strict and shard.skipped:
                    raise ClipAlignError(shard.skipped[0][1])
                write_shard(folder, index, shard, plan.key)
            n_shards = max(ranks.gather(run.n_shards))
            ranks.from_first(lambda: finish_store(folder, plan.manifest, n_shards))
    finally:
        if ranks.index == 0:
            lock.__exit__(None, None, None)
    return _checked(FeatureStore.open(folder), strict)


@dataclass(frozen=True)
class _Plan:
    """What there is to do: the manifest so far, the key of its shards, and those that are there already."""

    manifest: dict[str, Any]
    key: str
    done: frozenset[int]
    complete: bool


def _as_source(source: Any) -> Source:
    if isinstance(source, (ImageSource, ImageStream, TextSource)):
        return source
    if isinstance(source, Captions):
        return TextSource(source.texts, labels=source.labels, name="captions")
    is_column = hasattr(source, "to_list") and not hasattr(source, "column_names")  # of pandas or polars
    if isinstance(source, (list, tuple)) or is_column:
        return TextSource(source)
    if type(source).__name__ == "IterableDataset":
        return open_stream(source)
    return open_source(source)


def _describe(
    encoder: DualEncoder,
    dtype: torch.dtype,
    source: Source,
    processor: Any,
    truncate: bool,
    model_name: str | None,
) -> dict[str, Any]:
    is_text = isinstance(source, TextSource)
    return {
        "format": FORMAT,
        "created_by": f"hf_clipalign {hf_clipalign.__version__}",
        "complete": False,
        "modality": "text" if is_text else "image",
        "width": encoder.projector("text" if is_text else "image").matrix.shape[1],
        "model": describe_model(encoder, model_name, dtype),
        "processor": describe_tokenizer(processor, truncate) if is_text else describe_image_processor(processor),
        "data": {"name": source.name, "fingerprint": source.fingerprint()},
        "class_names": source.class_names,
    }


def _in_dtype(encoder: DualEncoder, dtype: torch.dtype) -> DualEncoder:
    """The encoder, or a copy of another type: the caller's model stays as it is."""
    return encoder if dtype == encoder.dtype else as_dual_encoder(copy.deepcopy(encoder.model).to(dtype))


def _begin(folder: Path, wanted: dict[str, Any], overwrite: bool) -> _Plan:
    """Sees what the folder holds, and leaves the manifest of an unfinished run in it, unless all is done."""
    remove_strays(folder)
    stored = None if overwrite else read_manifest(folder)
    if stored is None:
        if overwrite:
            remove_store(folder)
        write_manifest(folder, wanted)
        return _Plan(wanted, run_key(wanted), _done(folder, run_key(wanted)), False)
    if found := differences(stored, wanted):
        raise ClipAlignError(
            f"{str(folder)!r} holds other features; what differs: {'; '.join(found)}. Use another folder, or replace "
            "them with overwrite=True (--overwrite)."
        )
    if stored["complete"] and not (damaged := FeatureStore(folder, stored).damaged()):
        return _Plan(stored, run_key(stored), frozenset(), True)
    for name in LAYOUT:
        if stored[name] != wanted[name]:
            state = f"damaged ({damaged[0]})" if stored["complete"] else "unfinished"
            raise ClipAlignError(
                f"the features in {str(folder)!r} are {state} and were begun with {name}={stored[name]}: go on with "
                "the same, or begin again with overwrite=True (--overwrite)."
            )
    write_manifest(folder, wanted)
    return _Plan(wanted, run_key(wanted), _done(folder, run_key(wanted)), False)


def _done(folder: Path, key: str) -> frozenset[int]:
    """The shards that need not be made again."""
    done = set()
    for index, file in shard_files(folder).items():
        try:
            check_shard(file, index, key)
            done.add(index)
        except DamagedShard as problem:
            logger.warning("%s is made again: %s", file, problem)
            file.unlink()
    return frozenset(done)


def _checked(store: FeatureStore, strict: bool) -> FeatureStore:
    if strict and store.n_skipped:
        raise ClipAlignError(store.skipped[0][1])
    if len(store) == 0:
        reason = f"; the first reason: {store.skipped[0][1]}" if store.n_skipped else ""
        raise ClipAlignError(f"none of the {store.n_skipped} images can be read{reason}")
    return store


class _Run:
    """The shards of one process, one after the other."""

    def __init__(
        self,
        encoder: DualEncoder,
        source: Source,
        processor: Any,
        plan: _Plan,
        ranks: Ranks,
        num_workers: int | None,
        truncate: bool,
        progress: bool,
    ) -> None:
        self.encoder, self.source, self.processor = encoder, source, processor
        self.done, self.ranks, self.truncate, self.progress = plan.done, ranks, truncate, progress
        self.shard_size: int = plan.manifest["shard_size"]
        self.batch_size: int = plan.manifest["batch_size"]
        self.width: int = plan.manifest["width"]
        n_items = None if isinstance(source, ImageStream) else len(source)
        self.n_shards = 0 if n_items is None else -(-n_items // self.shard_size)
        self.num_workers = default_workers(n_items) if num_workers is None else num_workers

    def shards(self) -> Iterator[tuple[int, Shard]]:
        """Number and content of every shard that this process makes; for streams, `n_shards` is right afterwards."""
        if isinstance(self.source, TextSource):
            return self._text_shards(self.source)
        return self._image_shards(self.source)

    def _is_mine(self, shard: int) -> bool:
        return shard % self.ranks.count == self.ranks.index and shard not in self.done

    def _mine(self, n_items: int) -> list[tuple[int, range]]:
        starts = range(0, n_items, self.shard_size)
        ranges = [range(start, min(start + self.shard_size, n_items)) for start in starts]
        return [(index, rows) for index, rows in enumerate(ranges) if self._is_mine(index)]

    def _bar(self, total: int | None, unit: str) -> tqdm:
        return tqdm(total=total, desc=f"{unit}s", unit=unit, disable=not self.progress)

    def _image_shards(self, source: ImageSource | ImageStream) -> Iterator[tuple[int, Shard]]:
        if isinstance(source, ImageStream):
            jobs, total = self._stream_jobs(source), None
        else:
            mine = self._mine(len(source))
            jobs, total = _image_jobs(mine, self.batch_size), sum(len(rows) for _, rows in mine)
        on_gpu = self.encoder.device.type == "cuda"
        batches = image_batches(source, self.processor, jobs, self.num_workers, pin_memory=on_gpu)
        with self._bar(total, "image") as bar:
            for index, group in groupby(batches, key=lambda batch: batch.shard):
                yield index, self._image_shard(group, bar)

    def _stream_jobs(self, source: ImageStream) -> Iterator[ImageJob]:
        """Reads the stream from the first missing shard on, and counts its shards."""
        self.n_shards = first = next(index for index in range(len(self.done) + 1) if index not in self.done)
        records: list[StreamRecord] = []
        row, size = first * self.shard_size - 1, self.shard_size
        for row, record in enumerate(source.records(first * size), start=first * size):
            shard, place = divmod(row, size)
            self.n_shards = shard + 1
            if self._is_mine(shard):
                records.append(record)
                if len(records) == self.batch_size or place == size - 1:
                    yield ImageJob(shard, range(row + 1 - len(records), row + 1), records)
                    records = []
        if records:
            yield ImageJob(self.n_shards - 1, range(row + 1 - len(records), row + 1), records)

    def _image_shard(self, batches: Iterable[ImageBatch], bar: tqdm) -> Shard:
        blocks: list[Tensor] = []
        shard = Shard(np.empty((0, self.width), np.float32), np.empty(0, np.int64), [], None, [])
        rows: list[int] = []
        labels: list[int] | None = []
        for batch in batches:
            if batch.inputs is not None:
                blocks.append(image_block(self.encoder, batch.inputs))
            rows += batch.rows
            shard.ids += batch.ids
            labels = None if labels is None or batch.labels is None else labels + batch.labels
            shard.skipped += batch.failures
            bar.update(batch.n_rows)
        if blocks:
            shard.values = torch.cat(blocks).numpy()
        shard.rows = np.array(rows, dtype=np.int64)
        shard.labels = None if labels is None else np.array(labels, dtype=np.int64)
        return shard

    def _text_shards(self, source: TextSource) -> Iterator[tuple[int, Shard]]:
        mine = self._mine(len(source))
        with self._bar(sum(len(rows) for _, rows in mine), "text") as bar:
            for index, rows in mine:
                texts = source.texts[rows.start : rows.stop]
                values = encode_texts(self.encoder, texts, self.processor, self.batch_size, self.truncate, bar)
                ids = [str(row) for row in rows] if source.ids is None else source.ids[rows.start : rows.stop]
                labels = None if source.labels is None else np.asarray(source.labels[rows.start : rows.stop])
                yield index, Shard(values.numpy(), np.arange(rows.start, rows.stop), list(ids), labels)


def _image_jobs(shards: Collection[tuple[int, range]], batch_size: int) -> Iterator[ImageJob]:
    for index, rows in shards:
        for start in range(0, len(rows), batch_size):
            yield ImageJob(index, rows[start : start + batch_size])
