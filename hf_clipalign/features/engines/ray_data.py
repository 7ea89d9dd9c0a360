"""An extraction on Ray Data: CPU actors read and decode, others run the tower, and this process writes the shards."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import ImageSource
from hf_clipalign.features.engines.computing import joined, merged
from hf_clipalign.features.engines.extraction_run import Begun, Extraction, everything
from hf_clipalign.features.engines.ray_cluster import check_address, check_nodes, connected, cpu_share, imported_ray
from hf_clipalign.features.engines.ray_stages import Attempts, Reader, Row, Tower, source_rows, unpack
from hf_clipalign.features.engines.workers import Note, refuse_shares, whole_lock
from hf_clipalign.features.ranks import launched
from hf_clipalign.features.reading import ImageBatch
from hf_clipalign.features.rows import write_rows
from hf_clipalign.features.store import FeatureStore

logger = logging.getLogger(__name__)

_ROUNDS = 3
"""How often a shard is tried before it is given up."""
_MOST_BLOCKS = 10_000
_MOST_BROKEN_STARTS = 8


def extract_with_ray(
    model: Any,
    source: Any,
    processor: Any,
    path: str | Path,
    *,
    num_workers: int | None,
    address: str | None = None,
    num_readers: int | None = None,
    device: str | None = None,
    shard_size: int = 4096,
    batch_size: int = 64,
    strict: bool = False,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
    model_name: str | None = None,
    progress: bool = True,
) -> FeatureStore:
    """Makes the store of `extract_to_store` on a Ray cluster, with the same bytes.

    The shards of the plan are the rows of a Ray data set. CPU actors read and decode the images, others run the tower,
    on a GPU each if there are any, and this process writes the shards as their batches arrive. Ray holds readers back
    that are ahead, starts actors again whose process or node has died, and gives their work to others. A shard that
    fails is tried three times, while all others are made; then it is named, and the next run makes it alone. What any
    engine has begun, `extract_to_store`, `extract_share`, `torchrun` or Ray, every other one resumes.

    Nodes read images under the same paths as this process, and need the same versions of the package, torch,
    transformers and pillow. The folder need only be there on this machine. The bytes are those of `extract_to_store`
    on the same kind of processor with as many threads of torch as this process has (`OMP_NUM_THREADS`).

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode; it travels to the actors.
        source (`ImageSource` or what `open_source` takes): the images, in an order that does not change; no stream.
        processor (`ProcessorMixin` or image processor): the checkpoint's processor.
        path (`str` or `Path`): the folder of the store.
        num_workers (`int`, *optional*): actors that run the tower. None: one for each GPU, without GPUs one for each
            node of the cluster.
        address (`str`, *optional*): of a running cluster, `"10.0.0.1:6379"`, or `"auto"` for the one that this machine
            belongs to. Default: what `RAY_ADDRESS` says, else a cluster of this machine alone, until the end.
        num_readers (`int`, *optional*): actors that read. Default: half as many as `num_workers`; with GPUs all CPUs
            but one for each worker.
        device (`str`, *optional*): where the tower computes: `"cuda"`, `"cpu"`, or `"auto"` for GPUs if the cluster
            has any. Default: where the model is.
        shard_size (`int`, *optional*, defaults to `4,096`): rows of the source in one file.
        batch_size (`int`, *optional*, defaults to `64`): images per pass.
        strict (`bool`, *optional*, defaults to `False`): raise at the first image that cannot be read.
        dtype (`str` or `torch.dtype`, *optional*): what to compute in. Default: the model's own type.
        overwrite (`bool`, *optional*, defaults to `False`): remove what the folder holds first, and reuse nothing.
        model_name (`str`, *optional*): what to call the model. Default: where it was loaded from.
        progress (`bool`, *optional*, defaults to `True`): show Ray's progress bars.

    Returns:
        `FeatureStore`: the complete store.

    Raises:
        `ClipAlignError`: as `extract_to_store`; Ray is not installed, its address does not answer, a node has other
            versions; or shards could not be made, of which the first is named with its images and the reason.

    Example:
        ```python
        >>> from hf_clipalign.features import extract_with_ray
        >>> store = extract_with_ray(model, "photos", processor, "with_ray", num_workers=1, progress=False)
        >>> len(store)
        12
        ```
    """
    imported_ray()
    run = Extraction(
        model,
        source,
        processor,
        path,
        shard_size=shard_size,
        batch_size=batch_size,
        num_workers=0,
        strict=strict,
        truncate=False,
        dtype=dtype,
        model_name=model_name,
        progress=progress,
    )
    if num_workers is not None:
        check_integer("num_workers", num_workers)
    if launched():
        raise ClipAlignError("Ray starts its processes itself: leave out either the launcher (torchrun) or Ray.")
    if not isinstance(run.source, ImageSource):
        raise ClipAlignError(
            f"{run.source.name}: Ray embeds images whose number is known: give streams and texts to extract_to_store."
        )
    check_address(address)
    with whole_lock(run.folder):
        refuse_shares(run.folder)
        begun = run.begin(overwrite)
        if not begun.complete:
            with connected(address):
                check_nodes()
                _Walk(run, begun, num_workers, num_readers, device or run.given.device.type).walk()
            run.finish(begun, len(run.plan.shards))
    return run.opened()


class _Walk:
    """The missing shards of one extraction."""

    def __init__(
        self, run: Extraction, begun: Begun, num_workers: int | None, num_readers: int | None, device: str
    ) -> None:
        self.ray, self.run = imported_ray(), run
        self.folder = run.shards(begun)
        self.known = run.known(self.folder, begun)
        cpus = [node["Resources"].get("CPU", 0.0) for node in self.ray.nodes() if node["Alive"]]
        n_gpus = int(self.ray.cluster_resources().get("GPU", 0))
        self.on_gpu = device.startswith("cuda") or (device == "auto" and n_gpus > 0)
        if self.on_gpu and not n_gpus:
            raise ClipAlignError("the Ray cluster has no GPU: give device='cpu', or add nodes that have one.")
        self.num_workers = num_workers or (n_gpus if self.on_gpu else len(cpus))
        default = int(sum(cpus)) - self.num_workers if self.on_gpu else self.num_workers // 2
        self.num_readers = max(1, default) if num_readers is None else check_integer("num_readers", num_readers)
        # one stage alone reserves CPUs: where nodes are lost, actors of one never wait for those of the other
        self.tower_cpus = 0.0 if self.on_gpu else cpu_share(cpus, self.num_workers)
        self.reader_cpus = cpu_share(cpus, self.num_readers) if self.on_gpu else 0.0
        self.note = Note(run.folder, f"Ray, {self.num_workers} workers")
        self.reasons: dict[int, str] = {}
        self.broken: str | None = None

    def walk(self) -> None:
        """Makes all missing shards.

        Raises:
            `ClipAlignError`: some could not be made; all others are there.
        """
        todo = self.run.plan.chosen(everything, self.folder.done())
        tries: Counter[int] = Counter()
        while again := [shard for shard in todo if tries[shard] < _ROUNDS]:
            made = self._round(again)
            todo = [shard for shard in todo if shard not in made]
            is_new_start = self.broken is not None and made
            tries.update(shard for shard in again if shard in self.reasons or not (shard in made or is_new_start))
        if todo:
            raise self._not_made(todo)

    def _round(self, shards: list[int]) -> set[int]:
        """Runs the pipeline over some shards once; the ones that it made."""
        self.reasons, self.broken = {}, None
        made: set[int] = set()
        parts: dict[int, dict[int, tuple[ImageBatch, Tensor]]] = {}
        for row in self._results(shards):
            shard = row["shard"]
            if row["error"]:
                self.reasons[shard] = row["error"]
                parts.pop(shard, None)
                logger.warning("shard %d cannot be made: %s", shard, row["error"])
                continue
            batch, tensors = unpack(row["data"])
            here = parts.setdefault(shard, {})
            here[row["place"]] = batch, merged(self.known, batch, tensors.get("features"), self.run.width)
            if len(here) == row["n_places"] and shard not in made:
                self._write(shard, [values for _, values in sorted(here.items())])
                del parts[shard]
                made.add(shard)
        self.reasons = {shard: reason for shard, reason in self.reasons.items() if shard not in made}
        return made

    def _write(self, shard: int, batches: list[tuple[ImageBatch, Tensor]]) -> None:
        rows = joined(batches, self.run.width)
        self.run.check_strict(rows)
        write_rows(self.folder, shard, rows)
        self.note.wrote(shard, len(rows.ids) + len(rows.skipped))

    def _results(self, shards: list[int]) -> Iterator[Row]:
        """What the towers give back; if Ray gives up, `broken` says why."""
        context = self.ray.data.DataContext.get_current().copy()
        context.max_errored_blocks = -1
        context.max_consecutive_actor_init_deaths = _MOST_BROKEN_STARTS
        context.enable_progress_bars = self.run.progress
        context.print_on_execution_start = False
        try:
            with self.ray.data.DataContext.current(context):
                for table in self._pipeline(shards).iter_batches(batch_size=None, batch_format="pyarrow"):
                    yield from table.to_pylist()
        except Exception as error:
            self.broken = short_reason(error)
            logger.warning("Ray has given up, and is started again: %s", self.broken)

    def _pipeline(self, shards: list[int]) -> Any:
        ray, run = self.ray, self.run
        shell, rows = source_rows(_image_source(run), run.plan, shards)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        attempts = ray.remote(num_cpus=0, scheduling_strategy=here)(Attempts).remote()
        reading = (attempts, ray.put((shell, run.processor, self.known.hashes)), run.batch_size)
        computing = (attempts, ray.put(self._travelling()), "cuda" if self.on_gpu else "cpu", torch.get_num_threads())
        readers, towers = (
            ray.data.ActorPoolStrategy(size=min(number, len(rows))) for number in (self.num_readers, self.num_workers)
        )
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
        batches = dataset.flat_map(Reader, fn_constructor_args=reading, compute=readers, num_cpus=self.reader_cpus)
        n_gpus = 1 if self.on_gpu else None
        return batches.map(
            Tower, fn_constructor_args=computing, compute=towers, num_cpus=self.tower_cpus, num_gpus=n_gpus
        )

    def _travelling(self) -> Any:
        """The encoder on the CPU, without touching the caller's."""
        encoder = self.run.encoder
        if encoder.device.type == "cpu":
            return encoder
        moved = copy.deepcopy(encoder)
        moved.model.to("cpu")
        return moved

    def _not_made(self, shards: list[int]) -> ClipAlignError:
        first = shards[0]
        about = self.run.plan.shards[first]
        reason = self.reasons.get(first) or self.broken or "the processes that worked on it ended"
        return ClipAlignError(
            f"{len(shards)} of {len(self.run.plan.shards)} shards could not be made in {_ROUNDS} tries, all others "
            f"are in {str(self.run.folder)!r}; shard {first} ({about['first']!r} to {about['last']!r}): {reason}. "
            "Mend or remove what is wrong there, and run the same again to resume."
        )


def _image_source(run: Extraction) -> ImageSource:
    assert isinstance(run.source, ImageSource)
    return run.source
