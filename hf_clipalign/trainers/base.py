"""What the trainers that keep transformers' checkpoints have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import PushInProgress

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.masking import describe_run, without_paths
from hf_clipalign._processes import leave_at_exit
from hf_clipalign.data import ImageSource
from hf_clipalign.trainers.cards import write_card
from hf_clipalign.trainers.checkpoints import checkpoint_to_resume, is_checkpoint, last_good_checkpoint
from hf_clipalign.trainers.pushing import push_checkpoint, push_trained

_WAYS_TO_A_BATCH = "lower per_device_train_batch_size, or pass dataloader_drop_last=False"
_ADAPTER_FILE = "adapter_model.safetensors"
_ROUNDING = 1e-6  # the epoch is a sum of fractions


class AlignmentTrainer(Trainer):
    """A `transformers.Trainer` whose runs survive a kill at any moment, and whose settings are JSON.

    The state of the run is the last file of a checkpoint, written when all processes have written theirs, and
    `resume_from_checkpoint=True` takes the newest checkpoint that has it. Settings are in checkpoints only. The terms
    of the loss are logged beside it, without a wait for the device in every step; a loss that is not finite ends
    the training; evaluation keeps an incomplete last batch. A push uploads the model, its processor and its card, and
    nothing else that lies in the output folder.

    The model is trained in place, not copied: pass `copy.deepcopy(model)` to keep the one you have.

    Args:
        model (`nn.Module`): what is trained.
        args (`TrainingArguments`): settings.
        **kwargs: passed to `transformers.Trainer`.
    """

    _paper: ClassVar[str | None] = None
    """The method's key in `hf_clipalign.papers.PAPERS`, from which the card takes what it says and cites."""
    _tag_names: ClassVar[tuple[str, ...]] = ()
    """Tags of the card."""
    _against_divergence: ClassVar[str] = "Lower learning_rate, or train in float32 or bfloat16."

    _sampler: Any = None

    def __init__(self, model: nn.Module, args: TrainingArguments, **kwargs: Any):
        super().__init__(model, args, **kwargs)
        if self.args.world_size > 1:
            leave_at_exit(self)
        self.loss_is_scaled_for_ga = False
        self.model_accepts_loss_kwargs = False  # what the first 5.x releases take for a loss that is scaled already
        self._terms: dict[str, Tensor] = {}
        self._n_terms = 0
        self._command = ""
        self._results: Any = None
        self._row: str | None = None
        self.add_callback(_EpochsAndSteps(self))

    # Training

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains. See `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint (`bool` or `str`, *optional*): a checkpoint, or True: the newest complete one.
            *args: as in transformers.
            **kwargs: as in transformers.

        Raises:
            `ClipAlignError`: there is no complete checkpoint.
        """
        checkpoint = checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)
        self._before_training()
        return super().train(checkpoint, *args, **kwargs)

    def _before_training(self) -> None:
        """What is computed once, before the first step."""

    def begin_epoch(self, epoch: int) -> None:
        """Gives images and sampler their epoch, counted from 0; called at its start, also in a resumed run."""
        images: Any = self.train_dataset
        for part in (images, self._sampler):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def after_step(self) -> None:
        """Called after every update of the weights."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch; a loss that is not finite ends the training before it reaches the weights."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {float(loss)}")
        return loss

    def _diverged(self, what: str) -> ClipAlignError:
        rates = dict.fromkeys(f"{group['lr']:g}" for group in cast(Optimizer, self.optimizer).param_groups)
        return ClipAlignError(
            f"{what} at step {self.state.global_step + 1} with learning rate {' and '.join(rates)}: "
            f"{self._last_good()}. {self._against_divergence}"
        )

    def _last_good(self) -> str:
        """Says where the run can be taken up again."""
        checkpoint = last_good_checkpoint(self.args.output_dir)
        return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no good checkpoint yet"

    def _keep_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Adds terms of the loss to those of the next log."""
        self._n_terms += 1
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value.detach().float()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss terms since the last log to the training loss."""
        if "loss" in logs and self._n_terms:
            logs = {**logs, **{name: float(value) / self._n_terms for name, value in self._terms.items()}}
            self._terms, self._n_terms = {}, 0
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._sampler is None else self._sampler

    def set_initial_training_values(self, args: Any, dataloader: Any, *batch_size: Any) -> Any:
        """Keeps the number of steps in an epoch for schedules. (The first 5.x releases give the batch size too.)"""
        values = super().set_initial_training_values(args, dataloader, *batch_size)
        self._steps_per_epoch = values[1]
        return values

    # Data and evaluation

    def _images(self, dataset: Any, args: Any, training: bool) -> Any:
        """Model inputs of images; a torch data set that gives them already is returned as it is."""
        return dataset

    def _eval_images(self, dataset: Any, args: Any) -> Any:
        """Model inputs of one or several data sets by name."""
        if isinstance(dataset, Mapping) and not isinstance(dataset, ImageSource):
            return {name: self._images(part, args, training=False) for name, part in dataset.items()}
        return self._images(dataset, args, training=False)

    def _chosen_images(self, eval_dataset: Any) -> Any:
        """What `evaluate` measures: the data given, those of the trainer by a name, or all of them."""
        known: Any = self.eval_dataset
        dataset = known if eval_dataset is None else eval_dataset
        return self._eval_images(known[dataset] if isinstance(dataset, str) else dataset, self.args)

    def _report(self, metrics: dict[str, float]) -> dict[str, float]:
        """Logs what was measured and tells the callbacks, as `transformers.Trainer.evaluate` does."""
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """All images, also those of an incomplete last batch."""
        with keeping_last_batch(self.args):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """All images, also those of an incomplete last batch."""
        with keeping_last_batch(self.args):
            return super().get_test_dataloader(self._images(test_dataset, self.args, training=False))

    # Checkpoints

    def _write_model(self, folder: Path, checkpoint: bool) -> None:
        """Writes the model to a folder; in a checkpoint also what a resumed run needs."""
        raise NotImplementedError

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Writes the model; in a checkpoint also the settings."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        self._write_model(folder, is_checkpoint(folder))
        if is_checkpoint(folder):
            settings = without_paths(json.loads(self.args.to_json_string()))
            (folder / "training_args.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint; one of the same step that is written over is incomplete meanwhile."""
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _load_adapter(self, checkpoint: str | Path) -> None:
        """Gives the adapter that is trained the weights of a folder."""
        learner: Any = self.model
        folder = Path(checkpoint)
        file = next(
            (
                path
                for path in (folder / learner.adapter_name / _ADAPTER_FILE, folder / _ADAPTER_FILE)
                if path.is_file()
            ),
            None,
        )
        if file is None:
            raise ClipAlignError(
                f"{str(checkpoint)!r} has no {_ADAPTER_FILE}: give a checkpoint of this kind of adapter, or another "
                "output_dir"
            )
        set_peft_model_state_dict(learner.model, load_file(file), adapter_name=learner.adapter_name)

    # Card and Hub

    @property
    def trained_model(self) -> Any:
        """What is saved: the model in the module that is trained."""
        return getattr(self.model, "model", self.model)

    def public_base(self, base_model: str | None) -> str | None:
        """The Hub id of an adapter's base model, for a push; None where it is not known."""
        return base_model

    def card_facts(self) -> dict[str, Any]:
        """What the card says beside the settings of every run: fields of `ModelCardInfo`."""
        return {}

    def create_model_card(
        self, *args: Any, results: Any = None, command: str | None = None, row: str | None = None, **kwargs: Any
    ) -> None:
        """Writes `README.md` beside the model; a push says again what was given last.

        Args:
            *args: ignored: those of `transformers.Trainer.create_model_card`.
            results (`ResultTable`, `ReportTable` or `Sequence[CardEvaluation]`, *optional*): the numbers to show.
            command (`str`, *optional*): what was run; it is masked, see `describe_run`.
            row (`str`, *optional*): the row of a `ResultTable` that is this model: its numbers go into the metadata.
                Defaults to the only row; of several none.
            **kwargs: ignored, as `args`; `evaluations` is another name of `results`.

        Raises:
            `ClipAlignError`: `results` has no such row.
        """
        results = kwargs.get("evaluations") if results is None else results
        if results is not None:
            self._results, self._row = results, row
        self._command = self._command if command is None else describe_run(command)
        if self.is_world_process_zero():
            self._write_card(Path(self.args.output_dir or "."))

    def _write_card(self, folder: Path) -> None:
        write_card(self, folder)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        repo_id: str | None = None,
        base_model: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Pushes the model, its processor and its card in one commit, and nothing else that lies in the output folder.

        Args:
            commit_message, token, revision, private: see `hf_clipalign.hub.push_folder`; by default as the settings
                say.
            blocking (`bool`, *optional*, defaults to `True`): return when all has arrived; False returns a future.
            repo_id (`str`, *optional*): `owner/name`. Defaults to `hub_model_id` of the settings.
            base_model (`str`, *optional*): Hub id of an adapter's base model. Defaults to where it was loaded from.
            **kwargs: passed to `hf_clipalign.hub.push_folder`.

        Raises:
            `ClipAlignError`: no name, or as `push_folder`.
        """
        if not self.is_world_process_zero():
            return None
        given = {
            "commit_message": commit_message,
            "token": token or self.args.hub_token,
            "revision": revision or self.args.hub_revision,
            "private": self.args.hub_private_repo if private is None else private,
        }
        return push_trained(self, repo_id, base_model, blocking, **{"overwrite_card": True, **given, **kwargs})

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads after a checkpoint as transformers does, but without the settings."""
        args = self.args
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done() and not args.hub_always_push:
            return
        message = f"Training in progress, step {self.state.global_step}"
        jobs: Any = [self.push_to_hub(message, blocking=False)]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            folder = Path(checkpoint_folder)
            place = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else folder.name
            jobs.append(push_checkpoint(self, folder, place, message))
        self.push_in_progress: Any = PushInProgress(jobs)


class _EpochsAndSteps(TrainerCallback):
    """Tells the trainer that an epoch begins, and that the weights have moved."""

    def __init__(self, trainer: AlignmentTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_epoch(int((state.epoch or 0) + _ROUNDING))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.after_step()


@contextmanager
def keeping_last_batch(args: TrainingArguments) -> Iterator[None]:
    """Data loaders made meanwhile keep an incomplete last batch."""
    drop_last, args.dataloader_drop_last = args.dataloader_drop_last, False
    try:
        yield
    finally:
        args.dataloader_drop_last = drop_last


def check_setup(args: TrainingArguments, processor: Any) -> None:
    """Refuses several GPUs in one process, and a missing processor."""
    check_one_gpu(args)
    if processor is None:
        raise ClipAlignError("processing_class is None: pass the model's processor, load_processor(checkpoint)")


def check_one_gpu(args: TrainingArguments) -> None:
    """Refuses several GPUs in one process."""
    if args.n_gpu > 1:
        raise ClipAlignError(
            f"one process cannot train on {args.n_gpu} GPUs: start one per GPU with accelerate launch, "
            "or show it one with CUDA_VISIBLE_DEVICES=0"
        )


def check_trainable(model: nn.Module) -> None:
    """Refuses an adapter of which nothing is trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ClipAlignError("nothing in the model is trainable: pass is_trainable=True to PeftModel.from_pretrained")


def check_one_batch(n_items: int, what: str, args: TrainingArguments, way_out: str = _WAYS_TO_A_BATCH) -> None:
    """Refuses training data that do not fill one batch of all processes, where an incomplete one is left out."""
    if args.dataloader_drop_last and n_items < args.train_batch_size * args.world_size:
        raise ClipAlignError(
            f"{n_items} {what} do not fill one batch of {args.train_batch_size} on {args.world_size} processes: "
            + way_out
        )
