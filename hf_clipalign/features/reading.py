"""Images read and processed in worker processes, batch by batch, in order."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import stat
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import ImageSource, ImageStream, read_image
from hf_clipalign.data.images.processing import process_images, reduce_image
from hf_clipalign.data.images.streams import StreamRecord
from hf_clipalign.features.content import content_hash
from hf_clipalign.features.ranks import local_world_size

_FEW_IMAGES = 256
_MOST_WORKERS = 8
_PR_SET_PDEATHSIG = 1
_MOST_BYTES = 2**28  # larger files are read piece by piece, and have no hash
_ENDING = {signal.SIGTERM, signal.SIGINT}


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
        content (`list[bytes]`): hash of the undecoded image of each, zeros where it has none.
        known (`list[bool]`): which of them are not decoded, as their features are known.
        inputs (`dict`, *optional*): what the image tower takes for the others, None if there are none.
        failures (`list[tuple[str, str]]`): name and reason of those that could not be read.
    """

    shard: int
    n_rows: int
    rows: list[int]
    ids: list[str]
    labels: list[int] | None
    content: list[bytes]
    known: list[bool]
    inputs: dict[str, Any] | None
    failures: list[tuple[str, str]]


def image_batches(
    source: ImageSource | ImageStream,
    processor: Any,
    jobs: Iterable[ImageJob],
    num_workers: int,
    pin_memory: bool = False,
    known: Collection[bytes] = (),
) -> Iterator[ImageBatch]:
    """Does the jobs in their order; streams are read here, in the main process, decoded in the workers.

    Args:
        source, processor: the images, and what makes them inputs of the tower.
        jobs (`Iterable[ImageJob]`): what to read.
        num_workers (`int`): processes that read.
        pin_memory (`bool`, *optional*, defaults to `False`): for copies to an accelerator.
        known (`Collection[bytes]`): hashes of images that need not be decoded.

    Raises:
        `ClipAlignError`: if a worker process was ended from outside.
    """
    loader = DataLoader(
        ImageReader(source, processor, known),
        batch_size=None,
        sampler=jobs,
        num_workers=check_integer("num_workers", num_workers, least=0),
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_begin_worker if num_workers else None,
    )
    with _undisturbed():
        batches = iter(loader)
    try:
        yield from batches
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise ClipAlignError(
            f"a process that reads images of {source.name} was ended from outside, most often for lack of memory: "
            "run the same again to resume, with fewer of them (num_workers)"
        ) from error
    finally:
        getattr(batches, "_shutdown_workers", lambda: None)()  # the traceback of an error would keep them


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Workers are begun before a signal to end is acted on, so that whoever acts on it knows all of them.

    A dead worker is found where its batch is waited for, and not at any line that runs when torch gets the signal.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGCHLD)}
    for number in _ENDING:  # another thread may take a signal that this one blocks
        if before[number] is not None:
            signal.signal(number, lambda one, _: came.append(one))
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # workers inherit this, and keep a signal until they are ready
    try:
        yield
    finally:
        is_torch = str(getattr(before[signal.SIGCHLD], "__module__", "")).startswith("torch.utils.data")
        if is_torch:  # of another loader
            before[signal.SIGCHLD] = signal.SIG_DFL
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        for one in came:
            signal.raise_signal(one)


def _begin_worker(_: int) -> None:
    """A worker ends at once on request, and, on Linux, when the process that it works for is no more.

    Ctrl-C reaches it, too, but it is for the process that it works for to act on.
    """
    sys.excepthook = _report_unless_cut_off
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if (parent := multiprocessing.parent_process()) is not None and os.getppid() != parent.pid:
            os.kill(os.getpid(), signal.SIGKILL)  # it ended before this process could ask for the signal


def _report_unless_cut_off(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Reports an error of the thread that hands over tensors, unless the process that takes them has hung up.

    That happens when it ends meanwhile; where it fails for another reason, it reports that itself.
    """
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def default_workers(n_images: int | None) -> int:
    """None for few images, else this process's share of the cores but one, at most 8."""
    if n_images is not None and n_images < _FEW_IMAGES:
        return 0
    return max(1, min(_MOST_WORKERS, (os.cpu_count() or 2) // local_world_size() - 1))


class ImageReader(Dataset):
    """What a worker does. Failures travel back as text."""

    def __init__(self, source: ImageSource | ImageStream, processor: Any, known: Collection[bytes]) -> None:
        self.source = source if isinstance(source, ImageSource) else None
        self.known = known
        self.name = source.name
        self.image_processor = getattr(processor, "image_processor", processor)

    def __getitem__(self, job: ImageJob) -> ImageBatch:
        records = self._records(job)
        kept: dict[int, bytes] = {}
        failures: list[tuple[str, str]] = []
        inputs = process_images(self.image_processor, self._images(job, records, kept, failures))
        labels = None if records[0].label is None else [int(records[place].label) for place in kept]  # type: ignore[arg-type]
        return ImageBatch(
            shard=job.shard,
            n_rows=len(records),
            rows=[job.rows[place] for place in kept],
            ids=[records[place].id for place in kept],
            labels=labels,
            content=list(kept.values()),
            known=[hashed in self.known for hashed in kept.values()],
            inputs=inputs,
            failures=failures,
        )

    def _images(
        self, job: ImageJob, records: list[StreamRecord], kept: dict[int, bytes], failures: list[tuple[str, str]]
    ) -> Iterator[Image.Image]:
        """The images that can be read and are not known, one at a time, each as small as the processor lets it be.

        Places and hashes of all that have features go to `kept`.
        """
        for place, record in enumerate(records):
            try:
                item = record.item if self.source is None else self.source.items[job.rows[place]]
                raw = _file_content(item)
                hashed = content_hash(item if raw is None else raw)
                image = None if hashed in self.known else self._reduced(item, record.id, raw)
            except ClipAlignError as error:
                failures.append((record.id, str(error)))
                continue
            kept[place] = hashed
            if image is not None:
                yield image

    def _reduced(self, item: Any, row_id: str, raw: bytes | None) -> Image.Image:
        """The image of an item, or of the bytes of its file, which are the ones that were hashed."""
        name = f"{self.name}, row {row_id}"
        if self.source is not None and isinstance(item, str):
            name = item
        if raw is None:
            image = read_image(item, name=name)
        else:
            path = str(item["path"] if isinstance(item, dict) else item)
            image = read_image(raw, name=printable(path if name == path else f"{name} ({path})"))
        return reduce_image(image, self.image_processor)

    def _records(self, job: ImageJob) -> list[StreamRecord]:
        if job.records is not None:
            return job.records
        assert self.source is not None
        ids, labels = self.source.ids, self.source.labels
        return [StreamRecord(ids[row], None, None if labels is None else int(labels[row])) for row in job.rows]


def _file_content(item: Any) -> bytes | None:
    """The bytes of a file of moderate size; None if the item is none, or it is for `read_image` to say why not."""
    path = item.get("path") if isinstance(item, dict) and item.get("bytes") is None else item
    if not isinstance(path, (str, os.PathLike)):
        return None
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        with open(path, "rb") as stream:
            return stream.read()
    except (OSError, ValueError):
        return None


def _unchanged(batch: Any) -> Any:
    return batch
