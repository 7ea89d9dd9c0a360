"""The data of one task of an incremental run, checked before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hf_clipalign._checks.quoting import quoted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import FindingLabels, IncrementalTask, SeenRows
from hf_clipalign.data.images.source import digest
from hf_clipalign.features import LabelledEmbeddings
from hf_clipalign.trainers.base import check_one_batch
from hf_clipalign.trainers.retune.arguments import RETuneTrainingArguments
from hf_clipalign.trainers.retune.state import RETuneState

_BLOCK_ROWS = 8192
_SKETCH = 8
_ROUNDING = 1e-4
WITHOUT_INFLUENCE = (
    *("accelerator_config", "activation_checkpointing", "activation_checkpointing_kwargs"),
    *("average_tokens_across_devices", "batch_eval_metrics", "bf16_full_eval", "data_seed", "debug", "deepspeed"),
    *("disable_tqdm", "do_eval", "do_predict", "do_train", "fp16_full_eval", "fsdp", "fsdp_config"),
    *("full_determinism", "gradient_checkpointing", "gradient_checkpointing_kwargs", "greater_is_better"),
    *("ignore_data_skip", "jit_mode_eval", "label_names", "length_column_name", "load_best_model_at_end"),
    *("local_rank", "metric_for_best_model", "no_cuda", "output_dir", "overwrite_output_dir", "parallelism_config"),
    *("per_device_eval_batch_size", "prediction_loss_only", "project", "relearn", "remove_unused_columns"),
    *("restore_callback_states_from_checkpoint", "resume_from_checkpoint", "run_name", "score"),
    *("skip_memory_metrics", "torch_compile", "torch_compile_backend", "torch_compile_mode"),
    *("train_sampling_strategy", "use_cpu"),
)
"""Settings that do not change what a task learns; every other one has to be the same when a run is resumed."""
PREFIXES_WITHOUT_INFLUENCE = (
    *("dataloader_in", "dataloader_multi", "dataloader_num", "dataloader_persistent", "dataloader_pin"),
    *("dataloader_prefetch", "ddp_", "enable_jit", "eval_", "hub_", "include_", "log_", "logging_", "push_to_hub"),
    *("report_", "save_", "torch_empty", "trackio"),
)


class TaskEmbeddings(Dataset):
    """Rows of a task; a whole batch is taken at once."""

    def __init__(self, embeds: Tensor, targets: Tensor, rows: Any):
        self.embeds, self.targets = embeds, targets
        self.rows = torch.as_tensor(rows, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        places = torch.tensor(indices)
        embeds = self.embeds.index_select(0, self.rows.index_select(0, places))
        return {"image_embeds": embeds.float(), "labels": self.targets.index_select(0, places)}


class Shuffled(Sampler):
    """The rows in an order that the seed gives, another one in every epoch."""

    def __init__(self, n: int, seed: int):
        self.n = n
        self._draw = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.n, generator=self._draw).tolist())


def check_data(data: Any, embed_dim: int, model: dict[str, Any]) -> None:
    """Refuses what are no embeddings of the model's shared space.

    Raises:
        `ClipAlignError`: no `LabelledEmbeddings`, embeddings of another model, or of another width.
    """
    if not isinstance(data, LabelledEmbeddings):
        raise ClipAlignError(
            f"data must be LabelledEmbeddings, got {type(data).__name__}: make them with "
            "LabelledEmbeddings.from_store, from_file or from_images."
        )
    if None not in (data.model, model["weights"]) and data.model != model["weights"]:
        raise ClipAlignError(
            f"the embeddings of {data.labels.name} are of another model than the one given ({model['name']}): give "
            "that model, or make embeddings with this one."
        )
    if data.embeds.shape[1] != embed_dim:
        raise ClipAlignError(
            f"the embeddings of {data.labels.name} have dimension {data.embeds.shape[1]}, the model's shared space "
            f"{embed_dim}: they are of another model, or from before the projector."
        )


def check_tasks(
    tasks: Sequence[IncrementalTask], data: LabelledEmbeddings | FindingLabels | None, args: RETuneTrainingArguments
) -> None:
    """Refuses tasks that share a name, ask for rows that are not there, or have no positive example of a finding.

    Of the data, the labels are enough: they can be checked before anything is embedded.
    """
    names = [task.name for task in tasks]
    if len(set(names)) != len(names):
        raise ClipAlignError(
            f"two tasks are called {next(n for n in names if names.count(n) > 1)!r}: name them apart."
        )
    for task in tasks:
        assert data is not None
        if not len(task.rows) or np.min(task.rows) < 0 or np.max(task.rows) >= len(data):
            raise ClipAlignError(f"the task {task.name!r} has no rows, or some that the {len(data)} of the data lack.")
        check_one_batch(len(task.rows), f"rows of the task {task.name!r}", args)
        positives = (targets(data, task, args) == 1).any(dim=0)
        if not bool(positives.all()):
            name = task.findings[int((~positives).nonzero()[0])]
            raise ClipAlignError(
                f"the task {task.name!r} has no positive example of {name!r} among its {len(task.rows)} rows: give it "
                "others, or leave the finding out."
            )


def without_negatives(
    tasks: Sequence[IncrementalTask], data: LabelledEmbeddings | None, args: RETuneTrainingArguments
) -> list[str]:
    """A sentence for each task with a finding that no known label says to be absent: they cannot be separated."""
    found = []
    for task in tasks:
        assert data is not None
        absent = (targets(data, task, args) == 0).any(dim=0)
        if names := [name for name, is_there in zip(task.findings, absent.tolist(), strict=True) if not is_there]:
            found.append(
                f"the task {task.name!r} has no negative example of {quoted(names)}, only present and empty labels: "
                'where empty means absent, set missing="zeros".'
            )
    return found


def seen_rows(tasks: Sequence[IncrementalTask], data: LabelledEmbeddings | None) -> SeenRows:
    """The images and patients of all tasks."""
    assert data is not None or not tasks
    if data is None or not tasks:
        return SeenRows(np.empty(0, np.int64), np.empty(0, np.int64))
    return SeenRows.of(data.labels, np.concatenate([task.rows for task in tasks]))


def targets(data: LabelledEmbeddings | FindingLabels, task: IncrementalTask, args: RETuneTrainingArguments) -> Tensor:
    """Labels `[n, F]` that a task may see: 1, 0, NaN."""
    labels = data if isinstance(data, FindingLabels) else data.labels
    return torch.from_numpy(labels.select(task.rows, task.findings).targets(*args.policies(task.findings)))


def task_fingerprint(data: LabelledEmbeddings, task: IncrementalTask, args: RETuneTrainingArguments) -> str:
    """A hash of the names of a task's rows and of the labels that it sees."""
    ids = [data.labels.ids[row] for row in task.rows]
    return digest(ids, task.findings, [targets(data, task, args).numpy().tobytes()])


def embeddings_sketch(data: LabelledEmbeddings, task: IncrementalTask) -> list[float]:
    """Eight sums over a task's embeddings with random signs: they change with any row, but hardly with rounding.

    So they tell other embeddings from the same ones that another machine has projected.
    """
    draw = np.random.default_rng(0)
    rows = torch.as_tensor(task.rows, dtype=torch.long)
    signs = torch.from_numpy(draw.choice([-1.0, 1.0], size=(_SKETCH, len(rows)))).float()
    directions = torch.from_numpy(draw.standard_normal((_SKETCH, data.embeds.shape[1])))
    sums = torch.zeros_like(directions)
    for places, block in zip(rows.split(_BLOCK_ROWS), signs.split(_BLOCK_ROWS, dim=1), strict=True):
        sums += (block @ data.embeds.index_select(0, places).float().cpu()).double()
    return (sums * directions).sum(dim=1).tolist()


def task_settings(args: RETuneTrainingArguments) -> dict[str, Any]:
    """The settings that decide what a task's training gives: all but those that are known not to."""
    settings = {
        name: value
        for name, value in args.to_dict().items()
        if name not in WITHOUT_INFLUENCE and not name.startswith(PREFIXES_WITHOUT_INFLUENCE)
    }
    return {**json.loads(json.dumps(settings, default=str)), "processes": args.world_size}


def pending_tasks(
    tasks: Sequence[IncrementalTask],
    state: RETuneState,
    data: LabelledEmbeddings,
    args: RETuneTrainingArguments,
    resume: bool,
) -> list[IncrementalTask]:
    """The tasks to learn now: all, or those that a resumed run has not done.

    Raises:
        `ClipAlignError`: a task was learned already, or otherwise than it would be now.
    """
    again = [task for task in tasks if task.name in state.done]
    if args.relearn and resume:
        raise ClipAlignError(
            "relearn=True learns again what resume_from_checkpoint=True passes over: give one of the two."
        )
    if args.relearn or not again:
        return list(tasks)
    folder = str(state.folder)
    if not resume:
        raise ClipAlignError(
            f"{again[0].name!r} was learned already in {folder!r}: learn the others with "
            "train(resume_from_checkpoint=True), learn it again with relearn=True, or use another output_dir."
        )
    for task in again:
        check_same_task(state.done[task.name], data, task, args, folder)
    return [task for task in tasks if task.name not in state.done]


def check_same_task(
    entry: dict[str, Any], data: LabelledEmbeddings, task: IncrementalTask, args: RETuneTrainingArguments, folder: str
) -> None:
    """Refuses to pass over a task that was learned from other data or with other settings; older folders tell less.

    Raises:
        `ClipAlignError`: rows, labels, embeddings or settings are others than those of `entry`.
    """
    changed = ""
    if entry["data"] != task_fingerprint(data, task, args):
        changed = "rows or labels"
    elif "embeds" in entry and not _close(entry["embeds"], embeddings_sketch(data, task)):
        changed = "embeddings"
    if changed:
        raise ClipAlignError(
            f"{task.name!r} was learned in {folder!r} from other {changed} than those given now: give the same, name "
            "the task otherwise, or use another output_dir."
        )
    then, now = _comparable(entry["settings"]), _comparable(task_settings(args))
    for name in now:
        if then.get(name, now[name]) != now[name]:
            raise ClipAlignError(
                f"{task.name!r} was learned in {folder!r} with {name}={then[name]!r}, given now is {now[name]!r}: "
                "give the same, or pass only the tasks that are left, without resume_from_checkpoint."
            )


def _close(first: Sequence[float], second: Sequence[float]) -> bool:
    return len(first) == len(second) and np.allclose(first, second, rtol=0, atol=_ROUNDING * np.abs(first).max())


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the batch of all processes in the place of their number and share."""
    both = ("per_device_train_batch_size", "processes")
    batch = settings[both[0]] * settings[both[1]]
    return {**{name: value for name, value in settings.items() if name not in both}, "batch of all processes": batch}
