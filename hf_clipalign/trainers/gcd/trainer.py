"""SpectralGCD (ICLR 2026, arXiv 2602.17395): learns known classes from labels and finds the others by itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from transformers.training_args import OptimizerNames

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.masking import public_name
from hf_clipalign.data import GCDSplit
from hf_clipalign.data.splits.gcd import check_class_count
from hf_clipalign.evaluation import collapse
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.gcd.explanation import ProfileSums
from hf_clipalign.gcd.similarities import finite_rows
from hf_clipalign.losses import spectral_gcd_losses, teacher_temperature
from hf_clipalign.metrics import cluster_balance, clustering_accuracy
from hf_clipalign.trainers.base import AlignmentTrainer, check_one_batch, check_setup
from hf_clipalign.trainers.gather import gather_rows, gather_views
from hf_clipalign.trainers.gcd.arguments import SpectralGCDTrainingArguments
from hf_clipalign.trainers.gcd.data import BalancedSampler, GCDImages
from hf_clipalign.trainers.gcd.optimization import cosine_by_epoch, parameter_groups
from hf_clipalign.trainers.gcd.teacher import TeacherConcepts, teacher_concepts
from hf_clipalign.trainers.images import PromptImages, collate
from hf_clipalign.trainers.teacher import Teacher

logger = logging.getLogger(__name__)

_LOGGED = {"largest": "largest_class", "empty": "empty_classes", "entropy": "class_entropy"}
_AGAINST_COLLAPSE = (
    "train with center_concepts=True, for more epochs or at a lower learning_rate, or look for fewer classes; and "
    "compare with k-means"
)
_OWN_IMAGES = (
    "evaluate() scores the unlabelled images of train_dataset, assign_classes() gives their classes, and "
    "gcd_model.predict(images) those of other images"
)


class SpectralGCDTrainer(AlignmentTrainer):
    """Trains a `SpectralGCDModel` on images of which some are labelled.

    All losses compare the images of the whole batch: with several processes the outputs are gathered first, so that
    W processes with batches of n do what one does with W · n. (Accumulation steps are batches of their own.) After
    training, the classes have the concept profiles that names and explanations need.

    Args:
        model (`SpectralGCDModel`): see `SpectralGCDModel.from_student`; float32 weights (`bf16=True` computes in
            bfloat16).
        args (`SpectralGCDTrainingArguments`): settings. Default: the published ones.
        train_dataset (`GCDSplit`): the images; its known classes must be those of the model.
        teacher (`str`, `Path`, `nn.Module`, `Teacher` or `TeacherConcepts`, *optional*): the bigger model, or its
            features of the images and the model's concepts, as the filter had them. Not needed with a
            `teacher_cache` of an earlier run, or with `distillation_weight=0`.
        teacher_processor (`ProcessorMixin`, *optional*): its processor. Default: the one of the checkpoint.
        **kwargs: passed to `transformers.Trainer` (`callbacks`, …).

    Raises:
        `ClipAlignError`: other known classes than the model's; more classes than images; too few images for a
            batch; nothing to distil from.

    Example:
        ```python
        >>> from hf_clipalign.data import GCDSplit
        >>> from hf_clipalign.gcd import SpectralGCDModel
        >>> from hf_clipalign.trainers import SpectralGCDTrainer, SpectralGCDTrainingArguments
        >>> split = GCDSplit.from_source("photos", known=["cat", "dog"])
        >>> names = mini.concepts.novel[:50]  # or those that `spectral_filter` keeps
        >>> gcd = SpectralGCDModel.from_student(model, names, split.class_names, n_novel=1, processor=processor)
        >>> settings = SpectralGCDTrainingArguments("runs/animals", max_steps=1, per_device_train_batch_size=8)
        >>> trainer = SpectralGCDTrainer(
        ...     gcd, settings, train_dataset=split, teacher=mini.teacher, teacher_processor=mini.teacher_processor
        ... )
        >>> trainer.train().global_step
        {...}
        1
        ```
    """

    args: SpectralGCDTrainingArguments
    _paper = "spectralgcd"
    _against_divergence = "Lower learning_rate and backbone_learning_rate, and train float32 weights."

    def __init__(
        self,
        model: SpectralGCDModel,
        args: SpectralGCDTrainingArguments | None = None,
        *,
        train_dataset: GCDSplit,
        teacher: Any = None,
        teacher_processor: Any = None,
        **kwargs: Any,
    ):
        if "eval_dataset" in kwargs:
            raise ClipAlignError(f"eval_dataset cannot be given: {_OWN_IMAGES}")
        args = args or SpectralGCDTrainingArguments(output_dir="spectral-gcd")
        _check_model(model)
        _check_split(model, train_dataset, args)
        processor = model.image_processor
        check_setup(args, processor)
        args.label_names = args.label_names or ["labels"]
        self.split = train_dataset
        self._teacher_concepts: TeacherConcepts | None = None
        if isinstance(teacher, TeacherConcepts):
            _check_teacher(teacher, model, train_dataset)
            self._teacher_concepts, teacher = teacher.to(args.device), None
        self.teacher = None if teacher is None else _as_teacher(teacher, teacher_processor)
        model.train_last_blocks(args.train_blocks)
        image_size = model.encoder.image_size
        images = GCDImages(train_dataset, processor, image_size, args.crop_share, args.flip, args.seed)
        self._plain_images = PromptImages(train_dataset.source, processor, image_size)
        self._sampler = BalancedSampler(train_dataset.labelled, args.seed)
        super().__init__(
            model,
            args,
            data_collator=kwargs.pop("data_collator", collate),
            train_dataset=images,
            eval_dataset=self._plain_images,
            processing_class=kwargs.pop("processing_class", processor),
            **kwargs,
        )
        self._epoch = 0
        self._class_counts: Tensor | None = None
        self.collapse: str | None = None
        self.warns_of_collapse = True

    @property
    def gcd_model(self) -> SpectralGCDModel:
        """The model that is trained."""
        return cast(SpectralGCDModel, self.accelerator.unwrap_model(self.model))

    # Training

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """All terms of SpectralGCD over the batch of all processes."""
        outputs = model(torch.cat([inputs["view_1"], inputs["view_2"]]))
        index = gather_rows(inputs["index"])
        logits = gather_views(outputs.logits)
        self._count_classes(logits)
        losses = spectral_gcd_losses(
            logits,
            gather_views(outputs.embeddings),
            gather_views(outputs.cross_modal),
            gather_rows(inputs["labels"]),
            self._teacher_rows(index),
            teacher_temperature=teacher_temperature(
                self._epoch,
                self.args.warmup_teacher_temperature,
                self.args.teacher_temperature,
                self.args.warmup_teacher_epochs,
            ),
            supervised_weight=self.args.supervised_weight,
            mean_entropy_weight=self.args.mean_entropy_weight,
            distillation_weight=self.args.distillation_weight,
            student_temperature=self.args.student_temperature,
            contrastive_temperature=self.args.contrastive_temperature,
            supervised_contrastive_temperature=self.args.supervised_contrastive_temperature,
        )
        self._keep_terms({name: value for name, value in losses.items() if name != "loss"})
        return (losses["loss"], outputs) if return_outputs else losses["loss"]

    def _count_classes(self, logits: Tensor) -> None:
        counts = torch.bincount(logits.detach().argmax(dim=-1), minlength=logits.shape[1])
        self._class_counts = counts if self._class_counts is None else self._class_counts + counts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds how evenly the views since the last log are spread over the classes; see `cluster_balance`."""
        if "loss" in logs and self._class_counts is not None:
            classes = np.repeat(np.arange(len(self._class_counts)), self._class_counts.cpu().numpy())
            balance = cluster_balance(classes, len(self._class_counts))
            logs = {**logs, **{_LOGGED[name]: balance[name] for name in _LOGGED}}
            self._class_counts = None
        super().log(logs, start_time)

    def _teacher_rows(self, index: Tensor) -> Tensor | None:
        if self.args.distillation_weight == 0:
            return None
        return self.teacher_concepts().cross_modal(index)

    def teacher_concepts(self) -> TeacherConcepts:
        """The teacher's features of all images and concepts, computed or read once."""
        if self._teacher_concepts is None:
            config = self.gcd_model.config
            home = None if self.teacher is None else self.teacher.encoder.device
            if self.teacher is not None:
                self.teacher.model.to(self.args.device)
            with self.args.main_process_first(desc="teacher features"):
                features = teacher_concepts(
                    self.teacher,
                    self.split.source,
                    config.concepts,
                    config.template,
                    config.concept_temperature,
                    self.args.teacher_cache,
                    progress=not self.args.disable_tqdm,
                )
            if self.teacher is not None:
                self.teacher.model.to(home)  # all its work is done
            self._teacher_concepts = features.to(self.args.device)
        return self._teacher_concepts

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, then describes the classes by their concepts. See `transformers.Trainer.train`.

        Afterwards `collapse` says what is wrong where nearly all images are in a few classes (else None), and a
        warning says what to do, unless `warns_of_collapse` is False; see `hf_clipalign.evaluation.collapse`.
        """
        output = super().train(*args, **kwargs)
        config = self.gcd_model.config
        rows = self.split.unlabelled_rows
        self.collapse = collapse(self.assign_classes(), rows, len(config.class_names), config.n_novel)
        if self.collapse is not None and self.warns_of_collapse and self.is_world_process_zero():
            warn_of_collapse(self.collapse)
        return output

    def _before_training(self) -> None:
        if self.args.distillation_weight != 0:
            self.teacher_concepts()
        if self.args.center_concepts and not bool(self.gcd_model.concept_means.any()):
            self._center_concepts()

    def begin_epoch(self, epoch: int) -> None:
        """Gives images, draws and the loss their epoch."""
        super().begin_epoch(epoch)
        self._epoch = epoch

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """Two groups of parameters with rates of their own; weight decay on all, as published."""
        if self.optimizer is None:
            args = self.args
            groups = parameter_groups(self.gcd_model, args.learning_rate, args.backbone_learning_rate)
            if args.optim == OptimizerNames.SGD:
                kind: Any = SGD
                settings: dict[str, Any] = {"momentum": args.momentum}
            else:
                kind, settings = self.get_optimizer_cls_and_kwargs(args, self.gcd_model)
            self.optimizer = kind(groups, **{**settings, "weight_decay": args.weight_decay})
        return cast(Optimizer, self.optimizer)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """A cosine from the rates to their floor, a step per epoch."""
        if self.lr_scheduler is None:
            epochs = math.ceil(num_training_steps / self._steps_per_epoch)
            optimizer = cast(Optimizer, optimizer or self.optimizer)
            self.lr_scheduler = cosine_by_epoch(optimizer, epochs, self._steps_per_epoch, self.args.rate_floor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # Evaluation

    @torch.no_grad()
    def assign_classes(self) -> np.ndarray:
        """Predicts the class of every image, and gives the model the concept profiles of its classes.

        Returns:
            `np.ndarray [N]` of int64, in the order of the source.
        """
        model = self.gcd_model
        sums = ProfileSums(model.config.n_classes, len(model.config.concepts), self.args.device)
        classes = []
        for found, cross_modal in self._plain_outputs():
            sums.add(cross_modal.softmax(dim=-1), found)
            classes.append(found.cpu())
        model.set_profiles(sums)
        return torch.cat(classes).numpy()

    @torch.no_grad()
    def _center_concepts(self) -> None:
        total = sum(cross_modal.double().sum(dim=0) for _, cross_modal in self._plain_outputs())
        self.gcd_model.concept_means.copy_(cast(Tensor, total) / len(self.split))

    def _plain_outputs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Classes and concept similarities of all plain images, batch by batch, gathered from all processes."""
        model = self.gcd_model
        was_training = model.training
        model.eval()
        for batch in self.get_eval_dataloader(self._plain_images):
            with self.compute_loss_context_manager():
                outputs = model(batch["pixel_values"].to(self.args.device, model.encoder.dtype))
            yield self.accelerator.gather_for_metrics((outputs.logits.argmax(-1), outputs.cross_modal))
        model.train(was_training)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Clustering accuracy of the unlabelled training images: all, those of known and of novel classes.

        Raises:
            `ClipAlignError`: the true classes are not known; other images are given.
        """
        if eval_dataset is not None and eval_dataset is not self.split:
            raise ClipAlignError(f"evaluate takes no other data: {_OWN_IMAGES}")
        if not self.split.has_truth:
            raise ClipAlignError(
                f"{self.split.source.name}: the true classes of the unlabelled images are not known, so there is no "
                "accuracy to measure; look at assign_classes() and model.class_labels()"
            )
        rows = self.split.unlabelled_rows
        scores = clustering_accuracy(self.split.labels[rows], self.assign_classes()[rows], self.split.known_mask[rows])
        return self._report({f"{metric_key_prefix}_{name}": float(scores[name]) for name in ("all", "old", "new")})

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Not there: `SpectralGCDModel.predict` takes images.

        Raises:
            `ClipAlignError`: always.
        """
        raise ClipAlignError(f"SpectralGCDTrainer has no predict: {_OWN_IMAGES}")

    # Checkpoints and card

    def _write_model(self, folder: Path, checkpoint: bool) -> None:
        self.gcd_model.save_pretrained(folder)
        cast(Any, self.processing_class).save_pretrained(folder)

    def card_facts(self) -> dict[str, Any]:
        """Classes and concepts."""
        config = self.gcd_model.config
        return {
            "kind": "gcd",
            "base_model": public_name(config.base_model_name_or_path) or None,
            "parameters": {
                "known classes": len(config.class_names),
                "novel classes": config.n_novel,
                "concepts": len(config.concepts),
                "prompt of the concepts": config.template,
                "learning rate of the image tower": self.args.backbone_learning_rate,
            },
        }


def warn_of_collapse(reason: str) -> None:
    """Logs what is wrong with classes that have collapsed, and what to do."""
    logger.warning("the classes have collapsed: %s; %s", reason, _AGAINST_COLLAPSE)


def _as_teacher(teacher: Any, processor: Any) -> Teacher:
    return teacher if isinstance(teacher, Teacher) else Teacher(teacher, processor)


def _check_teacher(features: TeacherConcepts, model: SpectralGCDModel, split: GCDSplit) -> None:
    found, wanted = (len(features.images), len(features.texts)), (len(split), len(model.config.concepts))
    if found != wanted:
        raise ClipAlignError(
            f"the teacher's features are of {found[0]} images and {found[1]} concepts, but there are {wanted[0]} "
            f"and {wanted[1]}: take those of the kept concepts, with TeacherConcepts.of_concepts"
        )
    finite_rows(features.images, "the teacher's image features")
    finite_rows(features.texts, "the teacher's concept features")


def _check_model(model: Any) -> None:
    if not isinstance(model, SpectralGCDModel):
        raise ClipAlignError(
            f"the model is a {type(model).__name__}: make a SpectralGCDModel of it, with SpectralGCDModel.from_student"
        )
    if model.encoder.flexible_images:
        raise ClipAlignError(
            f"{type(model.backbone).__name__} takes images of any shape as patches, but the views are square "
            "images: train a model with a fixed image size"
        )


def _check_split(model: SpectralGCDModel, split: Any, args: SpectralGCDTrainingArguments) -> None:
    if not isinstance(split, GCDSplit):
        raise ClipAlignError(f"train_dataset is a {type(split).__name__}: make a GCDSplit of it, with from_source")
    if split.class_names != model.config.class_names:
        raise ClipAlignError(
            f"{split.source.name}: the known classes are {split.class_names[:5]}…, but the model's are "
            f"{model.config.class_names[:5]}…: make the model with class_names=split.class_names"
        )
    check_class_count(split.source.name, model.config.n_classes, len(split))
    check_one_batch(len(split), "images", args, "lower per_device_train_batch_size")
