"""How far an extraction is: seen from the folder alone, without the data, the model or the processes at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_read
from hf_clipalign.features.engines.plan import Plan
from hf_clipalign.features.engines.workers import Worker, workers
from hf_clipalign.features.rows import FEATURES, skipped_in
from hf_clipalign.features.storage.folder import ShardFolder
from hf_clipalign.features.storage.headers import DamagedShard
from hf_clipalign.features.storage.shards import open_shard

_AT_LEAST_SILENT = 120.0
"""Seconds for which a worker of another machine may be silent and still count as at work."""


@dataclass(frozen=True)
class ExtractionStatus:
    """How far an extraction is.

    Args:
        complete (`bool`): the store is finished.
        done (`tuple[int, ...]`): shards that are there, by name and header; their content is proven when it is used.
        n_shards (`int`, *optional*): of the plan, None for a stream.
        n_items (`int`, *optional*): images of the plan, None for a stream.
        n_done (`int`): images of the shards that are there, with those that were skipped.
        skipped (`tuple[tuple[str, str], ...]`): name and reason of images that could not be read.
        damaged (`tuple[tuple[str, str], ...]`): file and problem of shards that will be made again.
        workers (`tuple[Worker, ...]`): who has made shards of the unfinished run.
    """

    complete: bool
    done: tuple[int, ...]
    n_shards: int | None
    n_items: int | None
    n_done: int
    skipped: tuple[tuple[str, str], ...]
    damaged: tuple[tuple[str, str], ...]
    workers: tuple[Worker, ...]

    @property
    def rate(self) -> float:
        """Images per second of the workers that are at work, as far as that can be known."""
        return sum(worker.rate for worker in self.workers if is_at_work(worker))

    @property
    def seconds_left(self) -> float | None:
        """How long the workers that are at work will take, None if that is unknown."""
        if self.n_items is None or not self.rate:
            return None
        return (self.n_items - self.n_done) / self.rate


def is_at_work(worker: Worker) -> bool:
    """Whether a worker has not ended, and has written not much longer ago than it takes for a shard."""
    if worker.ended or worker.silent is None:
        return False
    return worker.silent < max(_AT_LEAST_SILENT, 3 * worker.seconds / max(len(worker.shards), 1))


def extraction_status(folder: str | Path) -> ExtractionStatus:
    """Looks at a folder: headers of shards, the plan, and what workers have noted.

    Args:
        folder (`str` or `Path`): where a store is or will be.

    Raises:
        `ClipAlignError`: the folder holds no features, or the disk refuses.
    """
    path = Path(folder)
    stored, plan = ShardFolder.open(path, FEATURES), Plan.read(path)
    if stored is None:
        raise ClipAlignError(f"{str(path)!r} holds no features: make them with `clipalign embed IMAGES --out {path}`.")
    if stored.complete and plan is None:
        total = stored.manifest["n_rows"] + stored.manifest["n_skipped"]
        return _status(stored, range(len(stored.shards)), len(stored.shards), total, ())
    shards = stored if plan is None else stored.with_key(plan.key)
    n_shards = None if plan is None or plan.n_items is None else len(plan.shards)
    items = None if plan is None else plan.n_items
    return _status(shards, shards.present(), n_shards, items, workers(path))


def _status(
    shards: ShardFolder, present: Sequence[int], n_shards: int | None, n_items: int | None, at_work: Sequence[Worker]
) -> ExtractionStatus:
    done: list[int] = []
    skipped: list[tuple[str, str]] = []
    damaged: list[tuple[str, str]] = []
    n_done = 0
    for index in present:
        file = shards.file(index)
        try:
            with explained_read(file):
                n_rows, unreadable = _content(file)
        except DamagedShard as damage:
            damaged.append((file.name, str(damage)))
            continue
        done.append(index)
        skipped += unreadable
        n_done += n_rows + len(unreadable)
    return ExtractionStatus(
        complete=shards.complete,
        done=tuple(done),
        n_shards=n_shards,
        n_items=n_items,
        n_done=n_done,
        skipped=tuple(skipped),
        damaged=tuple(damaged),
        workers=tuple(at_work),
    )


def _content(file: Path) -> tuple[int, list[tuple[str, str]]]:
    """Number of features in a shard, and what it says about images that could not be read."""
    try:
        shard = open_shard(file)
    except FileNotFoundError:
        raise DamagedShard("it is missing") from None
    FEATURES.check_columns(shard.tensors)
    return len(shard.tensors["values"]), skipped_in(shard)
