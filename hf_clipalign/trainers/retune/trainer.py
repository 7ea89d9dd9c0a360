"""Learns findings one after the other from stored embeddings (RE-tune)."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.trainer_utils import TrainOutput

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import FindingPrompts, IncrementalTask, check_leaks, joint
from hf_clipalign.evaluation import ClinicalTable, IncrementalResult
from hf_clipalign.features import LabelledEmbeddings
from hf_clipalign.hub.cards import on_hub
from hf_clipalign.hub.retune_folder import METRICS_FILE, PROMPTS_FILE
from hf_clipalign.losses.retune import masked_bce_sum
from hf_clipalign.metrics import multilabel_metrics
from hf_clipalign.trainers.base import AlignmentTrainer, check_one_gpu
from hf_clipalign.trainers.retune.arguments import RETuneTrainingArguments
from hf_clipalign.trainers.retune.card import card_facts_of
from hf_clipalign.trainers.retune.data import (
    Shuffled,
    TaskEmbeddings,
    check_data,
    check_tasks,
    embeddings_sketch,
    pending_tasks,
    seen_rows,
    targets,
    task_fingerprint,
    task_settings,
    without_negatives,
)
from hf_clipalign.trainers.retune.learner import RETuneLearner
from hf_clipalign.trainers.retune.state import OPTIMIZER_FILE, RETuneState, write_seen, write_text
from hf_clipalign.trainers.retune.updates import SmallUpdates, moments_of, restore_moments

logger = logging.getLogger(__name__)

_SEEDS_PER_TASK = 1_000_003


class RETuneTrainer(AlignmentTrainer):
    """Trains RE-tune's adapters task by task; the output folder records which tasks are learned.

    Images are not needed: the data are embeddings with labels. Every prompt is encoded once. After a task the adapter,
    the optimizer's moments and the scores on `eval_dataset` are written to `output_dir`; a run that is stopped begins
    the unfinished task again and ends with the same weights. A task can be added a month later: in the same folder, or
    in a new one from the adapter alone, whose configuration holds the findings it has learned and their prompts.

    Args:
        model (`PeftModel`): `get_peft_model(clip, RETuneConfig())`; or an `EmbeddingSpace` in the place of the CLIP,
            with `encoder`.
        args (`RETuneTrainingArguments`): settings. Default: the published ones.
        prompts (`FindingPrompts`, *optional*): of the data's findings. Default: the published ones.
        train_dataset (`LabelledEmbeddings`): training data.
        eval_dataset (`LabelledEmbeddings`, *optional*): test data, scored after every task.
        tasks (`Sequence[IncrementalTask]`, *optional*): what is learned, in order. Default: all of `train_dataset`.
        processing_class (`ProcessorMixin` or tokenizer): the backbone's, for the prompts.
        encoder (`DualEncoder`, *optional*): the backbone, where `model` has no towers.
        encode_prompts (`Callable`, *optional*): gives text embeddings `[M, d]`, not of unit length, for a list of M
            texts: for models that this package cannot load. Whose embeddings are given can then not be checked.
        scenario (`str`): name for tables, also in the card.
        **kwargs: passed to `transformers.Trainer`.

    Raises:
        `ClipAlignError`: embeddings of another model or width, a finding without prompts or without positives, an
            image that is both in a task (of now or, in this folder, before) and in `eval_dataset`, an output folder
            that was begun with another model, adapter or prompts, other prompts for a finding that the adapter has
            learned.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.features import LabelledEmbeddings
        >>> from hf_clipalign.tuners import EmbeddingSpace, RETuneConfig
        >>> model, args = get_peft_model(EmbeddingSpace(128), RETuneConfig()), RETuneTrainingArguments("runs/chest")
        >>> data = {"train_dataset": LabelledEmbeddings(embeds, labels), "processing_class": processor}
        >>> RETuneTrainer(model, args, **data, encoder=encoder).train().global_step
        {...}
        10
        ```
    """

    args: RETuneTrainingArguments
    _paper = "retune"
    _tag_names = ("multi-label", "incremental-learning")
    _against_divergence: ClassVar[str] = "Lower learning_rate."

    def __init__(
        self,
        model: Any,
        args: RETuneTrainingArguments | None = None,
        *,
        prompts: FindingPrompts | None = None,
        train_dataset: LabelledEmbeddings | None = None,
        eval_dataset: LabelledEmbeddings | None = None,
        tasks: Sequence[IncrementalTask] | None = None,
        processing_class: Any = None,
        encoder: Any = None,
        encode_prompts: Callable[[list[str]], Tensor] | None = None,
        scenario: str = "",
        **kwargs: Any,
    ):
        args = args or RETuneTrainingArguments(output_dir="retune")
        check_one_gpu(args)
        args.label_names = args.label_names or ["labels"]
        learner = RETuneLearner(model, encoder, processing_class, encode_prompts)
        if "/" in scenario or "\\" in scenario:
            raise ClipAlignError(f"scenario={scenario!r} goes into the public card: give a name, not a path.")
        self.scenario = scenario
        self.data = train_dataset
        self._learned_elsewhere = dict(learner.adapter_config.learned)
        self.state_folder = RETuneState(args.output_dir or "retune", self._learned_elsewhere)
        self.identity = learner.identity()
        for data in (train_dataset, eval_dataset):
            if data is not None:
                check_data(data, learner.adapter_config.embed_dim, self.identity["model"])
        self.state_folder.check(**self.identity)
        labels = [data.labels for data in (train_dataset, eval_dataset) if data is not None]
        self.prompts = self.state_folder.prompts_of(prompts, [name for part in labels for name in part.findings])
        args.check_policies(self.prompts.findings)
        learner.set_prompts(self.prompts)
        self.tasks = [] if train_dataset is None else list(tasks if tasks is not None else joint(train_dataset.labels))
        check_tasks(self.tasks, train_dataset, args)
        self.clinical: ClinicalTable | None = None
        self.leak = self._checked_leak(eval_dataset)
        self.warnings = without_negatives(self.tasks, train_dataset, args)
        for text in filter(None, [self.leak, *self.warnings]):
            logger.warning(text)
        super().__init__(
            learner,
            args,
            data_collator=kwargs.pop("data_collator", _as_it_is),
            eval_dataset=cast(Any, eval_dataset),
            processing_class=processing_class,
            **kwargs,
        )
        self._columns = torch.empty(0, dtype=torch.long)
        self._moments: dict[str, Tensor] = {}
        self._before: tuple[list[str], dict[str, Any]] | None = None
        if args.reset_threshold is not None:
            self.add_callback(SmallUpdates(args.reset_threshold, args.reset_step))

    @property
    def learner(self) -> RETuneLearner:
        """The module that is trained."""
        return cast(RETuneLearner, self.model)

    @property
    def peft_model(self) -> Any:
        """The adapter on its base model."""
        return self.learner.model

    @property
    def result(self) -> IncrementalResult | None:
        """Scores of every finding after every task that the output folder knows of; None without test data."""
        return self.state_folder.result

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Learns the tasks. What the output folder has learned before is built on.

        Args:
            resume_from_checkpoint (`bool`, *optional*): resume a run that was stopped: tasks that are done are
                passed over. Default: a task that is done already is an error, unless `relearn` is set.
            *args, **kwargs: ignored: those of `transformers.Trainer.train`.

        Returns:
            `TrainOutput`: of the last task; its metrics name the tasks learned.

        Raises:
            `ClipAlignError`: a task was learned already, its data or the settings have changed, another run writes to
                the folder, or the loss is not finite.
        """
        if self.data is None:
            raise ClipAlignError("there is nothing to learn from: pass train_dataset.")
        with self.state_folder.held() if self.is_world_process_zero() else contextlib.nullcontext():
            self.state_folder = RETuneState(self.state_folder.folder, self._learned_elsewhere)
            pending = pending_tasks(self.tasks, self.state_folder, self.data, self.args, bool(resume_from_checkpoint))
            self._begin()
            if pending and self.result is None and self.eval_dataset is not None:
                self._before = self.state_folder.learned, self.measure(cast(Any, self.eval_dataset))
            output = TrainOutput(0, 0.0, {})
            for task in pending:
                output = self._learn(task)
        self.save_model()
        metrics: dict[str, Any] = {**output.metrics, "tasks": [task.name for task in pending]}
        return output._replace(metrics=metrics)

    def scores(
        self, embeds: Tensor, findings: Sequence[str] | None = None, adapted: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Scores in [0, 1] and hard labels of image embeddings.

        Args:
            embeds (`Tensor [N, d]`): of the shared space, not of unit length.
            findings (`Sequence[str]`, *optional*): which. Default: all that have prompts.
            adapted (`bool`, *optional*, defaults to `True`): through the adapter; False is the zero-shot bound.

        Returns:
            `(Tensor [N, F], BoolTensor [N, F])`: on the CPU.

        Raises:
            `ClipAlignError`: embeddings that are no tensor, of another width or not finite; a finding without prompts.
        """
        return self.learner.scores(embeds, findings, self.args.score, self.args.eval_batch_size, adapted)

    def measure(self, data: LabelledEmbeddings, adapted: bool = True) -> dict[str, Any]:
        """`multilabel_metrics` of labelled embeddings, with hard labels by the closer prompts.

        Uncertain and empty labels are not known and do not count, whatever `uncertain` and `missing` make of them in
        the loss. Where they mean something in test data, give labels that say so:
        `dataclasses.replace(labels, values=labels.targets(missing="zeros"))`.

        Args:
            data (`LabelledEmbeddings`): the test data.
            adapted (`bool`, *optional*, defaults to `True`): through the adapter; False is the zero-shot bound.
        """
        names = data.labels.findings
        scores, predictions = self.scores(data.embeds, names, adapted)
        return multilabel_metrics(data.labels.targets(), scores, predictions=predictions, finding_names=names)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Means over findings, and `<prefix>_auroc_<finding>`. See `measure` for all."""
        data = cast(Any, self.eval_dataset) if eval_dataset is None else eval_dataset
        if data is None:
            raise ClipAlignError("there are no test data: pass eval_dataset.")
        check_data(data, self.learner.adapter_config.embed_dim, self.identity["model"])
        measured = self.measure(data)
        flat = {name: value for name, value in measured.items() if isinstance(value, float)}
        flat |= {f"{kind}_{name}": value for kind in ("auroc", "f1") for name, value in measured[kind].items()}
        return self._report({f"{metric_key_prefix}_{name}": value for name, value in flat.items()})

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Is not there: `scores` gives scores and hard labels of embeddings."""
        raise ClipAlignError("there is no predict for embeddings: take trainer.scores(embeds), or evaluate(data).")

    def push_to_hub(self, *args: Any, overwrite_card: bool = False, **kwargs: Any) -> Any:
        """Pushes adapter, prompts, scores and card; a card that the repository has is kept unless `overwrite_card`.

        Args:
            *args, **kwargs: as `AlignmentTrainer.push_to_hub`; `base_model` is needed where the base model was not
                loaded from the Hub.
            overwrite_card (`bool`, *optional*, defaults to `False`): replace the repository's card.

        Raises:
            `ClipAlignError`: no name, a base model that others cannot load, or as `push_folder`.
        """
        return super().push_to_hub(*args, overwrite_card=overwrite_card, **kwargs)

    def public_base(self, base_model: str | None) -> str:
        """The Hub id of the base model.

        Raises:
            `ClipAlignError`: it is a folder on this machine.
        """
        base = base_model or self.identity["model"]["name"]
        if not on_hub(base):
            raise ClipAlignError(
                f"the adapter's base model {base!r} is not on the Hub, so nobody else could load it: give "
                "base_model='owner/name'."
            )
        return base

    # One task

    def _learn(self, task: IncrementalTask) -> TrainOutput:
        """Trains on one task, then keeps the adapter and what it scores."""
        assert self.data is not None
        index = len(self.state_folder.tasks)
        self._columns = self.learner.columns(task.findings)
        self.train_dataset = TaskEmbeddings(self.data.embeds, targets(self.data, task, self.args), task.rows)
        self._sampler = Shuffled(len(task.rows), self.args.seed * _SEEDS_PER_TASK + index)
        self.optimizer = None  # made anew, with the moments of the task before
        output = super().train()
        self._moments = moments_of(self.optimizer, self.learner)
        name = task.name if task.name not in self.state_folder.done else f"{task.name} (again, task {index})"
        entry = {
            "name": name,
            "findings": list(task.findings),
            "n_rows": len(task.rows),
            "data": task_fingerprint(self.data, task, self.args),
            "embeds": embeddings_sketch(self.data, task),
            "loss": output.training_loss,
            "settings": task_settings(self.args),
        }
        self._note_learned(*self.state_folder.learned, *task.findings)
        result = self._measured(name, task)
        if self.is_world_process_zero():
            self.state_folder.add_task(entry, result, lambda folder: self._save_with_moments(folder, task))
        self._everyone_reads()
        return output

    def _checked_leak(self, test: LabelledEmbeddings | None) -> str:
        """What of the test data was seen in any task, now or earlier in this folder; an image is an error."""
        if test is None:
            return ""
        return check_leaks(self.state_folder.seen | seen_rows(self.tasks, self.data), test.labels)

    def _measured(self, name: str, task: IncrementalTask) -> IncrementalResult | None:
        data = cast(Any, self.eval_dataset)
        if data is None:
            return self.result
        result = self.result or IncrementalResult(self.scenario, list(data.labels.findings))
        result.extend(data.labels.findings)
        result.leak, result.warnings = self.leak, list(dict.fromkeys([*result.warnings, *self.warnings]))
        measured_on = {finding: [self.args.score, mark] for finding, mark in data.labels.fingerprints().items()}
        if self._before is not None and not result.tasks:
            result.add_before(*self._before, measured_on)
        known = {} if result.zero_shot is None else result.zero_shot.get("measured_on", {})
        if not measured_on.items() <= known.items():
            result.add_zero_shot(self.measure(data, adapted=False), measured_on)
        result.add(name, task.findings, self.measure(data), measured_on)
        return result

    def _begin(self) -> None:
        """Takes over what the folder has learned, or notes where this run starts."""
        state = self.state_folder
        self._moments = {}
        if state.begun:
            self._load_adapter(state.adapter_folder)
            if (file := state.adapter_folder / OPTIMIZER_FILE).is_file():
                self._moments = load_file(file)
        self._note_learned(*state.learned)
        self.accelerator.wait_for_everyone()  # all have read the folder before it changes
        if self.is_world_process_zero():
            state.begin(**self.identity, prompts=self.prompts, save=self._save_adapter)
        self._everyone_reads()

    # What the Trainer asks for

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy, the mean over the known labels of the whole batch, however many processes share it."""
        logits = model(inputs["image_embeds"], self._columns.to(inputs["labels"].device))
        total, n_known = masked_bce_sum(logits, inputs["labels"])
        everywhere = cast(Tensor, self.accelerator.reduce(n_known, "sum"))
        loss = total * self.args.world_size / everywhere.clamp(min=1)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _last_good(self) -> str:
        return f"what is done is safe in {str(self.state_folder.folder)!r}"

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Adam, with the moments of the task before."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.args.carry_optimizer:
            restore_moments(optimizer, self.learner, self._moments)
        return optimizer

    # Files

    def _note_learned(self, *findings: str) -> None:
        """Lets the adapter's configuration say what it has learned, with which prompts."""
        prompts = {**self.state_folder.prompts, **self.prompts.to_dict()}
        self.learner.adapter_config.learned = {name: prompts[name] for name in findings}

    def _write_model(self, folder: Path, checkpoint: bool) -> None:
        """Adapter, prompts, scores and card."""
        self.learner.save_pretrained(folder)
        self._write_card(folder)

    def _write_card(self, folder: Path) -> None:
        write_text(folder / PROMPTS_FILE, json.dumps(self.prompts.to_dict(), indent=1))
        if self.result is not None:
            write_text(folder / METRICS_FILE, self.result.to_json())
        super()._write_card(folder)

    def _save_adapter(self, folder: Path) -> None:
        self.learner.save_pretrained(folder)
        write_text(folder / PROMPTS_FILE, json.dumps(self.prompts.to_dict(), indent=1))

    def _save_with_moments(self, folder: Path, task: IncrementalTask) -> None:
        self._save_adapter(folder)
        write_seen(folder, seen_rows([task], self.data))
        if self._moments:
            save_file(self._moments, folder / OPTIMIZER_FILE)

    def card_facts(self) -> dict[str, Any]:
        """The findings, the tasks, and what was measured after each."""
        return card_facts_of(self)

    def _everyone_reads(self) -> None:
        self.accelerator.wait_for_everyone()
        if not self.is_world_process_zero():
            self.state_folder = RETuneState(self.state_folder.folder)


def _as_it_is(batch: Any) -> Any:
    return batch
