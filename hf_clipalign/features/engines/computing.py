"""Shards computed in this process: which images, through the tower, to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_clipalign.data import ImageSource, ImageStream, StreamRecord, TextSource
from hf_clipalign.features.content import text_hash
from hf_clipalign.features.engines.extraction_run import Begun, Extraction, everything
from hf_clipalign.features.engines.plan import Plan, names_of
from hf_clipalign.features.engines.workers import Note
from hf_clipalign.features.in_memory import image_block, text_block
from hf_clipalign.features.reading import ImageBatch, ImageJob, default_workers, image_batches
from hf_clipalign.features.reuse import KnownRows, hashes_as_tensor
from hf_clipalign.features.rows import Rows, write_rows
from hf_clipalign.features.storage.folder import ShardFolder


def walk(
    run: Extraction, begun: Begun, mine: Callable[[int], bool] = everything, way: str = "plain", progress: bool = True
) -> int:
    """Makes those shards of the plan that are this worker's and not there yet, one after the other.

    Args:
        run (`Extraction`): what is embedded.
        begun (`Begun`): how it began.
        mine (`Callable[[int], bool]`): the choice of this worker. Default: all.
        way (`str`, *optional*, defaults to `"plain"`): what its note says.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar, if the extraction shows any.

    Returns:
        `int`: how many shards there are altogether.

    Raises:
        `ClipAlignError`: an image cannot be read, and the extraction is strict; or the disk refuses.
    """
    shards = run.shards(begun)
    note = Note(run.folder, way)
    computation = Computation(run, shards, mine, run.known(shards, begun), run.progress and progress)
    for index, rows in computation.shards():
        run.check_strict(rows)
        write_rows(shards, index, rows)
        note.wrote(index, len(rows.ids) + len(rows.skipped))
    return computation.n_shards


class Computation:
    """The shards of one worker.

    Args:
        run (`Extraction`): what is embedded.
        folder (`ShardFolder`): what is there already.
        mine (`Callable[[int], bool]`): the choice of this worker.
        known (`KnownRows`): rows that are not computed again.
        progress (`bool`): show a progress bar.
    """

    def __init__(
        self, run: Extraction, folder: ShardFolder, mine: Callable[[int], bool], known: KnownRows, progress: bool
    ) -> None:
        self.run, self.plan, self.mine, self.known, self.progress = run, run.plan, mine, known, progress
        self.done = folder.done(mine)
        self.n_shards = len(self.plan.shards)
        self.num_workers = default_workers(self.plan.n_items) if run.num_workers is None else run.num_workers

    def shards(self) -> Iterator[tuple[int, Rows]]:
        """Number and content of every shard that is made; for streams, `n_shards` is right afterwards."""
        if isinstance(self.run.source, TextSource):
            return self._text_shards(self.run.source)
        return self._image_shards(self.run.source)

    def _bar(self, total: int | None, unit: str) -> tqdm:
        return tqdm(total=total, desc=f"{unit}s", unit=unit, disable=None if self.progress else True)

    def _image_shards(self, source: ImageSource | ImageStream) -> Iterator[tuple[int, Rows]]:
        if isinstance(source, ImageStream):
            jobs, total = self._stream_jobs(source), None
        else:
            chosen = self.plan.chosen(self.mine, self.done)
            jobs, total = image_jobs(self.plan, chosen, self.run.batch_size), self._n_rows(chosen)
        on_gpu = self.run.encoder.device.type == "cuda"
        batches = image_batches(source, self.run.processor, jobs, self.num_workers, on_gpu, self.known.hashes)
        with self._bar(total, "image") as bar:
            for index, group in groupby(batches, key=lambda batch: batch.shard):
                yield index, joined(self._computed(group, bar), self.run.width)

    def _computed(self, batches: Iterable[ImageBatch], bar: tqdm) -> Iterator[tuple[ImageBatch, Tensor]]:
        for batch in batches:
            fresh = None if batch.inputs is None else image_block(self.run.encoder, batch.inputs)
            yield batch, merged(self.known, batch, fresh, self.run.width)
            bar.update(batch.n_rows)

    def _stream_jobs(self, source: ImageStream) -> Iterator[ImageJob]:
        """Reads the stream from this worker's first missing shard on, and counts all shards."""
        self.n_shards = first = self._first_missing()
        records: list[StreamRecord] = []
        size = self.plan.shard_size
        row = first * size - 1
        for row, record in enumerate(source.records(first * size), start=first * size):
            shard, place = divmod(row, size)
            self.n_shards = shard + 1
            if self.mine(shard) and shard not in self.done:
                records.append(record)
                if len(records) == self.run.batch_size or place == size - 1:
                    yield ImageJob(shard, range(row + 1 - len(records), row + 1), records)
                    records = []
        if records:
            yield ImageJob(self.n_shards - 1, range(row + 1 - len(records), row + 1), records)

    def _first_missing(self) -> int:
        """Where to begin: no later than after the last shard of this worker that is there, as the end is not known."""
        after = max(self.done, default=-1) + 1
        return next((index for index in range(after) if self.mine(index) and index not in self.done), after)

    def _n_rows(self, chosen: list[int]) -> int:
        return sum(len(self.plan.rows(index)) for index in chosen)

    def _text_shards(self, source: TextSource) -> Iterator[tuple[int, Rows]]:
        chosen = self.plan.chosen(self.mine, self.done)
        with self._bar(self._n_rows(chosen), "text") as bar:
            for index in chosen:
                yield index, self._text_shard(source, self.plan.rows(index), bar)

    def _text_shard(self, source: TextSource, rows: range, bar: tqdm) -> Rows:
        run, texts = self.run, source.texts[rows.start : rows.stop]
        content = [text_hash(text) for text in texts]
        known = [hashed in self.known.hashes for hashed in content]
        wanted = [text for text, is_known in zip(texts, known, strict=True) if not is_known]
        fresh = text_block(run.encoder, wanted, run.processor, run.batch_size, run.truncate, bar)
        bar.update(len(texts) - len(wanted))
        labels = None if source.labels is None else torch.as_tensor(source.labels[rows.start : rows.stop])
        values, positions = self.known.merged(content, known, fresh), torch.arange(rows.start, rows.stop)
        return Rows(values, positions, names_of(source, rows), labels, content=hashes_as_tensor(content))


def image_jobs(plan: Plan, shards: Iterable[int], batch_size: int) -> Iterator[ImageJob]:
    """What is read for shards: batches that do not depend on who reads them."""
    for index in shards:
        rows = plan.rows(index)
        for start in range(rows.start, rows.stop, batch_size):
            yield ImageJob(index, range(start, min(start + batch_size, rows.stop)))


def merged(known: KnownRows, batch: ImageBatch, fresh: Tensor | None, width: int) -> Tensor:
    """The features `[n, w]` of a batch: those that are known, and the fresh ones of the others."""
    return known.merged(batch.content, batch.known, torch.empty(0, width) if fresh is None else fresh)


def joined(batches: Iterable[tuple[ImageBatch, Tensor]], width: int) -> Rows:
    """A shard from its batches, in their order, with the features of each."""
    shard = Rows(torch.empty(0, width), torch.empty(0, dtype=torch.int64), [])
    blocks: list[Tensor] = [shard.values]
    rows: list[int] = []
    content: list[bytes] = []
    labels: list[int] | None = []
    for batch, values in batches:
        blocks.append(values)
        rows += batch.rows
        content += batch.content
        shard.ids += batch.ids
        labels = None if labels is None or batch.labels is None else labels + batch.labels
        shard.skipped += batch.failures
    shard.values = torch.cat(blocks)
    shard.rows = torch.tensor(rows, dtype=torch.int64)
    shard.content = hashes_as_tensor(content)
    shard.labels = None if labels is None else torch.tensor(labels, dtype=torch.int64)
    return shard
