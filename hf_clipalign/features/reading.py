"""Images read and processed in worker processes, batch by batch, in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import ImageSource, ImageStream, read_image
from hf_clipalign.data.images.streams import StreamRecord
from hf_clipalign.features.ranks import local_world_size

_FEW_IMAGES = 256
_MOST_WORKERS = 8


class ImageJob(NamedTuple):
    """What a worker is asked for: rows of one shard, and for streams their undecoded images."""

    shard: int
    rows: Sequence[int]
    records: list[StreamRecord] | None = None


class ImageBatch(NamedTuple):
    """What a worker gives back.

    Attributes:
        shard (`int`): the shard of the job.
        n_rows (`int`): how many rows were asked for.
        rows, ids, labels: position, name and class of the images that could be read.
        inputs (`dict`, *optional*): what the image tower takes, None if no image could be read.
        failures (`list[tuple[str, str]]`): name and reason of the others.
    """

    shard: int
    n_rows: int
    rows: list[int]
    ids: list[str]
    labels: list[int] | None
    inputs: dict[str, Any] | None
    failures: list[tuple[str, str]]


def image_batches(
    source: ImageSource | ImageStream,
    processor: Any,
    jobs: Iterable[ImageJob],
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[ImageBatch]:
    """Does the jobs in their order; streams are read here, in the main process, decoded in the workers."""
    yield from DataLoader(
        _ImageReader(source, processor),
        batch_size=None,
        sampler=jobs,
        num_workers=num_workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
    )


def default_workers(n_images: int | None) -> int:
    """None for few images, else this process's share of the cores but one, at most 8."""
    if n_images is not None and n_images < _FEW_IMAGES:
        return 0
    return max(1, min(_MOST_WORKERS, (os.cpu_count() or 2) // local_world_size() - 1))


class _ImageReader(Dataset):
    """What a worker does. Failures travel back as text."""

    def __init__(self, source: ImageSource | ImageStream, processor: Any) -> None:
        self.source = source if isinstance(source, ImageSource) else None
        self.name = source.name
        self.image_processor = getattr(processor, "image_processor", processor)

    def __getitem__(self, job: ImageJob) -> ImageBatch:
        records = self._records(job)
        images, kept, failures = [], [], []
        for place, record in enumerate(records):
            try:
                images.append(self._read(job.rows[place], record))
                kept.append(place)
            except ClipAlignError as error:
                failures.append((record.id, str(error)))
        labels = None if records[0].label is None else [int(records[place].label) for place in kept]  # type: ignore[arg-type]
        return ImageBatch(
            shard=job.shard,
            n_rows=len(records),
            rows=[job.rows[place] for place in kept],
            ids=[records[place].id for place in kept],
            labels=labels,
            inputs=self._inputs(images) if images else None,
            failures=failures,
        )

    def _records(self, job: ImageJob) -> list[StreamRecord]:
        if job.records is not None:
            return job.records
        assert self.source is not None
        ids, labels = self.source.ids, self.source.labels
        return [StreamRecord(ids[row], None, None if labels is None else int(labels[row])) for row in job.rows]

    def _read(self, row: int, record: StreamRecord) -> Any:
        if self.source is not None:
            return self.source.read(row)
        return read_image(record.item, name=f"{self.name}, row {record.id}")

    def _inputs(self, images: list[Any]) -> dict[str, Any]:
        # arrays with a stated layout: an image one pixel wide or high has no layout that could be guessed
        arrays = [np.asarray(image) for image in images]
        return dict(self.image_processor(images=arrays, input_data_format="channels_last", return_tensors="pt"))


def _unchanged(batch: Any) -> Any:
    return batch
