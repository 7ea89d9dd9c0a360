"""One extraction, as every engine sees it: what is embedded, how it begins in a folder, and how it is finished."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import hf_clipalign
from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.tensors import parse_dtype
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, as_dual_encoder
from hf_clipalign.data import Captions, ImageSource, ImageStream, TextSource, open_source, open_stream
from hf_clipalign.features.description import describe_image_processor, describe_model, describe_tokenizer
from hf_clipalign.features.engines.plan import PLAN_FILE, Plan, Source
from hf_clipalign.features.engines.workers import at_work, remove_notes
from hf_clipalign.features.reuse import KnownRows, change, may_reuse
from hf_clipalign.features.rows import FEATURES, LAYOUT, Rows, finish_rows
from hf_clipalign.features.storage.folder import ShardFolder, remove_store
from hf_clipalign.features.storage.manifest import differences, is_earlier
from hf_clipalign.features.store import FeatureStore

logger = logging.getLogger(__name__)

_DTYPES = ("float32", "bfloat16", "float16")


def everything(_: int) -> bool:
    """The choice of a worker that makes every shard."""
    return True


@dataclass(frozen=True)
class Begun:
    """What a run found in its folder.

    Args:
        description (`dict`): of the run, what its manifest says.
        complete (`bool`): the store is there, nothing is to be done.
        reuses (`bool`): rows of an earlier run in the folder can be used again.
    """

    description: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    reuses: bool = False


class Extraction:
    """What is embedded, by what, to where: the arguments of `extract_to_store`, checked.

    Args:
        model, source, processor, folder: see `extract_to_store`, as all that follow.
    """

    def __init__(
        self,
        model: Any,
        source: Any,
        processor: Any,
        folder: str | Path,
        *,
        shard_size: int,
        batch_size: int,
        num_workers: int | None,
        strict: bool,
        truncate: bool,
        dtype: str | torch.dtype | None,
        model_name: str | None,
        progress: bool,
    ) -> None:
        self.folder, self.given, self.processor = Path(folder), as_dual_encoder(model), processor
        self.shard_size = check_integer("shard_size", shard_size)
        self.batch_size = check_integer("batch_size", batch_size)
        self.dtype = self.given.dtype if dtype is None else parse_dtype(dtype, *_DTYPES)
        self.source = _as_source(source)
        self.num_workers, self.strict, self.truncate, self.progress = num_workers, strict, truncate, progress
        self.model_name = model_name
        self.share: tuple[int, int] | None = None

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the manifest says: the model, the processor and the data."""
        source, is_text = self.source, isinstance(self.source, TextSource)
        processor = (
            describe_tokenizer(self.processor, self.truncate) if is_text else describe_image_processor(self.processor)
        )
        return {
            "created_by": f"hf_clipalign {hf_clipalign.__version__}",
            "complete": False,
            "modality": "text" if is_text else "image",
            "width": self.given.projector("text" if is_text else "image").matrix.shape[1],
            "model": describe_model(self.given, self.model_name, self.dtype),
            "processor": processor,
            "data": {"name": source.name, "fingerprint": source.fingerprint()},
            "class_names": source.class_names,
            "shard_size": self.shard_size,
            "batch_size": self.batch_size,
        }

    @property
    def width(self) -> int:
        """Dimensions of a feature."""
        return self.description["width"]

    @cached_property
    def plan(self) -> Plan:
        """Which rows make which shard."""
        return Plan.of(self.source, FEATURES.key(self.description), self.shard_size)

    @cached_property
    def encoder(self) -> DualEncoder:
        """The encoder that computes: the given one, or a copy of another type; the caller's stays as it is."""
        if self.dtype == self.given.dtype:
            return self.given
        return as_dual_encoder(copy.deepcopy(self.given.model).to(self.dtype))

    def begin(self, overwrite: bool = False, mine: Callable[[int], bool] = everything) -> Begun:
        """Sees what the folder holds, and leaves the manifest and the plan of a run in it, unless it is complete.

        Only while the folder is held.

        Args:
            overwrite (`bool`, *optional*, defaults to `False`): remove what the folder holds first.
            mine (`Callable[[int], bool]`): which shards of a complete store are compared with their checksums.

        Raises:
            `ClipAlignError`: the folder holds something else.
        """
        if overwrite:
            self._remove_all()
        wanted, stored = self.description, ShardFolder.open(self.folder, FEATURES)
        if stored is None:
            ShardFolder.create(self.folder, FEATURES, wanted)
            self._write_plan()
            return Begun(wanted)
        found = differences(FEATURES, stored.manifest, wanted)
        layout = [name for name in LAYOUT if found.pop(name, None)]
        reuses = list(found) == ["data.fingerprint"] and may_reuse(stored, wanted)
        if found and not reuses:
            raise ClipAlignError(
                f"{str(self.folder)!r} holds other features; what differs: {'; '.join(found.values())}. Use another "
                "folder, or replace them with overwrite=True."
            )
        if not found and stored.complete and not (damaged := stored.damaged(mine)):
            self._tidy(stored)
            return Begun(wanted, complete=True)
        if not found and (layout or is_earlier(stored.manifest)):
            state = f"damaged ({damaged[0]})" if stored.complete else "unfinished"
            begun = ", ".join(f"{name}={stored.manifest[name]}" for name in layout) or "an earlier version"
            raise ClipAlignError(
                f"the features in {str(self.folder)!r} are {state} and were begun with {begun}: resume with the same, "
                "or begin again with overwrite=True."
            )
        self._write_plan()
        return Begun(wanted, reuses=reuses)

    def shards(self, begun: Begun) -> ShardFolder:
        """The shards of the run."""
        return ShardFolder.describe(self.folder, FEATURES, begun.description)

    def known(self, shards: ShardFolder, begun: Begun) -> KnownRows:
        """The rows of earlier runs that need not be computed."""
        return KnownRows.of(shards) if begun.reuses else KnownRows()

    def finish(self, begun: Begun, n_shards: int, proven: ShardFolder | None = None) -> None:
        """Makes the store complete; only while the folder is held. A second time changes nothing.

        Args:
            begun (`Begun`): how the run began.
            n_shards (`int`): how many shards there are.
            proven (`ShardFolder`, *optional*): the shards, if they were compared with their checksums just now.
        """
        shards = proven or self.shards(begun)
        report = change(shards, n_shards) if begun.reuses else None
        self._tidy(finish_rows(shards, n_shards))
        if report:
            logger.warning("%s: %s", shards.path, report)

    def check_strict(self, rows: Rows) -> None:
        """Refuses the first image that cannot be read, if the extraction is strict."""
        if self.strict and rows.skipped:
            raise ClipAlignError(rows.skipped[0][1])

    def opened(self) -> FeatureStore:
        """The complete store, with at least one row; all of them if `strict`."""
        store = FeatureStore.open(self.folder)
        if self.strict and store.n_skipped:
            raise ClipAlignError(store.skipped[0][1])
        if len(store) == 0:
            reason = f"; the first reason: {store.skipped[0][1]}" if store.n_skipped else ""
            raise ClipAlignError(f"none of the {store.n_skipped} images can be read{reason}")
        return store

    def _write_plan(self) -> None:
        """Writes the plan, unless the same is there; one of other data is replaced if nobody works on it."""
        stored = Plan.read(self.folder)
        if stored == self.plan:
            return
        if stored is not None:
            problem = stored.difference(self.plan)
            if stored.key == self.plan.key:
                raise ClipAlignError(
                    f"the plan in {str(self.folder)!r} is of other images, though their fingerprint is the same "
                    f"({problem}): begin again with overwrite=True."
                )
            if busy := at_work(self.folder, self.share):
                raise ClipAlignError(
                    f"{str(self.folder)!r} is being filled by another plan ({problem or 'the same images, changed'}; "
                    f"{busy} is at work): give every worker the same data, or use another folder."
                )
        self.plan.write(self.folder)

    def _remove_all(self) -> None:
        remove_store(self.folder, FEATURES)
        (self.folder / PLAN_FILE).unlink(missing_ok=True)
        remove_notes(self.folder)

    def _tidy(self, stored: ShardFolder) -> None:
        """Leaves nothing beside a complete store."""
        stored.remove_others()
        (self.folder / PLAN_FILE).unlink(missing_ok=True)
        remove_notes(self.folder)


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
