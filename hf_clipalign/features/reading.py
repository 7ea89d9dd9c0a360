"""Images read and processed in worker processes, batch by batch, in order."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import ImageSource, ImageStream, read_image
from hf_clipalign.data.images.processing import process_images, reduce_image
from hf_clipalign.data.images.streams import StreamRecord
from hf_clipalign.features.ranks import local_world_size

_FEW_IMAGES = 256
_MOST_WORKERS = 8
_PR_SET_PDEATHSIG = 1


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
    """Does the jobs in their order; streams are read here, in the main process, decoded in the workers.

    Raises:
        [`ClipAlignError`]: if a worker process was ended from outside.
    """
    loader = DataLoader(
        _ImageReader(source, processor),
        batch_size=None,
        sampler=jobs,
        num_workers=num_workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_begin_worker if num_workers else None,
    )
    with _no_errors_from_signals():
        batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ClipAlignError(
                f"a process that reads images of {source.name} was ended from outside, most often for lack of memory: "
                "run the same again to resume, with fewer of them (num_workers, --workers)"
            ) from error
        yield batch


@contextmanager
def _no_errors_from_signals() -> Iterator[None]:
    """Has a dead worker found where its batch is waited for, and not at any line that runs when the signal comes."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if is_main and hasattr(signal, "SIGCHLD") else None
    yield
    if before is not None:
        signal.signal(signal.SIGCHLD, before)


def _begin_worker(_: int) -> None:
    """A worker ends at once when it is told to, and, on Linux, when the process that it works for is no more."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if (parent := multiprocessing.parent_process()) is not None and os.getppid() != parent.pid:
            os.kill(os.getpid(), signal.SIGKILL)  # it ended before this process could ask for the signal


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
        kept: list[int] = []
        failures: list[tuple[str, str]] = []
        inputs = process_images(self.image_processor, self._images(job, records, kept, failures))
        labels = None if records[0].label is None else [int(records[place].label) for place in kept]  # type: ignore[arg-type]
        return ImageBatch(
            shard=job.shard,
            n_rows=len(records),
            rows=[job.rows[place] for place in kept],
            ids=[records[place].id for place in kept],
            labels=labels,
            inputs=inputs,
            failures=failures,
        )

    def _images(
        self, job: ImageJob, records: list[StreamRecord], kept: list[int], failures: list[tuple[str, str]]
    ) -> Iterator[Image.Image]:
        """The images that can be read, one at a time, each as small as the processor lets it be."""
        for place, record in enumerate(records):
            try:
                image = reduce_image(self._read(job.rows[place], record), self.image_processor)
            except ClipAlignError as error:
                failures.append((record.id, str(error)))
            else:
                kept.append(place)
                yield image

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


def _unchanged(batch: Any) -> Any:
    return batch
