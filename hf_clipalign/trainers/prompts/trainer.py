"""Learns prompts from labelled images; the base of the trainers that learn them otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer
from transformers.training_args import OptimizerNames

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import IMAGENET_TEMPLATES, ImageSource, from_dataset
from hf_clipalign.evaluation import Verdict
from hf_clipalign.losses.promptsrc import gaussian_prompt_weights, promptsrc_losses
from hf_clipalign.metrics import top_k_accuracy
from hf_clipalign.papers import PAPERS, paper
from hf_clipalign.trainers.base import AlignmentTrainer, check_one_batch, check_setup
from hf_clipalign.trainers.cards import shown_model
from hf_clipalign.trainers.images import PromptImages, collate, drop_unreadable, holds_images
from hf_clipalign.trainers.prompts.arguments import PromptLearningTrainingArguments
from hf_clipalign.trainers.prompts.average import PromptAverage
from hf_clipalign.trainers.prompts.learner import TRAIN, PromptLearner
from hf_clipalign.trainers.prompts.learning_rate import published_rates, published_scheduler
from hf_clipalign.trainers.prompts.templates import read_templates
from hf_clipalign.trainers.prompts.verdict import adapter_verdict
from hf_clipalign.tuners import has_text_prompts

_LIMIT = "Prompts must begin with the words of the template: learned context takes the place of its first tokens."


class PromptLearningTrainer(AlignmentTrainer):
    """Trains a prompt adapter with cross-entropy on labelled images.

    Args:
        model (`PeftModel`): a CLIP with an adapter of this package, for example `get_peft_model(clip, CoOpConfig())`.
        args (`PromptLearningTrainingArguments`): settings. Default: CoOp's published ones.
        processing_class (`ProcessorMixin`): the student's processor (tokenizer and images).
        train_dataset (`ImageSource`, `datasets.Dataset` or `torch.utils.data.Dataset`): images. A torch data set
            gives dicts with `pixel_values` (and `labels`, and `teacher_pixel_values` where a teacher needs them).
        eval_dataset (the same, or a dict of them): labelled images; each is classified among its own class names.
        class_names (`Sequence[str]`, *optional*): names that the labels stand for. Default: those of `train_dataset`.
        **kwargs: passed to `transformers.Trainer` (`callbacks`, `compute_metrics`, `optimizers`, …).

    Raises:
        `ClipAlignError`: no labels, no class names, duplicates, a prompt that is too long, too few images.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.trainers import PromptLearningTrainer, PromptLearningTrainingArguments
        >>> from hf_clipalign.tuners import CoOpConfig
        >>> trainer = PromptLearningTrainer(
        ...     get_peft_model(load_mini().student, CoOpConfig(ctx_init="a photo of a")),
        ...     PromptLearningTrainingArguments("runs/coop", max_steps=1, per_device_train_batch_size=24),
        ...     processing_class=processor,
        ...     train_dataset=images,
        ... )
        >>> trainer.train().global_step
        {...}
        1
        ```
    """

    args: PromptLearningTrainingArguments
    _tag_names = ("prompt-learning",)
    learns_from_labels = True

    def __init__(
        self,
        model: Any,
        args: PromptLearningTrainingArguments | None = None,
        *,
        processing_class: Any,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        args = args or self.default_arguments()
        check_setup(args, processing_class)
        args.label_names = args.label_names or ["labels"]
        learner = PromptLearner(model, processing_class, args.template)
        self._processing_class = processing_class
        self._image_side = learner.encoder.image_size
        self._class_sets: dict[tuple[str, ...], str] = {}
        train_images = self._images(train_dataset, args, training=True)
        names = self._training_class_names(train_images, class_names, args)
        learner.set_classes(TRAIN, names)
        self._class_sets[tuple(names)] = TRAIN
        self._class_set = TRAIN
        if train_images is not None:
            _check_training_images(train_images, args, len(names), self.learns_from_labels)
        if "optimizer_cls_and_kwargs" not in kwargs and args.optim == OptimizerNames.SGD:
            sgd = {"lr": args.learning_rate, "momentum": args.momentum, "weight_decay": args.weight_decay}
            kwargs["optimizer_cls_and_kwargs"] = (SGD, sgd)
        super().__init__(
            learner,
            args,
            data_collator=kwargs.pop("data_collator", collate),
            train_dataset=train_images,
            eval_dataset=self._eval_images(eval_dataset, args),
            processing_class=processing_class,
            compute_metrics=kwargs.pop("compute_metrics", accuracy_metric),
            **kwargs,
        )
        self.class_names = list(names)
        self.average = self._prompt_average()

    @staticmethod
    def default_arguments() -> PromptLearningTrainingArguments:
        """Settings when none are given."""
        return PromptLearningTrainingArguments(output_dir="prompt-learning")

    @property
    def learner(self) -> PromptLearner:
        """The module that is trained."""
        return cast(PromptLearner, self.model)

    @property
    def peft_model(self) -> Any:
        """The adapter on its base model."""
        return self.learner.model

    # Data

    def _images(self, dataset: Any, args: PromptLearningTrainingArguments, training: bool) -> Any:
        """Model inputs of images; a torch data set that gives them already is returned as it is."""
        if not holds_images(dataset, "pixel_values"):
            return dataset
        source = dataset if isinstance(dataset, ImageSource) else from_dataset(dataset)
        return PromptImages(
            drop_unreadable(source) if args.skip_unreadable else source,
            self._processing_class,
            self._image_side,
            augment=args.augment and training,
            crop_scale=args.crop_scale,
            seed=args.seed,
            **(self._teacher_inputs(training)),
        )

    def _teacher_inputs(self, training: bool) -> dict[str, Any]:
        return {}

    def _training_class_names(
        self, images: Any, class_names: Sequence[str] | None, args: PromptLearningTrainingArguments
    ) -> Sequence[str]:
        names = class_names if class_names is not None else getattr(images, "class_names", None)
        if names is None:
            raise ClipAlignError(
                "there are no class names: pass class_names, or a data set that has them"
                + ("" if self.learns_from_labels else "; where they are unknown, set class_agnostic=True")
            )
        return names

    # Training

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Cross-entropy of the logits over the training classes."""
        outputs = model(inputs["pixel_values"], with_frozen=self._regularised)
        smoothing = self.args.label_smoothing_factor
        losses = {"loss": F.cross_entropy(outputs["logits"], inputs["labels"], label_smoothing=smoothing)}
        return self._finish_loss(losses, outputs, inputs, return_outputs)

    @property
    def _regularised(self) -> bool:
        return self.learner.method == "clip_promptsrc"

    def _finish_loss(
        self, losses: dict[str, Tensor], outputs: dict[str, Tensor], inputs: dict[str, Any], return_outputs: bool
    ) -> Any:
        """Adds PromptSRC's regulariser where it belongs, and keeps the terms for the log."""
        if self._regularised:
            terms = self._regulariser(outputs, inputs.get("class_indices"))
            losses = {**losses, **terms, "loss": losses["loss"] + sum(terms.values())}
        self._keep_terms({name: value for name, value in losses.items() if name != "loss"})
        return (losses["loss"], outputs) if return_outputs else losses["loss"]

    def _regulariser(self, outputs: dict[str, Tensor], class_indices: Tensor | None) -> dict[str, Tensor]:
        """Weighted distances of text features, image features and logits to those without prompts."""
        frozen_text = self._frozen_text if class_indices is None else self._frozen_text[class_indices]
        frozen_image = outputs["frozen_image_embeds"]
        terms = promptsrc_losses(
            outputs["text_embeds"],
            frozen_text,
            outputs["image_embeds"],
            frozen_image,
            outputs["logits"],
            self.learner.scaled(frozen_image, frozen_text),
            self.args.text_weight,
            self.args.image_weight,
        )
        return {f"{name}_distance": terms[name] for name in ("text", "image", "logits")}

    @cached_property
    def _frozen_text(self) -> Tensor:
        return self.learner.frozen_text_embeds(self.class_names, self._frozen_templates()).to(self.args.device)

    def _frozen_templates(self) -> Sequence[str]:
        if self.args.frozen_templates is None:
            return IMAGENET_TEMPLATES
        return read_templates(self.args.frozen_templates)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight decay is on every prompt parameter, as published."""
        return [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The published learning rates by epoch, or transformers' own scheduler."""
        if self.lr_scheduler is None and self.args.published_schedule:
            steps = self._steps_per_epoch
            rates = published_rates(
                self.args.learning_rate,
                math.ceil(num_training_steps / steps),
                self.args.warmup_epochs,
                self.args.warmup_rate,
            )
            self.lr_scheduler = published_scheduler(cast(Optimizer, optimizer or self.optimizer), rates, steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains; with Gaussian averaging, the model then holds the average. See `transformers.Trainer.train`."""
        output = super().train(*args, **kwargs)
        if self.average is not None:
            self.average.apply()
        return output

    def _prompt_average(self) -> PromptAverage | None:
        if self.args.gaussian_mean is None or self.args.gaussian_std is None:
            return None
        if self.args.load_best_model_at_end:
            raise ClipAlignError("Gaussian averaging and load_best_model_at_end exclude each other: choose one")
        epochs = math.ceil(self.args.num_train_epochs)
        weights = gaussian_prompt_weights(epochs, self.args.gaussian_mean, self.args.gaussian_std)
        average = PromptAverage(self.learner, weights.tolist())
        self.add_callback(average)
        return average

    # Evaluation

    def accuracy(self, dataset: Any, class_names: Sequence[str] | None = None) -> float:
        """Share of labelled images that are classified right.

        Args:
            dataset (`ImageSource` or `datasets.Dataset`): the images.
            class_names (`Sequence[str]`, *optional*): the classes to choose from. Default: those of the data set.

        Returns:
            `float`: in [0, 1].

        Raises:
            `ClipAlignError`: the images have no labels.
        """
        images = self._images(dataset, self.args, training=False)
        if isinstance(images, PromptImages) and not images.has_labels:
            raise ClipAlignError(f"{images.source.name}: no labels, so there is no accuracy to measure")
        with self._classes_of(images, class_names):
            return accuracy_metric(self.predict(images))["accuracy"]

    def verdict(
        self, dataset: Any, class_names: Sequence[str] | None = None, template: str | Sequence[str] | None = None
    ) -> Verdict:
        """Whether the adapter is better than the plain student on held-out images; `str` gives one sentence.

        Args:
            dataset (`ImageSource` or `datasets.Dataset`): images that were not trained on. Without labels, what counts
                is agreement with the teacher, and the sentence says so.
            class_names (`Sequence[str]`, *optional*): the classes to choose from. Default: those of the data set, else
                those of training.
            template (`str` or `Sequence[str]`, *optional*): the plain student's prompt. Default: `template` of the
                settings, else the words that the context started from.

        Returns:
            `Verdict`: the difference with its paired bootstrap interval.

        Raises:
            `ClipAlignError`: neither labels nor a teacher.
        """
        source = dataset if isinstance(dataset, ImageSource) else from_dataset(dataset)
        return adapter_verdict(self, source, class_names, template)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Accuracy and cross-entropy, every data set among its own classes. See `transformers.Trainer.evaluate`."""
        dataset = self._chosen_images(eval_dataset)
        if isinstance(dataset, Mapping):
            return super().evaluate(dict(dataset), ignore_keys, metric_key_prefix)
        with self._classes_of(dataset):
            return super().evaluate(dataset, ignore_keys, metric_key_prefix)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Logits among the classes at hand, and the cross-entropy where there are labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(inputs["pixel_values"], class_set=self._class_set)["logits"]
        labels = inputs.get("labels")
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return loss, None if prediction_loss_only else logits, labels

    def _classes_of(self, images: Any, class_names: Sequence[str] | None = None) -> Any:
        names = class_names if class_names is not None else getattr(images, "class_names", None) or self.class_names
        key = tuple(names)
        if key not in self._class_sets:
            self._class_sets[key] = f"classes {len(self._class_sets)}"
            self.learner.set_classes(self._class_sets[key], names)
        return _Classes(self, self._class_sets[key])

    # Checkpoints and card

    def card_facts(self) -> dict[str, Any]:
        """The method of the adapter, the classes and their prompt."""
        method = self.learner.method.removeprefix("clip_")
        own, also = [method] if method in PAPERS else [], [] if self._paper is None else [self._paper]
        methods = " + ".join([*([] if own else [method.upper()]), *(paper(key).method for key in (*own, *also))])
        return {
            "name": f"{methods} prompt for {shown_model(self.learner.encoder.model).rsplit('/', 1)[-1]}",
            "base_model": shown_model(self.learner.encoder.model),
            "method": next(iter([*own, *also]), None),
            "also_cites": also if own else [],
            "description": "The prompt was learned from labelled images.",
            "parameters": {"classes": f"{len(self.class_names):,}", "prompt template": self.learner.template},
            "template": self.learner.template,
            "needs_package": bool(own),
            "limits": [_LIMIT] if has_text_prompts(self.peft_model) else [],
        }

    def _write_model(self, folder: Path, checkpoint: bool) -> None:
        """The adapter; in a checkpoint also the average so far, elsewhere the processor."""
        self.learner.save_pretrained(str(folder))
        if not checkpoint:
            self._processing_class.save_pretrained(folder)
        elif self.average is not None:
            self.average.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._load_adapter(resume_from_checkpoint)
        if self.average is not None:
            self.average.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_adapter(str(self.state.best_model_checkpoint))


class _Classes:
    """Evaluation among the classes of one set."""

    def __init__(self, trainer: PromptLearningTrainer, class_set: str):
        self.trainer = trainer
        self.class_set = class_set

    def __enter__(self) -> None:
        self.before = self.trainer._class_set
        self.trainer._class_set = self.class_set
        self.fixed = self.trainer.learner.fixed_text(self.class_set)
        self.fixed.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.fixed.__exit__(None, None, None)
        self.trainer._class_set = self.before


def accuracy_metric(prediction: Any) -> dict[str, float]:
    """Share of images whose highest logit is the right class, ties counted as in `top_k_accuracy`."""
    return {"accuracy": top_k_accuracy(prediction.predictions, prediction.label_ids, ks=(1,))["top1"]}


def _check_training_images(
    images: Any, args: PromptLearningTrainingArguments, n_classes: int, needs_labels: bool
) -> None:
    check_one_batch(len(images), "images", args)
    if not needs_labels or not isinstance(images, PromptImages):
        return
    if not images.has_labels:
        raise ClipAlignError(
            f"{images.source.name}: the images have no labels. Label them, or learn from a teacher: KDPLTrainer"
        )
    labels = np.asarray(images.source.labels)
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ClipAlignError(
            f"{images.source.name}: labels go from {labels.min()} to {labels.max()}, "
            f"but there are {n_classes} class names"
        )
