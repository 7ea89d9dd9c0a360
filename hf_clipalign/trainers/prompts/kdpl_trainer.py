"""KDPL (ECCV 2024, arXiv 2407.03056): learns prompts from a bigger model's opinion, without labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import fill
from hf_clipalign.data.texts.dictionary import check_names, load_dictionary
from hf_clipalign.losses import kdpl_loss, top_classes
from hf_clipalign.trainers.cards import shown_model
from hf_clipalign.trainers.images import PromptImages
from hf_clipalign.trainers.prompts.arguments import PromptLearningTrainingArguments
from hf_clipalign.trainers.prompts.kdpl_arguments import KDPLTrainingArguments
from hf_clipalign.trainers.prompts.templates import read_templates
from hf_clipalign.trainers.prompts.trainer import PromptLearningTrainer
from hf_clipalign.trainers.teacher import Teacher

logger = logging.getLogger(__name__)

_AGNOSTIC_TEMPLATE = "a photo of a {}."


class KDPLTrainer(PromptLearningTrainer):
    """Trains a prompt adapter with the symmetric Kullback-Leibler distance to a frozen, bigger model.

    No label is read. Class-aware, both models judge among the class names; class-agnostic, among the `k_max` concepts
    of a dictionary that the teacher finds most probable in the batch: the batch of all processes and accumulation
    steps, so that results do not depend on how it is spread.

    Args:
        model (`PeftModel`): see `PromptLearningTrainer`.
        args (`KDPLTrainingArguments`, *optional*): settings. Default: CoOp's published ones.
        teacher (`str`, `Path`, `nn.Module` or `Teacher`): the bigger model; each tokenises with its own tokenizer.
        teacher_processor (`ProcessorMixin`, *optional*): its processor. Default: the one of the checkpoint.
        dictionary (`Sequence[str]`, *optional*): concepts for `class_agnostic`, instead of `args.dictionary`.
        **kwargs: `processing_class`, `train_dataset`, `eval_dataset` and `class_names` of `PromptLearningTrainer`
            (labels of `train_dataset` are ignored, and with `class_agnostic` the class names too), and the arguments
            of `transformers.Trainer`.

    Raises:
        `ClipAlignError`: no class names and not class-agnostic; `k_max` above the dictionary; what
            `PromptLearningTrainer` refuses, labels apart.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.trainers import KDPLTrainer, KDPLTrainingArguments
        >>> from hf_clipalign.tuners import CoOpConfig
        >>> trainer = KDPLTrainer(
        ...     get_peft_model(load_mini().student, CoOpConfig(ctx_init="a photo of a")),
        ...     KDPLTrainingArguments("runs/kdpl", max_steps=1, per_device_train_batch_size=24),
        ...     processing_class=processor,
        ...     train_dataset=images,
        ...     teacher=mini.teacher,
        ...     teacher_processor=mini.teacher_processor,
        ... )
        >>> trainer.train().global_step
        {...}
        1
        ```
    """

    args: KDPLTrainingArguments
    _paper = "kdpl"
    learns_from_labels = False

    def __init__(
        self,
        model: Any,
        args: KDPLTrainingArguments | None = None,
        *,
        teacher: Any,
        teacher_processor: Any = None,
        dictionary: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        args = args or self.default_arguments()
        if args.label_smoothing_factor:
            raise ClipAlignError("label_smoothing_factor is for labels, which KDPL does not read: leave it at 0")
        self._dictionary = dictionary
        if not isinstance(teacher, Teacher):
            teacher = Teacher(teacher, teacher_processor, args.cache_dir)
        self.teacher = teacher
        self._teacher_text: Tensor | None = None
        self._teacher_images: Tensor | None = None
        self._cache_images = bool(args.cache_image_features)
        super().__init__(model, args, **kwargs)
        self.teacher.encoder.model.to(self.args.device)
        _warn_if_small(self.teacher, self.learner.encoder.model)

    @staticmethod
    def default_arguments() -> KDPLTrainingArguments:
        """Settings when none are given."""
        return KDPLTrainingArguments(output_dir="kdpl")

    def _training_class_names(
        self, images: Any, class_names: Sequence[str] | None, args: PromptLearningTrainingArguments
    ) -> Sequence[str]:
        assert isinstance(args, KDPLTrainingArguments)
        if not args.class_agnostic:
            if self._dictionary is not None:
                raise ClipAlignError(
                    "a dictionary was given, but class_agnostic is False: set it, or drop the dictionary"
                )
            return super()._training_class_names(images, class_names, args)
        names = self._dictionary if self._dictionary is not None else load_dictionary(args.dictionary)
        names = check_names(names, "dictionary")
        if args.k_max > len(names):
            raise ClipAlignError(f"k_max is {args.k_max}, but the dictionary has {len(names)} concepts: lower k_max")
        return names

    def _teacher_inputs(self, training: bool) -> dict[str, Any]:
        if not training:
            return {}
        return {"teacher_processor": self.teacher.processor, "teacher_image_size": self.teacher.encoder.image_size}

    @property
    def teacher_template(self) -> str:
        """The teacher's prompt with one `{}`, or the file that holds several."""
        default = None if self.args.class_agnostic else self.args.template
        return self.args.teacher_template or default or _AGNOSTIC_TEMPLATE

    @property
    def teacher_prompts(self) -> list[str]:
        """The teacher's prompts of every training class, those of each template together."""
        return [prompt for template in self._teacher_templates for prompt in fill(template, self.class_names)]

    @property
    def _teacher_templates(self) -> list[str]:
        return read_templates(self.teacher_template, "teacher_template")

    def teacher_text_features(self) -> Tensor:
        """The teacher's unit text features of the training classes, `[C, d]`, computed once and after loading."""
        if self._teacher_text is None:
            text = self.teacher.class_features(self.class_names, self._teacher_templates)
            self._teacher_text = text.to(self.args.device)
        return self._teacher_text

    def _before_training(self) -> None:
        """Takes the teacher's features that can be kept."""
        self.teacher_text_features()
        self._keep_teacher_images()

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Takes the micro-batches of one step and adds the teacher's logits, for classes chosen over all of them."""
        batches, n_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            self._teach(batches)
        return batches, n_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The symmetric Kullback-Leibler distance to the teacher."""
        if "teacher_logits" not in inputs:
            self._teach([inputs])
        outputs = model(
            inputs["pixel_values"], class_indices=inputs.get("class_indices"), with_frozen=self._regularised
        )
        losses = kdpl_loss(outputs["logits"], inputs["teacher_logits"])
        return self._finish_loss(losses, outputs, inputs, return_outputs)

    def _frozen_templates(self) -> Sequence[str]:
        agnostic = self.args.class_agnostic and self.args.frozen_templates is None
        return [_AGNOSTIC_TEMPLATE] if agnostic else super()._frozen_templates()

    def card_facts(self) -> dict[str, Any]:
        """The teacher, and the dictionary where class names are unknown."""
        facts, name = super().card_facts(), shown_model(self.teacher.model)
        unknown = ", class names unknown" if self.args.class_agnostic else ""
        if self.args.class_agnostic:
            facts["parameters"]["classes"] += f" concepts of a dictionary, {self.args.k_max:,} kept per step"
        size = f"{self.teacher.n_parameters / 1e6:.1f} M parameters"
        several = len(self._teacher_templates)
        prompt = f"mean of {several} prompts" if several > 1 else f'prompt "{self._teacher_templates[0]}"'
        facts["parameters"]["teacher"] = f"{name}, {size}, {prompt}"
        return {**facts, "description": f"The prompt was distilled without labels from `{name}` (KDPL{unknown})."}

    @torch.no_grad()
    def _teach(self, batches: list[dict[str, Any]]) -> None:
        """Adds `teacher_logits [N, K]` to every batch, and `class_indices [K]` where classes are chosen."""
        scale = self.learner.encoder.logit_scale.detach().float()
        text = self.teacher_text_features()
        for batch in batches:
            batch["teacher_logits"] = scale * self._teacher_image_features(batch) @ text.T
        if self.args.class_agnostic and self.args.k_max < len(text):
            kept = top_classes(
                self._mean_probabilities([batch["teacher_logits"] for batch in batches]), self.args.k_max
            )
            for batch in batches:
                batch["teacher_logits"] = batch["teacher_logits"][:, kept]
                batch["class_indices"] = kept

    def _mean_probabilities(self, logits: list[Tensor]) -> Tensor:
        """Softmax over all classes, averaged over the images of all micro-batches and processes, `[C]`."""
        totals = torch.stack([part.double().softmax(dim=-1).sum(dim=0) for part in logits]).sum(dim=0)
        count = totals.new_tensor([sum(len(part) for part in logits)])
        totals, count = self.accelerator.reduce(torch.cat([totals, count]), reduction="sum").split([len(totals), 1])
        return totals / count

    def _teacher_image_features(self, batch: dict[str, Any]) -> Tensor:
        if self._teacher_images is not None:
            return self._teacher_images[batch["index"].to(self._teacher_images.device)]
        if "teacher_pixel_values" not in batch:
            raise ClipAlignError("the training data gives no teacher_pixel_values: pass images, or add them")
        with self.compute_loss_context_manager():
            return self.teacher.image_features(batch.pop("teacher_pixel_values").to(self.args.device))

    def _keep_teacher_images(self) -> None:
        """Takes the teacher's image features of the whole data set, and leaves its images out from then on."""
        images = self.train_dataset
        if not self._cache_images or self._teacher_images is not None or not isinstance(images, PromptImages):
            return
        features = self.teacher.source_features(images, images.source, self.args.dataloader_num_workers)
        self._teacher_images = features.to(self.args.device)
        images.sides = images.sides[:1]


def _warn_if_small(teacher: Teacher, student: nn.Module) -> None:
    n_student = sum(p.numel() for p in student.parameters() if not p.requires_grad)
    if teacher.n_parameters <= n_student:
        logger.warning(
            "the teacher (%.1f M parameters) is not bigger than the student (%.1f M): "
            "distillation helps where the teacher is better",
            teacher.n_parameters / 1e6,
            n_student / 1e6,
        )
