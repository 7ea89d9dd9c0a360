"""What can be set when known and novel classes are learned together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from transformers import SchedulerType

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import gcd_preset
from hf_clipalign.trainers.arguments import AlignmentTrainingArguments

_TEMPERATURES = ("student", "teacher", "warmup_teacher", "contrastive", "supervised_contrastive")
_NOT_NEGATIVE = (
    "learning_rate",
    "mean_entropy_weight",
    "distillation_weight",
    "warmup_teacher_epochs",
    "train_blocks",
    "backbone_learning_rate",
)


@dataclass
class SpectralGCDTrainingArguments(AlignmentTrainingArguments):
    """Settings of `SpectralGCDTrainer`: those of `AlignmentTrainingArguments`, and the ones below.

    The defaults are the published settings (for CUB; `preset` gives those of the other data sets). Set differently
    from transformers: SGD with momentum 0.9 and weight decay 5e-5 on every trained parameter, no gradient clipping,
    no incomplete last batch, a checkpoint after every epoch (the last two are kept), a cosine by epochs.

    Args:
        crop_share (`float`, *optional*, defaults to `0.875`): side of the random square crop as a share of the
            image's shorter side; 1 keeps all of a square image, for icons that fill their images.
        flip (`bool`, *optional*, defaults to `True`): mirror half of the views.
        teacher_cache (`str`, *optional*): safetensors file of the teacher's features, made if it does not exist. A
            file of another teacher, other images or other concepts is an error.
        center_concepts (`bool`): subtract from the head's input the mean that the untrained student has over all plain
            images. Default False, as published. Cosines of a CLIP with its concepts are nearly the same for all
            images; without their mean, the head learns in far fewer steps.
        train_blocks (`int`, *optional*, defaults to `1`): last blocks of the image tower that are trained.
        learning_rate (`float`, *optional*, defaults to `0.1`): rate of the head.
        backbone_learning_rate (`float`, *optional*, defaults to `0.005`): rate of the image tower's blocks.
        rate_floor (`float`, *optional*, defaults to `1e-3`): the cosine ends at this share of the rates.
        num_train_epochs (`float`, *optional*, defaults to `200`): passes over the images.
        per_device_train_batch_size (`int`, *optional*, defaults to `128`): images (two views each) per process.
        supervised_weight (`float`, *optional*, defaults to `0.35`): λ, the share of the supervised terms.
        mean_entropy_weight (`float`, *optional*, defaults to `2`): ε, the weight of the mean-entropy term.
        distillation_weight (`float`, *optional*, defaults to `1`): weight of the distances to the teacher; 0 needs
            no teacher.
        student_temperature (`float`, *optional*, defaults to `0.1`): of the class cosines.
        teacher_temperature (`float`, *optional*, defaults to `0.04`): of the self-distillation's targets.
        warmup_teacher_temperature (`float`, *optional*, defaults to `0.07`): the same in the first epoch.
        warmup_teacher_epochs (`int`, *optional*, defaults to `30`): epochs on the way from one to the other.
        contrastive_temperature (`float`, *optional*, defaults to `1`): of InfoNCE, as the reference has it.
        supervised_contrastive_temperature (`float`, *optional*, defaults to `0.07`): of SupCon.

    Example:
        ```python
        >>> from hf_clipalign.trainers import SpectralGCDTrainingArguments
        >>> SpectralGCDTrainingArguments("runs/animals", num_train_epochs=20).mean_entropy_weight
        2.0
        ```
    """

    # data
    crop_share: float = field(
        default=0.875, metadata={"help": "Side of the random crop as a share of the image's shorter side."}
    )
    flip: bool = field(default=True, metadata={"help": "Mirror half of the views."})
    teacher_cache: str | None = field(
        default=None, metadata={"help": "Safetensors file where the teacher's features are kept between runs."}
    )

    # model
    train_blocks: int = field(default=1, metadata={"help": "Last blocks of the image tower that are trained."})

    center_concepts: bool = field(
        default=False, metadata={"help": "Subtract the mean similarities of all images from the head's input."}
    )

    # training
    learning_rate: float = field(default=0.1, metadata={"help": "Learning rate of the head."})
    backbone_learning_rate: float = field(
        default=0.005, metadata={"help": "Learning rate of the image tower's last blocks."}
    )
    rate_floor: float = field(default=1e-3, metadata={"help": "Share of the rates that the cosine ends at."})
    num_train_epochs: float = field(default=200, metadata={"help": "Epochs: as many draws as there are images."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images per process and step."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Images per process in evaluation."})
    optim: str = field(default="sgd", metadata={"help": "Optimizer; the paper uses sgd."})
    momentum: float = field(default=0.9, metadata={"help": "Momentum of sgd; other optimizers ignore it."})
    weight_decay: float = field(default=5e-5, metadata={"help": "L2 term on every trained parameter, biases too."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 is none, as published."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every trained parameter takes part in every step."}
    )

    # loss
    supervised_weight: float = field(default=0.35, metadata={"help": "Share of the supervised terms (lambda)."})
    mean_entropy_weight: float = field(default=2.0, metadata={"help": "Weight of the mean-entropy term (epsilon)."})
    distillation_weight: float = field(
        default=1.0, metadata={"help": "Weight of the distances to the teacher; 0 goes without one."}
    )
    student_temperature: float = field(default=0.1, metadata={"help": "Temperature of the class cosines."})
    teacher_temperature: float = field(default=0.04, metadata={"help": "Of the self-distillation's targets."})
    warmup_teacher_temperature: float = field(default=0.07, metadata={"help": "The same in the first epoch."})
    warmup_teacher_epochs: int = field(default=30, metadata={"help": "Epochs on the way between the two."})
    contrastive_temperature: float = field(default=1.0, metadata={"help": "Temperature of InfoNCE."})
    supervised_contrastive_temperature: float = field(default=0.07, metadata={"help": "Temperature of SupCon."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataloader_drop_last:
            raise ClipAlignError("dataloader_drop_last must be True: the losses compare all images of a full batch")
        if self.lr_scheduler_type != SchedulerType.LINEAR or self.warmup_steps:
            raise ClipAlignError(
                "lr_scheduler_type and warmup_steps do nothing: the rates follow a cosine by epochs, leave them out"
            )
        if not 0 < self.crop_share <= 1:
            raise ClipAlignError(f"crop_share is {self.crop_share}: give a share above 0 and up to 1")
        if not 0 <= self.supervised_weight <= 1:
            raise ClipAlignError(f"supervised_weight is {self.supervised_weight}: give a share from 0 to 1")
        for name in (f"{kind}_temperature" for kind in _TEMPERATURES):
            if not 0 < getattr(self, name) < math.inf:
                raise ClipAlignError(f"{name} is {getattr(self, name)}: give a finite number above 0")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ClipAlignError(f"{name} is {getattr(self, name)}: give a finite number, 0 or more")
        if not 0 <= self.rate_floor <= 1:
            raise ClipAlignError(f"rate_floor is {self.rate_floor}: give a share from 0 to 1")
        if not 0 <= self.momentum < 1:
            raise ClipAlignError(f"momentum is {self.momentum}: give a number from 0 to below 1")

    @classmethod
    def preset(cls, dataset: str, **overrides: Any) -> SpectralGCDTrainingArguments:
        """The published settings for a data set.

        Args:
            dataset (`str`): a key of `hf_clipalign.data.GCD_PRESETS`, in any spelling.
            **overrides: fields to set otherwise, and those without a published value (`output_dir`, …).

        Raises:
            `ClipAlignError`: an unknown data set.

        Example:
            ```python
            >>> SpectralGCDTrainingArguments.preset("cifar100", output_dir="runs/cifar").mean_entropy_weight
            4.0
            ```
        """
        return cls(**{"mean_entropy_weight": gcd_preset(dataset).mean_entropy_weight, **overrides})
