"""The stages of an extraction on Ray: actors that read and decode, and actors that run the tower.

A stage takes rows and gives rows, each with one batch of a shard as bytes. Batches are those of every other engine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign.backbones import DualEncoder
from hf_clipalign.data import ImageSource
from hf_clipalign.features.engines.plan import Plan
from hf_clipalign.features.in_memory import image_block
from hf_clipalign.features.reading import ImageBatch, ImageJob, ImageReader
from hf_clipalign.features.storage.shards import own_copies

_BATCH = "batch"
_MOST_ATTEMPTS = 3

Row = dict[str, Any]
"""`shard`, `place` of the batch in it, `n_places`, `data`, and `error`, empty if all is well."""


class Attempts:
    """Counts how often a piece of work was begun: one that ends its process each time must not be begun for ever."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def begin(self, work: str) -> int:
        """How often it was begun, this time included."""
        self._counts[work] += 1
        return self._counts[work]


class Stage:
    """What both stages share: errors become rows, and work that ends the process is given up.

    What a stage holds travels once to each node, and is fetched with the first row: an error of it is a row, too.

    Args:
        attempts: the actor `Attempts`.
        held: reference to what the stage holds.
    """

    work = ""

    def __init__(self, attempts: Any, held: Any) -> None:
        self.attempts, self._held = attempts, held

    @cached_property
    def held(self) -> Any:
        """What the stage holds, here."""
        import ray

        return ray.get(self._held)

    def _check_attempts(self, row: Row) -> None:
        import ray

        work = f"{self.work} {row['shard']} {row['place']}"
        if ray.get(self.attempts.begin.remote(work)) > _MOST_ATTEMPTS:
            raise RuntimeError(
                f"{_MOST_ATTEMPTS} processes in turn ended while {self.work} it, most often for lack of memory"
            )


class Reader(Stage):
    """Reads and decodes the images of a shard, and gives a row for each batch.

    Args:
        attempts: the actor `Attempts`.
        held: reference to the source (without images if the rows bring them), the image processor, and the hashes of
            images that need not be decoded.
        batch_size (`int`): images of a batch.
    """

    work = "reading"

    def __init__(self, attempts: Any, held: Any, batch_size: int) -> None:
        super().__init__(attempts, held)
        torch.set_num_threads(1)
        self.batch_size = batch_size

    def __call__(self, row: Row) -> Iterator[Row]:
        """One row, with the rows of a shard, becomes one for each of its batches."""
        shard = int(row["shard"])
        try:
            self._check_attempts({"shard": shard, "place": 0})
            shell, processor, known = self.held
            source, first, rows = _part(shell, row)
            reader = ImageReader(source, processor, known)
            starts = range(0, len(rows), self.batch_size)
            for place, start in enumerate(starts):
                here = rows[start : start + self.batch_size]
                batch = reader[ImageJob(shard, here)]
                batch = batch._replace(rows=[number + first for number in batch.rows])
                yield _row(shard, place, len(starts), pack(batch._replace(inputs=None), batch.inputs or {}))
        except Exception as error:
            yield failed(shard, error)


class Tower(Stage):
    """Runs the image tower over a batch.

    Args:
        attempts: the actor `Attempts`.
        held: reference to the `DualEncoder`, on the CPU.
        device (`str`): where to compute.
        threads (`int`): threads of torch, on which the last bits depend.
    """

    work = "computing"

    def __init__(self, attempts: Any, held: Any, device: str, threads: int) -> None:
        super().__init__(attempts, held)
        torch.set_num_threads(threads)
        self.device = device

    @cached_property
    def encoder(self) -> DualEncoder:
        """The encoder on its device."""
        encoder = self.held
        encoder.model.to(self.device)
        return encoder

    def __call__(self, row: Row) -> Row:
        """A row with inputs of the tower becomes one with features."""
        if row["error"]:
            return row
        try:
            self._check_attempts(row)
            batch, inputs = unpack(row["data"])
            tensors = {"features": image_block(self.encoder, inputs)} if inputs else {}
            return _row(int(row["shard"]), int(row["place"]), int(row["n_places"]), pack(batch, tensors))
        except Exception as error:
            return failed(int(row["shard"]), error)


def source_rows(source: ImageSource, plan: Plan, shards: list[int]) -> tuple[ImageSource, list[Row]]:
    """What the readers hold, and the row of each shard.

    Images that are files travel as their paths, each with its shard. Other sources are held by every reader.
    """
    is_listed = isinstance(source.items, list) and all(isinstance(item, str) for item in source.items)
    rows: list[Row] = []
    for shard in shards:
        here = plan.rows(shard)
        part = (
            ""
            if not is_listed
            else json.dumps(
                {
                    "items": source.items[here.start : here.stop],
                    "ids": source.ids[here.start : here.stop],
                    "labels": None if source.labels is None else source.labels[here.start : here.stop].tolist(),
                }
            )
        )
        rows.append({"shard": shard, "first": here.start, "end": here.stop, "part": part})
    return (ImageSource([], ids=[], name=source.name) if is_listed else source), rows


def _part(shell: ImageSource, row: Row) -> tuple[ImageSource, int, range]:
    """The source of a row, the position of its first image, and the positions to read."""
    first, end = int(row["first"]), int(row["end"])
    if not row["part"]:
        return shell, 0, range(first, end)
    part = json.loads(row["part"])
    labels = None if part["labels"] is None else np.asarray(part["labels"], dtype=np.int64)
    return ImageSource(part["items"], ids=part["ids"], labels=labels, name=shell.name), first, range(end - first)


def pack(batch: ImageBatch, tensors: Mapping[str, Tensor]) -> bytes:
    """A batch and its tensors as bytes."""
    about = {**batch._asdict(), "content": [hashed.hex() for hashed in batch.content], "inputs": None}
    return save(own_copies(tensors), {_BATCH: json.dumps(about)})


def unpack(data: bytes) -> tuple[ImageBatch, dict[str, Tensor]]:
    """The inverse of `pack`."""
    length = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_BATCH])
    about["content"] = [bytes.fromhex(hashed) for hashed in about["content"]]
    about["failures"] = [(name, reason) for name, reason in about["failures"]]
    return ImageBatch(**about), load(data)


def failed(shard: int, error: Exception) -> Row:
    """The row of a shard that cannot be made."""
    return {**_row(shard, 0, 0, b""), "error": f"{type(error).__name__}: {short_reason(error)}"}


def _row(shard: int, place: int, n_places: int, data: bytes) -> Row:
    return {"shard": shard, "place": place, "n_places": n_places, "data": data, "error": ""}
