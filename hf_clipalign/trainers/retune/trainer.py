"""Learns findings one after the other from stored embeddings (RE-tune)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._files import exclusive_lock
from hf_clipalign._processes import leave_at_exit
from hf_clipalign._tensors import check_tensors
from hf_clipalign.data import FindingPrompts, IncrementalTask, joint
from hf_clipalign.evaluation import IncrementalResult
from hf_clipalign.features import LabelledEmbeddings, backbone_hash
from hf_clipalign.losses.retune import masked_bce_sum, retune_labels, retune_scores
from hf_clipalign.metrics import multilabel_metrics
from hf_clipalign.trainers.base import check_one_gpu
from hf_clipalign.trainers.retune.arguments import RETuneTrainingArguments
from hf_clipalign.trainers.retune.card import push_retune, write_prompts, write_retune_files
from hf_clipalign.trainers.retune.data import (
    Shuffled,
    TaskEmbeddings,
    check_data,
    check_same_task,
    check_tasks,
    embeddings_sketch,
    targets,
    task_fingerprint,
    task_settings,
)
from hf_clipalign.trainers.retune.learner import RETuneLearner
from hf_clipalign.trainers.retune.state import OPTIMIZER_FILE, RETuneState
from hf_clipalign.trainers.retune.updates import SmallUpdates, moments_of, restore_moments

_ADAPTER_FILE = "adapter_model.safetensors"
_SEEDS_PER_TASK = 1_000_003


class RETuneTrainer(Trainer):
    """Trains RE-tune's adapters task by task; the output folder remembers which tasks are learned.

    Images are not needed: the data are embeddings with labels. Every prompt is encoded once. After a task the adapter,
    the optimizer's moments and the scores on `eval_dataset` are written to `output_dir`; a run that is stopped begins
    the unfinished task again and ends with the same weights. A task can be added a month later: in the same folder, or
    in a new one from the adapter alone, whose configuration holds the findings it has learned and their prompts.

    Args:
        model (`PeftModel`): `get_peft_model(clip, RETuneConfig())`; or an `EmbeddingSpace` in the place of the CLIP,
            with `encoder`.
        args (`RETuneTrainingArguments`): settings. Default: the published ones.
        prompts (`FindingPrompts`, *optional*): of the findings. Default: the published ones, for the findings of the
            data.
        train_dataset (`LabelledEmbeddings`): training data.
        eval_dataset (`LabelledEmbeddings`, *optional*): test data, scored after every task.
        tasks (`Sequence[IncrementalTask]`, *optional*): what is learned, in order; rows of `train_dataset`. Default:
            everything at once.
        processing_class (`ProcessorMixin` or tokenizer): the backbone's, for the prompts.
        encoder (`DualEncoder`, *optional*): the backbone, where `model` has no towers.
        encode_prompts (`Callable`, *optional*): gives text embeddings `[M, d]`, not of unit length, for a list of M
            texts: for models that this package cannot load. Whose embeddings are given can then not be checked.
        scenario (`str`): name for tables, also in the card.
        **kwargs: passed to `transformers.Trainer`.

    Raises:
        `ClipAlignError`: embeddings of another model or width, a finding without prompts or without positives, an
            output folder that was begun with another model, adapter or prompts, other prompts for a finding that the
            adapter has learned.

    Example:
        ```python
        >>> model = get_peft_model(clip, RETuneConfig())
        >>> labels = read_chexpert("CheXpert-v1.0-small/train.csv")
        >>> data = LabelledEmbeddings.from_store("features/", labels, model)
        >>> trainer = RETuneTrainer(model, RETuneTrainingArguments("runs/chest"), train_dataset=data,
        ...                         tasks=class_incremental(labels), processing_class=processor)
        >>> trainer.train()
        ```
    """

    args: RETuneTrainingArguments

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
        self.identity = _identity(learner)
        for data in (train_dataset, eval_dataset):
            if data is not None:
                check_data(data, learner.adapter_config.embed_dim, self.identity["model"])
        self.state_folder.check(**self.identity)
        self.prompts = self._all_prompts(prompts, train_dataset, eval_dataset)
        args.check_policies(self.prompts.findings)
        learner.set_prompts(self.prompts)
        self.tasks = [] if train_dataset is None else list(tasks if tasks is not None else joint(train_dataset.labels))
        check_tasks(self.tasks, train_dataset, args)
        super().__init__(
            learner,
            args,
            data_collator=kwargs.pop("data_collator", _as_it_is),
            eval_dataset=cast(Any, eval_dataset),
            processing_class=processing_class,
            **kwargs,
        )
        if self.args.world_size > 1:
            leave_at_exit(self)
        self.loss_is_scaled_for_ga = False
        self._columns = torch.empty(0, dtype=torch.long)
        self._moments: dict[str, Tensor] = {}
        self._command = ""
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
            resume_from_checkpoint (`bool`, *optional*): go on with a run that was stopped: tasks that are done are
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
        with self._folder_held():
            self.state_folder = RETuneState(self.state_folder.folder, self._learned_elsewhere)
            pending = self._pending(bool(resume_from_checkpoint))
            self._begin()
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
            adapted (`bool`): through the adapter; False is the zero-shot bound. Default True.

        Returns:
            `(Tensor [N, F], BoolTensor [N, F])`: on the CPU.

        Raises:
            `ClipAlignError`: embeddings that are no tensor, of another width or not finite; a finding without prompts.
        """
        learner = self.learner
        check_tensors(embeds=embeds)
        columns = learner.columns(learner.findings if findings is None else findings)
        scores, labels = [], []
        with torch.no_grad(), contextlib.nullcontext() if adapted else self.peft_model.disable_adapter():
            for block in embeds.split(self.args.eval_batch_size):
                if not bool(block.isfinite().all()):
                    raise ClipAlignError("embeds hold NaN or infinite values: make them again or leave the rows out.")
                positive, negative = learner.cosines(block.to(learner.texts.device).float(), columns)
                scores.append(retune_scores(positive, negative, self.args.score).cpu())
                labels.append(retune_labels(positive, negative).cpu())
        return torch.cat(scores), torch.cat(labels)

    def measure(self, data: LabelledEmbeddings, adapted: bool = True) -> dict[str, Any]:
        """`multilabel_metrics` of labelled embeddings, with hard labels by the closer prompts.

        Uncertain and empty labels are not known and do not count, whatever `uncertain` and `missing` make of them in
        the loss. Where they mean something in test data, give labels that say so:
        `dataclasses.replace(labels, values=labels.targets(missing="zeros"))`.

        Args:
            data (`LabelledEmbeddings`): the test data.
            adapted (`bool`): through the adapter; False is the zero-shot bound. Default True.
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
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in flat.items()}
        self.log(metrics)
        return metrics

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Is not there: `scores` gives scores and hard labels of embeddings."""
        raise ClipAlignError(
            "predict is for models that read batches: take trainer.scores(embeds), or evaluate(data)."
        )

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        repo_id: str | None = None,
        base_model: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Pushes adapter, prompts, scores and card, and nothing else that lies in the output folder.

        Args:
            commit_message, token, revision, private: see `hf_clipalign.hub.push_folder`.
            blocking: ignored: it returns when all has arrived.
            repo_id (`str`, *optional*): `owner/name`. Default: `hub_model_id` of the settings.
            base_model (`str`, *optional*): Hub id of the base model. Default: where it was loaded from.
            **kwargs: passed to `hf_clipalign.hub.push_folder`.

        Raises:
            `ClipAlignError`: no name, a base model that others cannot load, or as `push_folder`.
        """
        kwargs |= {"commit_message": commit_message, "token": token, "revision": revision, "private": private}
        return push_retune(self, repo_id or self.args.hub_model_id, base_model, **kwargs)

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
        name = task.name if task.name not in self._done else f"{task.name} (again, task {index})"
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
            self.state_folder.add_task(entry, result, self._save_with_moments)
        self._everyone_reads()
        return output

    def _measured(self, name: str, task: IncrementalTask) -> IncrementalResult | None:
        data = cast(Any, self.eval_dataset)
        if data is None:
            return self.result
        result = self.result or IncrementalResult(self.scenario, list(data.labels.findings))
        result.extend(data.labels.findings)
        measured_on = {finding: [self.args.score, mark] for finding, mark in data.labels.fingerprints().items()}
        known = {} if result.zero_shot is None else result.zero_shot.get("measured_on", {})
        if not measured_on.items() <= known.items():
            result.add_zero_shot(self.measure(data, adapted=False), measured_on)
        result.add(name, task.findings, self.measure(data), measured_on)
        return result

    @property
    def _done(self) -> dict[str, dict[str, Any]]:
        return {entry["name"]: entry for entry in self.state_folder.tasks}

    def _pending(self, resume: bool) -> list[IncrementalTask]:
        """The tasks to learn now."""
        assert self.data is not None
        done = self._done
        again = [task for task in self.tasks if task.name in done]
        if self.args.relearn and resume:
            raise ClipAlignError(
                "relearn=True learns again what resume_from_checkpoint=True passes over: give one of the two."
            )
        if self.args.relearn or not again:
            return self.tasks
        folder = str(self.state_folder.folder)
        if not resume:
            raise ClipAlignError(
                f"{again[0].name!r} was learned already in {folder!r}: go on with the others by "
                "train(resume_from_checkpoint=True), learn it again with relearn=True, or use another output_dir."
            )
        for task in again:
            check_same_task(done[task.name], self.data, task, self.args, folder)
        return [task for task in self.tasks if task.name not in done]

    def _begin(self) -> None:
        """Takes over what the folder has learned, or notes where this run starts."""
        state = self.state_folder
        if state.begun:
            self._load_adapter(state.adapter_folder)
            file = state.adapter_folder / OPTIMIZER_FILE
            self._moments = load_file(file) if file.is_file() else {}
        else:
            self._moments = {}
        self._note_learned(*state.learned)
        if self.is_world_process_zero():
            state.begin(**self.identity, prompts=self.prompts, save=self._save_adapter)
        self._everyone_reads()

    def _all_prompts(self, given: FindingPrompts | None, *data: LabelledEmbeddings | None) -> FindingPrompts:
        """The prompts given, those that the folder was learned with, and published ones where none are given."""
        known = self.state_folder.prompts
        findings = list(dict.fromkeys(name for part in data if part is not None for name in part.labels.findings))
        if given is None:
            new = [name for name in findings if name not in known]
            given = FindingPrompts.published(new) if new or not known else None
        if given is None:
            kinds = ({n: p[kind] for n, p in known.items()} for kind in ("positive", "negative"))
            return FindingPrompts(*kinds)
        merged = self.state_folder.merged_prompts(given)
        if findings:
            merged.select(findings)
        return merged

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

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One batch; a loss that is not finite ends the training before it reaches the adapters."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise ClipAlignError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1} with learning rate "
                f"{self._get_learning_rate():g}: lower it. What is done is safe in {self.args.output_dir!r}."
            )
        return loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Adam, with the moments of the task before."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.args.carry_optimizer:
            restore_moments(optimizer, self.learner, self._moments)
        return optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return self._sampler

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Writes adapter, prompts, scores and card."""
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        self.learner.save_pretrained(folder)
        write_retune_files(self, folder)

    def create_model_card(self, *args: Any, command: str | None = None, **kwargs: Any) -> None:
        """Writes `README.md`, `prompts.json` and `metrics.json` beside the adapter.

        Args:
            *args, **kwargs: ignored: those of `transformers.Trainer.create_model_card`.
            command (`str`, *optional*): what was run.
        """
        self._command = command if command is not None else self._command
        if self.is_world_process_zero():
            write_retune_files(self, Path(self.args.output_dir or "."))

    # Files

    def _note_learned(self, *findings: str) -> None:
        """Lets the adapter's configuration say what it has learned, with which prompts."""
        prompts = {**self.state_folder.prompts, **self.prompts.to_dict()}
        self.learner.adapter_config.learned = {name: prompts[name] for name in findings}

    def _save_adapter(self, folder: Path) -> None:
        self.learner.save_pretrained(folder)
        write_prompts(self, folder)

    def _save_with_moments(self, folder: Path) -> None:
        self._save_adapter(folder)
        if self._moments:
            save_file(self._moments, folder / OPTIMIZER_FILE)

    def _load_adapter(self, folder: Path) -> None:
        file = folder / _ADAPTER_FILE
        if not file.is_file():
            raise ClipAlignError(
                f"{str(folder)!r} has no {_ADAPTER_FILE}, though its run says so: use another output_dir."
            )
        set_peft_model_state_dict(self.peft_model, load_file(file), adapter_name=self.learner.adapter_name)

    @contextlib.contextmanager
    def _folder_held(self) -> Iterator[None]:
        """Keeps a second run out of the folder."""
        folder = self.state_folder.folder
        if not self.is_world_process_zero():
            yield
            return
        with exclusive_lock(
            folder / ".retune.lock", f"another run is learning in {str(folder)!r}: use another output_dir."
        ):
            yield

    def _everyone_reads(self) -> None:
        self.accelerator.wait_for_everyone()
        if not self.is_world_process_zero():
            self.state_folder = RETuneState(self.state_folder.folder)


def _identity(learner: RETuneLearner) -> dict[str, dict[str, Any]]:
    """What must be the same in all runs of a folder."""
    encoder, config = learner.encoder, learner.adapter_config
    loaded_from = None if encoder is None else getattr(encoder.config, "_name_or_path", None)
    name = loaded_from or config.base_model_name_or_path or None
    adapter = {key: getattr(config, key) for key in ("adapter", "sides", "embed_dim")}
    weights = None if encoder is None else backbone_hash(encoder)
    return {"model": {"name": name, "weights": weights}, "adapter": adapter}


def _as_it_is(batch: Any) -> Any:
    return batch
