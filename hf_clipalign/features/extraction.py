"""Features of any number of images or texts, into a folder: in shards, resumable, over several processes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import hf_clipalign
from hf_clipalign._checks.tensors import parse_dtype
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, as_dual_encoder
from hf_clipalign.data import Captions, ImageSource, ImageStream, StreamRecord, TextSource, open_source, open_stream
from hf_clipalign.features.content import text_hash
from hf_clipalign.features.description import describe_image_processor, describe_model, describe_tokenizer
from hf_clipalign.features.in_memory import image_block, text_block
from hf_clipalign.features.ranks import Ranks
from hf_clipalign.features.reading import ImageBatch, ImageJob, default_workers, image_batches
from hf_clipalign.features.reuse import KnownRows, change, hashes_as_tensor, may_reuse
from hf_clipalign.features.rows import FEATURES, LAYOUT, Rows, finish_rows, write_rows
from hf_clipalign.features.storage.folder import ShardFolder, folder_lock, remove_store
from hf_clipalign.features.storage.manifest import differences, is_earlier
from hf_clipalign.features.store import FeatureStore

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

    A run that was killed is resumed where it stopped, and the files come out byte for byte as if it had not been. That
    holds on the same machine with the same number of threads: shards and the batches in them are fixed rows. Under
    `torchrun` or `accelerate launch` shard i is made by process `i % world_size`; the files are the same. No more than
    one shard a process is in memory, however many items there are.

    Images that were added, removed, renamed or edited in the source that a folder was made from are no other data:
    the features of images whose bytes are unchanged are reused, and a line of the log says how many. The old store
    stays readable until the new one is complete. A reused feature is the stored one; computed again it may differ in
    the last bits, because an image is then in a batch of other size. All else is as in a new folder, to the byte.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode, on the device to use.
        source (`ImageSource`, `ImageStream`, `TextSource`, `Captions`, list of texts, `datasets.IterableDataset`, or
            what `open_source` takes): the items, in an order that does not change.
        processor (`ProcessorMixin`, image processor or tokenizer): the checkpoint's processor.
        folder (`str` or `Path`): where the store is or will be.
        shard_size (`int`, *optional*, defaults to `4,096`): rows of the source in one file.
        batch_size (`int`, *optional*, defaults to `64`): items per pass.
        num_workers (`int`, *optional*): processes that read images. Default: none for few images, else this
            process's share of the cores but one, at most 8.
        strict (`bool`, *optional*, defaults to `False`): raise at the first image that cannot be read, instead of
            recording it.
        truncate (`bool`, *optional*, defaults to `False`): cut texts over the context length instead of raising.
        dtype (`str` or `torch.dtype`, *optional*): compute in `"float32"`, `"bfloat16"` or `"float16"`, with a copy of
            the model; the features are kept in float32 and go with the given model. Default: the model's own type.
        overwrite (`bool`, *optional*, defaults to `False`): remove what the folder holds first, and reuse nothing.
        model_name (`str`, *optional*): what to call the model. Default: where it was loaded from.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar in the first process.

    Returns:
        `FeatureStore`: the complete store, in every process.

    Raises:
        `ClipAlignError`: the folder holds something else, another run is writing to it, nothing can be read, or
            (`strict`) one image cannot.

    Example:
        ```python
        >>> from hf_clipalign.features import extract_to_store
        >>> store = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False)
        >>> len(store), store.width
        (12, 128)
        ```
    """
    folder, ranks, encoder = Path(folder), Ranks.current(), as_dual_encoder(model)
    for name, size in (("shard_size", shard_size), ("batch_size", batch_size)):
        if size < 1:
            raise ClipAlignError(f"{name} is {size}: give 1 or more.")
    dtype = encoder.dtype if dtype is None else parse_dtype(dtype, *_DTYPES)
    items = _as_source(source)
    lock = folder_lock(folder, FEATURES)
    ranks.from_first(lock.__enter__)
    try:
        sizes = {"shard_size": shard_size, "batch_size": batch_size}
        wanted = _describe(encoder, dtype, items, processor, truncate, model_name) | sizes
        plan = ranks.from_first(lambda: _begin(folder, wanted, overwrite))
        if not plan.complete:
            shards = ShardFolder.describe(folder, FEATURES, plan.description)
            known = KnownRows.of(shards) if plan.reuses else KnownRows()
            computing, bar = _in_dtype(encoder, dtype), progress and ranks.index == 0
            run = _Run(computing, items, processor, shards, plan.done, known, ranks, num_workers, truncate, bar)
            for index, rows in run.shards():
                if strict and rows.skipped:
                    raise ClipAlignError(rows.skipped[0][1])
                write_rows(shards, index, rows)
            n_shards = max(ranks.gather(run.n_shards))
            ranks.from_first(lambda: _finish(shards, n_shards, plan.reuses))
    finally:
        if ranks.index == 0:
            lock.__exit__(None, None, None)
    return _checked(FeatureStore.open(folder), strict)


@dataclass(frozen=True)
class _Plan:
    """What there is to do: the description of the run, its shards that are there, and whether rows can be reused."""

    description: dict[str, Any]
    done: frozenset[int] = frozenset()
    complete: bool = False
    reuses: bool = False


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
    """Sees what the folder holds, and leaves the manifest of an unfinished run in it, unless it is complete."""
    if overwrite:
        remove_store(folder, FEATURES)
    stored = ShardFolder.open(folder, FEATURES)
    if stored is None:
        shards = ShardFolder.create(folder, FEATURES, wanted)
        return _Plan(wanted, shards.done())
    found = differences(FEATURES, stored.manifest, wanted)
    layout = [name for name in LAYOUT if found.pop(name, None)]
    reuses = list(found) == ["data.fingerprint"] and may_reuse(stored, wanted)
    if found and not reuses:
        raise ClipAlignError(
            f"{str(folder)!r} holds other features; what differs: {'; '.join(found.values())}. Use another folder, or "
            "replace them with overwrite=True."
        )
    if not found and stored.complete and not (damaged := stored.damaged()):
        stored.remove_others()
        return _Plan(wanted, complete=True)
    if not found and (layout or is_earlier(stored.manifest)):
        state = f"damaged ({damaged[0]})" if stored.complete else "unfinished"
        begun = ", ".join(f"{name}={stored.manifest[name]}" for name in layout) or "an earlier version"
        raise ClipAlignError(
            f"the features in {str(folder)!r} are {state} and were begun with {begun}: resume with the same, or begin "
            "again with overwrite=True."
        )
    shards = ShardFolder.describe(folder, FEATURES, wanted)
    return _Plan(wanted, shards.done(), reuses=reuses)


def _finish(shards: ShardFolder, n_shards: int, reuses: bool) -> None:
    report = change(shards, n_shards) if reuses else None
    finish_rows(shards, n_shards)
    if report:
        logger.warning("%s: %s", shards.path, report)


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
        shards: ShardFolder,
        done: frozenset[int],
        known: KnownRows,
        ranks: Ranks,
        num_workers: int | None,
        truncate: bool,
        progress: bool,
    ) -> None:
        self.encoder, self.source, self.processor = encoder, source, processor
        self.done, self.known, self.ranks, self.truncate, self.progress = done, known, ranks, truncate, progress
        self.shard_size: int = shards.manifest["shard_size"]
        self.batch_size: int = shards.manifest["batch_size"]
        self.width: int = shards.manifest["width"]
        n_items = None if isinstance(source, ImageStream) else len(source)
        self.n_shards = 0 if n_items is None else -(-n_items // self.shard_size)
        self.num_workers = default_workers(n_items) if num_workers is None else num_workers

    def shards(self) -> Iterator[tuple[int, Rows]]:
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
        return tqdm(total=total, desc=f"{unit}s", unit=unit, disable=None if self.progress else True)

    def _image_shards(self, source: ImageSource | ImageStream) -> Iterator[tuple[int, Rows]]:
        if isinstance(source, ImageStream):
            jobs, total = self._stream_jobs(source), None
        else:
            mine = self._mine(len(source))
            jobs, total = _image_jobs(mine, self.batch_size), sum(len(rows) for _, rows in mine)
        on_gpu = self.encoder.device.type == "cuda"
        batches = image_batches(source, self.processor, jobs, self.num_workers, on_gpu, self.known.hashes)
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

    def _image_shard(self, batches: Iterable[ImageBatch], bar: tqdm) -> Rows:
        shard = Rows(torch.empty(0, self.width), torch.empty(0, dtype=torch.int64), [])
        blocks: list[Tensor] = [shard.values]
        rows: list[int] = []
        content: list[bytes] = []
        labels: list[int] | None = []
        for batch in batches:
            fresh = torch.empty(0, self.width) if batch.inputs is None else image_block(self.encoder, batch.inputs)
            blocks.append(self.known.merged(batch.content, batch.known, fresh))
            rows += batch.rows
            content += batch.content
            shard.ids += batch.ids
            labels = None if labels is None or batch.labels is None else labels + batch.labels
            shard.skipped += batch.failures
            bar.update(batch.n_rows)
        shard.values = torch.cat(blocks)
        shard.rows = torch.tensor(rows, dtype=torch.int64)
        shard.content = hashes_as_tensor(content)
        shard.labels = None if labels is None else torch.tensor(labels, dtype=torch.int64)
        return shard

    def _text_shards(self, source: TextSource) -> Iterator[tuple[int, Rows]]:
        mine = self._mine(len(source))
        with self._bar(sum(len(rows) for _, rows in mine), "text") as bar:
            for index, rows in mine:
                yield index, self._text_shard(source, rows, bar)

    def _text_shard(self, source: TextSource, rows: range, bar: tqdm) -> Rows:
        texts = source.texts[rows.start : rows.stop]
        content = [text_hash(text) for text in texts]
        known = [hashed in self.known.hashes for hashed in content]
        wanted = [text for text, is_known in zip(texts, known, strict=True) if not is_known]
        fresh = text_block(self.encoder, wanted, self.processor, self.batch_size, self.truncate, bar)
        bar.update(len(texts) - len(wanted))
        ids = [str(row) for row in rows] if source.ids is None else source.ids[rows.start : rows.stop]
        labels = None if source.labels is None else torch.as_tensor(source.labels[rows.start : rows.stop])
        values, positions = self.known.merged(content, known, fresh), torch.arange(rows.start, rows.stop)
        return Rows(values, positions, list(ids), labels, content=hashes_as_tensor(content))


def _image_jobs(shards: list[tuple[int, range]], batch_size: int) -> Iterator[ImageJob]:
    for index, rows in shards:
        for start in range(rows.start, rows.stop, batch_size):
            yield ImageJob(index, range(start, min(start + batch_size, rows.stop)))
