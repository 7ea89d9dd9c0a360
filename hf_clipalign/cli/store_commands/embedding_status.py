"""`clipalign embed --status`: how far an extraction is."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from hf_clipalign.cli.options import console, warn

if TYPE_CHECKING:
    from hf_clipalign.features.engines.status import ExtractionStatus
    from hf_clipalign.features.engines.workers import Worker

_MOST_SKIPPED, _MOST_SHARES = 20, 8
_SHARE = re.compile(r"share \d+/(\d+)")
"""How a worker of one share is noted."""
_UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def show_status(out: Path) -> None:
    """Prints what is done, by whom and how fast, what is left, and what was skipped and why.

    Args:
        out (`Path`): the folder.

    Raises:
        `ClipAlignError`: it holds no features, or cannot be read.
    """
    from hf_clipalign.features.engines.status import extraction_status

    status = extraction_status(out)
    console.print(f"{out}: {_progress(status)}", soft_wrap=True)
    if status.workers:
        console.print(_table(status.workers))
    if not status.complete:
        console.print(_what_is_left(status), soft_wrap=True)
    for name, problem in status.damaged:
        warn("damaged", f"{name}: {problem}; it will be made again")
    for name, reason in status.skipped[:_MOST_SKIPPED]:
        warn("skipped", f"{name}: {reason}")
    if len(status.skipped) > _MOST_SKIPPED:
        warn("skipped", f"{len(status.skipped) - _MOST_SKIPPED:,} others")


def _progress(status: ExtractionStatus) -> str:
    skipped = f", {len(status.skipped):,} of them skipped" if status.skipped else ""
    if status.complete:
        return f"complete, {status.n_done:,} images in {len(status.done):,} shards{skipped}"
    shards, images = _part(len(status.done), status.n_shards), _part(status.n_done, status.n_items)
    return f"unfinished, {shards} shards are there, {images} images{skipped}"


def _part(number: int, total: int | None) -> str:
    return f"{number:,}" if total is None else f"{number:,} of {total:,}"


def _table(workers: tuple[Worker, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("worker", "process", "shards", "images/s", "state"):
        table.add_column(column, justify="right" if column in ("shards", "images/s") else "left")
    for worker in workers:
        table.add_row(worker.way, worker.name, str(len(worker.shards)), f"{worker.rate:,.1f}", _state(worker))
    return table


def _state(worker: Worker) -> str:
    if worker.ended:
        return "has ended"
    return "unknown" if worker.silent is None else f"wrote {duration(worker.silent)} ago"


def _what_is_left(status: ExtractionStatus) -> str:
    twice = [shard for shard, n in Counter(shard for one in status.workers for shard in one.shards).items() if n > 1]
    again = f" ({len(twice)} shards were made twice)" if twice else ""
    if status.n_shards is not None and len(status.done) == status.n_shards:
        return f"all shards are there: run the same command once more, to finish the store{again}"
    if status.seconds_left is None:
        return f"no worker is known to be at work: {_command_for_the_rest(status)}{again}"
    return f"about {duration(status.seconds_left)} left at {status.rate:,.1f} images/s{again}"


def _command_for_the_rest(status: ExtractionStatus) -> str:
    """What makes the shards that are missing: the same command, unless it was of a share that is done."""
    shares = [_SHARE.fullmatch(worker.way) for worker in status.workers]
    counts = {int(share[1]) for share in shares if share}
    if not counts or status.n_shards is None:
        return "run the same command again, to resume"
    whole = "without --shard, to make all that is missing"
    if len(counts) > 1:
        return f"run the same command {whole}"
    (count,) = counts
    left = sorted({shard % count + 1 for shard in set(range(status.n_shards)) - set(status.done)})
    shown = ", ".join(f"--shard {share}/{count}" for share in left[:_MOST_SHARES])
    more = f" and {len(left) - _MOST_SHARES:,} others" if len(left) > _MOST_SHARES else ""
    each = "each of " if len(left) > 1 else ""
    return f"run the same command with {each}{shown}{more}, or {whole}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them, such as "3.5 hours"."""
    size, unit = next((one for one in _UNITS if seconds >= 2 * one[0]), _UNITS[-1])
    value = seconds / size
    return f"{value:.1f} {unit}" if value < 10 and unit != "seconds" else f"{value:.0f} {unit}"
